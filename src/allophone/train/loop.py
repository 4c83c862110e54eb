"""The one loop that trains every method.

A method returns sums and counts; this file alone divides (once, by the count of all ranks and micro-batches) and
steps. Randomness inside a method is re-seeded before every micro-batch from (seed, step, number of the batch within
the step), so neither a resume nor the split into micro-batches and ranks changes what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from allophone.batch import SpeechBatch
from allophone.config import to_dict
from allophone.data.sampler import SamplerState
from allophone.distributed import (
    all_reduce_sum,
    gather,
    is_distributed,
    on_rank_zero,
    rank,
    rank_zero_first,
    sum_gradients,
    world_size,
)
from allophone.errors import CheckpointError, DataError, NumericsError
from allophone.methods.base import StepOutput
from allophone.seeding import derive
from allophone.train.checkpoint import Snapshot, load_latest, save_checkpoint
from allophone.train.config import TrainConfig
from allophone.train.journal import Journal, Progress, ProgressLine
from allophone.train.optimizer import (
    build_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
    trainable,
)
from allophone.train.parallel import batches_per_process, gathered, place, whole, write_back
from allophone.train.precision import use_bf16
from allophone.train.schedule import learning_rate
from allophone.train.signals import StopSignal

CHECKPOINTS = "checkpoints"


class Stream(Protocol):
    """Batches without end, with a place to return to; :class:`~allophone.data.loader.BatchStream` is one."""

    def __next__(self) -> SpeechBatch:
        """The next batch of this rank."""
        ...

    def state(self) -> SamplerState:
        """Where the next batch comes from."""
        ...

    def seek(self, state: SamplerState) -> None:
        """Go on from there."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """How a run ended."""

    steps: int
    """Updates made in all, those before a resume included."""
    stopped: Literal["finished", "signal"]
    """``signal``: saved on SIGTERM or Ctrl-C; the same call goes on from there."""
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Name to (sum, count) of the journal's last line; empty when this call made no step."""


def train(
    method: Any,
    stream: Stream,
    config: TrainConfig,
    run_dir: str | Path,
    *,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a method, from its last checkpoint where ``run_dir`` has one.

    Args:
        method: A :class:`~allophone.methods.base.Method` that is an ``nn.Module``, on the device to train on or on
            the CPU; its weights are changed in place. Under ``torchrun`` it moves to this process' GPU, unless it is
            trained in shards.
        stream: Batches; it is sent to where the checkpoint says.
        config: Length, optimizer, precision, saving.
        run_dir: Receives ``metrics.jsonl``, ``tensorboard/`` and ``checkpoints/``.
        identity: What else makes this run what it is, as JSON values (resolved config, hashes of data and base
            model); a checkpoint with another identity is refused.
        progress: Called with (step, steps, info) at most twice a second.

    Returns:
        How it ended. After ``signal`` a checkpoint of the last whole step is on the disk.

    Raises:
        NumericsError: A loss or the gradient norm is not finite; raised before the weights are touched.
        CheckpointError: The checkpoints are damaged or another run's, or one cannot be written.
        DataError: A step has nothing to learn from, or an utterance cannot be read.
        ConfigError: The parameter groups are incomplete, bf16 is demanded and not there, or the processes cannot share
            the batches of a step.
        DistributedError: Another process of the job ended.
    """
    run = _Run(method, stream, config, Path(run_dir), identity or {})
    if run.done == config.steps:
        return TrainResult(steps=run.done, stopped="finished")
    line = ProgressLine(progress, start=run.done, total=config.steps)
    run.model.train()
    with StopSignal() as stop, run.open_journal() as journal:
        for step in range(run.done + 1, config.steps + 1):
            if _any_rank(stop.requested) or not _update(run, step, stop, journal):
                break
            line.tell(step, lambda: {"loss": journal.mean("loss"), "gradient_norm": journal.mean("gradient_norm")})
            if step % config.log_every == 0 or step == config.steps:
                journal.write(step, {"learning_rate": learning_rate(step, config), "seconds": run.clock(line)})
            if step % config.save_every == 0 or step == config.steps:
                run.save(journal, run.clock(line))
        if run.saved != run.done:
            run.save(journal, run.clock(line))
        write_back(run.model, method)
        return TrainResult(
            steps=run.done, stopped="finished" if run.done == config.steps else "signal", sums=journal.last
        )


def _update(run: _Run, step: int, stop: StopSignal, journal: Journal) -> bool:
    """Make one step; False when it was given up because of a signal, with everything as it was before."""
    model, config = run.model, run.config
    position = run.stream.state()
    batches = [next(run.stream).to(run.device) for _ in range(run.share)]
    counts = [model.count(batch) for batch in batches]
    total = all_reduce_sum(torch.stack(counts).sum())  # all ranks and micro-batches, before any forward pass
    _require_items(total, step, batches)
    outputs: list[StepOutput] = []
    for number, batch in enumerate(batches):
        if stop.requested and not is_distributed() and number > 0:
            run.stream.seek(position)
            run.optimizer.zero_grad(set_to_none=True)
            return False
        torch.manual_seed(derive(config.seed, "step", step, number * world_size() + rank()))
        with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=run.bf16):
            output = model.step(batch)
        (output.loss_sum / total).backward()  # the only division
        outputs.append(StepOutput(output.loss_sum.detach(), output.sums))
    _note_unused(step, model, journal)
    _fill_missing(run.parameters)
    if not run.in_shards:  # those have summed theirs during the backward pass
        sum_gradients(run.parameters)  # one flat all-reduce over ranks
    norm = whole(nn.utils.clip_grad_norm_(run.parameters, config.max_grad_norm or math.inf))
    _require_finite(norm, outputs, step, batches, journal)
    set_learning_rate(run.optimizer, learning_rate(step, config))
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.done = step
    journal.add({"gradient_norm": (norm, 1)})
    for batch, output, count in zip(batches, outputs, counts, strict=True):
        journal.add({"loss": (output.loss_sum, count), **output.sums, **batch.sums})
    return True


class _Run:
    """The state of a run and how it gets onto the disk and back."""

    def __init__(
        self, method: Any, stream: Stream, config: TrainConfig, run_dir: Path, identity: Mapping[str, Any]
    ) -> None:
        self.method, self.stream, self.config, self.run_dir = method, stream, config, run_dir
        self.share = batches_per_process(config.microbatches)
        self.identity = {"train": to_dict(config), "batches_per_step": config.microbatches, "run": dict(identity)}
        with rank_zero_first():  # it sets damaged checkpoints aside
            snapshot, self.warnings = load_latest(run_dir / CHECKPOINTS, self.identity)
        if snapshot is not None:
            self._restore_weights(snapshot)
        self.model = place(method, config.parallel)
        self.in_shards = self.model is not method
        self.device: torch.device = next(self.model.parameters()).device
        self.bf16 = use_bf16(config.bf16, self.device)
        self.optimizer = build_optimizer(self.model, self.model.parameter_groups(), config)
        self.parameters = trainable(self.optimizer)
        self.done, self.saved, self.seconds = 0, -1, 0.0
        self.sums: Mapping[str, tuple[float, float]] = {}
        if snapshot is not None:
            self._restore(snapshot)

    def _restore_weights(self, snapshot: Snapshot) -> None:
        try:
            self.method.load_state_dict(snapshot.model)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{self.run_dir / CHECKPOINTS}: the saved weights do not fit this model: {reason} "
                f"Give the run another name, or go on with the model that it was started with."
            ) from error

    def _restore(self, snapshot: Snapshot) -> None:
        restore_optimizer(self.model, self.optimizer, dict(snapshot.optimizer))
        self.stream.seek(snapshot.stream)
        self.done = self.saved = snapshot.step
        self.sums, self.seconds = snapshot.sums, snapshot.seconds

    def open_journal(self) -> Journal:
        journal = Journal(self.run_dir, start=self.done, sums=self.sums, tensorboard=self.config.tensorboard)
        for warning in self.warnings:
            journal.event(self.done, "warning", message=warning)
        return journal

    def clock(self, line: ProgressLine) -> float:
        """Seconds of training so far, those before a resume included."""
        return self.seconds + line.seconds()

    def save(self, journal: Journal, seconds: float) -> None:
        """Write a checkpoint of the step just made; every rank calls it, rank 0 writes, the others wait for it."""
        sums = journal.sums()
        model = gathered(self.model.state_dict())
        optimizer = gathered(optimizer_tensors(self.model, self.optimizer))
        snapshot = Snapshot(
            step=self.done,
            stream=self.stream.state(),
            identity=self.identity,
            model=model,
            optimizer=optimizer,
            sums=sums,
            seconds=seconds,
        )
        folder, keep = self.run_dir / CHECKPOINTS, self.config.keep_checkpoints
        on_rank_zero(lambda: save_checkpoint(folder, snapshot, keep=keep))
        self.saved = self.done


def _any_rank(flag: bool) -> bool:
    """Whether any rank says so; all get the same answer."""
    return bool(all_reduce_sum(torch.tensor(int(flag))))


def _fill_missing(parameters: Sequence[nn.Parameter]) -> None:
    """Zero for a parameter that this step did not use, so that one process does what several do."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _note_unused(step: int, method: nn.Module, journal: Journal) -> None:
    """Write down what gets no gradient in the first step; for most methods that is a mistake."""
    if step == 1:
        unused = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
        if unused:
            journal.event(step, "no_gradient", parameters=unused)


def _require_items(total: Tensor, step: int, batches: Sequence[SpeechBatch]) -> None:
    if int(total) < 1:
        raise DataError(
            f"Step {step} has nothing to learn from: its batches count {int(total)} items. Are all of these shorter "
            f"than two frames, or is mask_probability 0? Utterances: {_some(_ids(batches))}."
        )


def _require_finite(
    norm: Tensor, outputs: Sequence[StepOutput], step: int, batches: Sequence[SpeechBatch], journal: Journal
) -> None:
    values = torch.stack([norm, *(output.loss_sum for output in outputs)]).tolist()  # the step's only wait for a GPU
    if all(math.isfinite(value) for value in values):
        return
    bad = _ids([batch for batch, value in zip(batches, values[1:], strict=True) if not math.isfinite(value)])
    every = _ids(batches)
    if not math.isfinite(values[0]):  # the norm is that of all ranks, so all are here
        bad, every = [name for part in gather(bad) for name in part], [name for part in gather(every) for name in part]
    named = bad or every
    journal.event(step, "not_finite", utterances=named)
    what = "the loss" if bad else f"no loss, but the gradient norm ({values[0]})"
    raise NumericsError(
        f"Step {step}: {what} is not finite. The weights were not changed and earlier checkpoints are whole. "
        f"Utterances: {_some(named)}. Listen to them. A run keeps its corpus and its settings, so begin "
        f"another one, under another name: without recordings that are broken, or at a lower learning rate "
        f"(--learning-rate of `allophone pretrain`, `expand` and `tune`; in Python TrainConfig has it, warmup_steps, "
        f"max_grad_norm and bf16)."
    )


def _ids(batches: Sequence[SpeechBatch]) -> list[str]:
    return [name for batch in batches for name in batch.ids]


def _some(names: Sequence[str]) -> str:
    """The first ids, for messages."""
    more = f" and {len(names) - 20} more (all in metrics.jsonl)" if len(names) > 20 else ""
    return ", ".join(repr(name) for name in names[:20]) + more
