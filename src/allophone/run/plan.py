"""What a run would do, how long it would take and how much disk and memory it needs, from a probe of a few steps.

The probe uses random audio of the run's batch size on the run's own model, so it needs no corpus in memory and leaves
nothing on disk. Times are of this machine as busy as it is now.
"""

from __future__ import annotations

import copy
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from allophone.batch import Labels, SpeechBatch
from allophone.frames import FrameClock, seconds_to_samples
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.methods.two_rate_prediction import prediction
from allophone.models.build import Encoder, build_encoder
from allophone.models.cost import flop_per_hour, frame_milliseconds
from allophone.nn.clustering import assign
from allophone.run.base import Base
from allophone.run.config import RunConfig
from allophone.run.duration import duration
from allophone.run.execute import fit_threads
from allophone.run.expansion_config import ExpandConfig, run_config
from allophone.run.tuning import Trained, TuneConfig, build_method, fresh_embedder
from allophone.seeding import torch_generator
from allophone.train.precision import use_bf16
from allophone.units.extract import FrameExtractor

PROBE_SECONDS = 10.0
COMPARED_SECONDS = 5.0
"""Clip that frame rates are compared on; short, because each is timed."""
BACKWARD = 3.0
"""Forward and backward pass over the forward pass alone."""
BYTES_PER_PARAMETER = 12
"""Of a checkpoint in training: weights and two moments of Adam in float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One part of the work."""

    name: str
    work: str
    """In numbers: steps, hours, passes."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What training on an hour of audio takes, once through; ``str`` of it is a line for people."""

    name: str
    milliseconds: tuple[float, ...]
    """Between two frames, for each rate of the encoder."""
    parameters: int
    """Of encoder and heads."""
    forward_flop: float
    """Of the encoder's forward pass over the hour; a training step takes :data:`BACKWARD` times as many."""
    clip_seconds: float
    """Length of the clips that the hour comes in."""
    seconds: float
    """Forward and backward, on this machine."""

    def __str__(self) -> str:
        rates = "+".join(f"{one:g}" for one in self.milliseconds) + " ms"
        forward, both = self.forward_flop / 1e12, BACKWARD * self.forward_flop / 1e12
        return (
            f"  {self.name:<20} {rates:>8} {self.parameters / 1e6:>7.1f} M {forward:>8.2f} TFLOP, {both:>8.2f} with "
            f"backward, {duration(self.seconds):>9} ({1000 * both / self.seconds:.1f} GFLOP/s)"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run would take; ``str`` of it is for people."""

    title: str
    stages: tuple[Stage, ...]
    parameters: int
    disk_bytes: int
    """At most, while training."""
    memory_bytes: int
    """Peak of this process during the probe."""
    notes: tuple[str, ...] = ()
    """What is done to the data besides."""
    costs: tuple[Cost, ...] = ()
    """Of an hour of audio, in each iteration."""

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    def __str__(self) -> str:
        rows = [f"  {stage.name:<32} {stage.work:<44} {duration(stage.seconds):>9}" for stage in self.stages]
        return "\n".join(
            [
                self.title,
                *rows,
                f"  {'together':<77} {duration(self.seconds):>9}",
                *(["Once through an hour of audio:", *(str(cost) for cost in self.costs)] if self.costs else []),
                *self.notes,
                f"{self.parameters / 1e6:.1f} M parameters, up to {self.disk_bytes / 2**20:.0f} MiB of disk, "
                f"about {self.memory_bytes / 2**30:.1f} GiB of memory and {'bf16' if _bf16() else 'fp32'}.",
                "Times are of this machine's CPU, also where a run will take a GPU. Reading recordings, probes and "
                "intervals come on top. Nothing was done; leave out --plan to start.",
            ]
        )


def plan_pretraining(configs: Sequence[RunConfig], hours: float, notes: tuple[str, ...] = ()) -> Plan:
    """Iterations and stages of a pretraining on so many hours of training audio, with notes on what is done to it."""
    stages: list[Stage] = []
    costs: list[Cost] = []
    parameters = 0
    earlier: Encoder | None = None
    for config in configs:
        encoder = build_encoder(config.encoder)
        method = _method(encoder, config)
        parameters = _size(method)
        if config.continues is None:
            teacher = None if config.targets.front_end == "mfcc39" else earlier or build_encoder(config.encoder)
            stages.append(_targets(config, teacher, hours))
        stages.append(_training(f"{config.name}: training", method, config))
        steps = config.train.steps * config.train.microbatches
        costs.append(_cost(config.name, config, parameters, stages[-1].seconds / steps))
        earlier = encoder
    keep = max(config.train.keep_checkpoints for config in configs) + 1
    own = sum(config.continues is None for config in configs)
    runs = f"{own} iterations" + (f" and {len(configs) - own} further stage" if own < len(configs) else "")
    title = f"Pretraining in {runs} on {hours:.2f} h"
    return replace(summed(title, stages, parameters, keep * len(configs)), notes=notes, costs=tuple(costs))


def compare_costs(configs: Mapping[str, RunConfig]) -> tuple[Cost, ...]:
    """What an hour of audio costs each of these runs, in clips of equal length, of which each takes one for timing.

    They take turns, and the fastest turn counts: other work on the machine slows down some.
    """
    short = {}
    for name, config in configs.items():
        collate = replace(config.data.collate, crop_seconds=COMPARED_SECONDS)
        short[name] = replace(config, data=replace(config.data, collate=collate, batch_seconds=COMPARED_SECONDS))
    methods = {name: _method(build_encoder(config.encoder), config) for name, config in short.items()}
    steps = {name: _step(methods[name], config) for name, config in short.items()}
    turns = [{name: timed(step, repeats=1) for name, step in steps.items()} for _ in range(3)]
    return tuple(
        _cost(name, config, _size(methods[name]), min(turn[name] for turn in turns)) for name, config in short.items()
    )


def _cost(name: str, config: RunConfig, parameters: int, step_seconds: float) -> Cost:
    """From the time of one micro-batch."""
    crop = config.data.collate.crop_seconds
    return Cost(
        name=name,
        milliseconds=frame_milliseconds(config.encoder),
        parameters=parameters,
        forward_flop=flop_per_hour(config.encoder, crop),
        clip_seconds=crop,
        seconds=step_seconds * 3600 / (_rows(config) * crop),
    )


def plan_expansion(base: Base, config: ExpandConfig, hours: float) -> Plan:
    """An expansion, its control with a frozen encoder included, on so many hours of new and kept audio."""
    fit_threads(base.encoder)
    stages: list[Stage] = []
    parameters = 0
    for number in range(1, config.iterations + 1):
        targets = config.targets if number == 1 else "base"
        run = run_config(base, config, name=f"iteration-{number}", targets=targets)
        encoder = copy.deepcopy(base.encoder)
        method = _method(encoder, run)
        parameters = _size(method)
        stages.append(_targets(run, None if targets == "mfcc39" else encoder, hours))
        stages.append(_training(f"{run.name}: LoRA", method, run))
        encoder.requires_grad_(False)
        control = _training(f"{run.name}: two controls", method, run)
        stages.append(replace(control, seconds=2 * control.seconds))
    if config.head_steps:
        seconds = control.seconds * config.head_steps / config.steps
        work = f"{config.head_steps} steps"
        stages.append(Stage(name=f"{run.name}: head for its own units", work=work, seconds=seconds))
    return summed(f"Expansion on {hours:.2f} h", stages, parameters, 6 * config.iterations)


def plan_evaluation(base: Base, seeds: int, hours: float) -> Plan:
    """Hidden states of the encoder, and of a random one for each seed, on so many hours; probes are not in it."""
    extractor = FrameExtractor("model", base.encoder.eval(), base.encoder.num_layers)
    waveform = torch.randn(seconds_to_samples(PROBE_SECONDS), generator=torch_generator(0, "plan")) / 10
    once = hours * 3600 / PROBE_SECONDS * timed(lambda: _exhaust(extractor, waveform))
    work = f"{hours:.2f} h by {1 + seeds} encoders"
    return summed("Evaluation", [Stage(name="frames", work=work, seconds=(1 + seeds) * once)], _size(base.encoder), 0)


def plan_tuning(
    encoder: Encoder, config: TuneConfig, methods: Sequence[Trained], *, num_classes: int, seeds: int, hours: float
) -> Plan:
    """Training of each method with each seed, and encoding for the probes; the probes themselves are not in it.

    Args:
        encoder: What is tuned.
        config: How.
        methods: Which are trained.
        num_classes: Classes there are.
        seeds: How many.
        hours: Audio that is probed, all parts together.
    """
    fit_threads(encoder)
    stages, parameters = [], _size(encoder)
    batch = _noise_batch(config, encoder.clock, num_classes)
    for name in methods:
        method = build_method(name, encoder, num_classes, config, seed=0).train()
        parameters = _size(method)
        rows = len(batch.ids)
        work = f"{seeds} x {config.steps} steps of {rows} x {config.crop_seconds:g} s"
        stages.append(Stage(name=name, work=work, seconds=seeds * config.steps * timed(method_step(method, batch))))
    speech = fresh_embedder(encoder, config)
    waveform = torch.randn(1, seconds_to_samples(PROBE_SECONDS), generator=torch_generator(0, "plan")) / 10

    @torch.inference_mode()
    def once() -> None:
        speech(waveform, torch.tensor([waveform.shape[1]]))

    # The frozen encoder, once in all layers, a random one a seed, and each stopping point; the chosen one twice.
    passes = 2 + seeds + len(methods) * seeds * (config.points + 1)
    pace = timed(once) / PROBE_SECONDS
    stages.append(Stage(name="probing", work=f"{passes} x {hours:.2f} h", seconds=passes * hours * 3600 * pace))
    checkpoints = len(methods) * seeds * config.points
    return summed(f"Tuning to tell {num_classes} classes apart", stages, parameters, checkpoints)


def _noise_batch(config: TuneConfig, clock: FrameClock, num_classes: int) -> SpeechBatch:
    """Noise in crops of full length, as many as a batch holds, with classes."""
    rows, samples = config.classes * config.per_class, seconds_to_samples(config.crop_seconds)
    generator = torch_generator(0, "plan", "tuning")
    return SpeechBatch(
        ids=tuple(f"probe-{row}" for row in range(rows)),
        waveform=torch.randn(rows, samples, generator=generator) / 10,
        waveform_lengths=torch.full((rows,), samples),
        frame_lengths=torch.full((rows,), clock.count(samples)),
        labels=Labels(torch.arange(rows)[:, None] % min(num_classes, config.classes), place=config.steps),
    ).validate()


def method_step(method: Any, batch: SpeechBatch) -> Callable[[], None]:
    """Forward and backward pass of a batch."""

    def one_step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=_bf16()):
            output = method.step(batch)
        output.loss_sum.backward()
        method.zero_grad(set_to_none=True)

    return one_step


def _exhaust(extractor: FrameExtractor, waveform: Tensor) -> None:
    for _ in extractor.frames([("probe", waveform)]):
        pass


def summed(title: str, stages: list[Stage], parameters: int, checkpoints: int) -> Plan:
    """Stages as a plan, with the disk that so many checkpoints take and the memory that was used up to now."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return Plan(
        title=title,
        stages=tuple(stages),
        parameters=parameters,
        disk_bytes=checkpoints * parameters * BYTES_PER_PARAMETER,
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    )


def _method(encoder: Encoder, config: RunConfig) -> MaskedPrediction:
    return prediction(encoder, config.method()).train()


def _size(method: nn.Module) -> int:
    return sum(parameter.numel() for parameter in method.parameters())


def _targets(config: RunConfig, teacher: Encoder | None, hours: float) -> Stage:
    """Clustering and encoding: every pass decodes, computes features and assigns them."""
    targets = config.targets
    extractor = FrameExtractor(targets.front_end, teacher, targets.layer)
    waveform = torch.randn(seconds_to_samples(PROBE_SECONDS), generator=torch_generator(0, "plan")) / 10

    def one_pass() -> None:
        for _, frames in extractor.frames([("probe", waveform)]):
            assign(frames, torch.zeros(targets.num_units, frames.shape[1]))

    fitted = min(targets.fit_hours, hours)
    passes = hours if teacher is not None else hours + fitted  # an encoder's frames stay in memory between passes
    work = f"clusters of {fitted:.2f} h, units of {hours:.2f} h"
    return Stage(name=f"{config.name}: units", work=work, seconds=passes * 3600 / PROBE_SECONDS * timed(one_pass))


def _training(name: str, method: MaskedPrediction, config: RunConfig) -> Stage:
    """Forward and backward of every micro-batch; the update itself is small beside them."""
    train = config.train
    work = f"{train.steps} steps of {train.microbatches} x {config.data.batch_seconds:g} s"
    return Stage(name=name, work=work, seconds=train.steps * train.microbatches * timed(_step(method, config)))


def _step(method: MaskedPrediction, config: RunConfig) -> Callable[[], None]:
    """Forward and backward pass of a batch of noise."""
    encoder: Encoder = method.encoder  # type: ignore[assignment]
    batch = random_batch(config, encoder.clock)

    def one_step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=_bf16()):
            output = method.step(batch)
        output.loss_sum.backward()
        method.zero_grad(set_to_none=True)

    return one_step


def _rows(config: RunConfig) -> int:
    """Crops of full length that a batch holds."""
    return max(1, int(config.data.batch_seconds / config.data.collate.crop_seconds))


def random_batch(config: RunConfig, clock: FrameClock) -> SpeechBatch:
    """Noise in crops of full length, as many as a batch holds, with random units and masks."""
    rows, samples = _rows(config), seconds_to_samples(config.data.collate.crop_seconds)
    frames = clock.count(samples)
    generator = torch_generator(0, "plan", "batch")
    units = torch.randint(
        config.targets.num_units, (rows, frames, config.targets.labels_per_frame), generator=generator
    )
    return SpeechBatch(
        ids=tuple(f"probe-{row}" for row in range(rows)),
        waveform=torch.randn(rows, samples, generator=generator) / 10,
        waveform_lengths=torch.full((rows,), samples),
        frame_lengths=torch.full((rows,), frames),
        units=units,
        masked=torch.rand(rows, frames, generator=generator) < 0.5,
    ).validate()


def timed(work: Callable[[], object], repeats: int = 3) -> float:
    """Median time of ``work`` after one unmeasured call."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def _bf16() -> bool:
    return use_bf16("auto", torch.device("cpu"))
