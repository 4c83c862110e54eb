"""One HuBERT Base pretraining step on ragged real clips: ours beside the public trainers, each in its own process.

Forward, backward, gradient norm and AdamW on the same padded clips, near each other in length as bucketing makes them.
Rounds alternate between the processes, so that all see the same machine. Peak memory is each process's own, its start
included. The share of the machine's rate counts useful operations only, see :mod:`allophone.benchmarks.roofline`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from allophone.benchmarks.environments import NOT_THERE, RECIPES, environment
from allophone.benchmarks.peers import step
from allophone.benchmarks.roofline import matmul_rate, useful_operations
from allophone.benchmarks.speech import batches_of, recorded_clips
from allophone.benchmarks.timing import OURS, Measured, Timing
from allophone.errors import AllophoneError
from allophone.frames import samples_to_seconds
from allophone.models.hubert import HubertConfig, published_config
from allophone.nn.masking import span_mask
from allophone.seeding import torch_generator

THEIRS = "transformers"


def run(
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    seconds: float = 60.0,
    layers: int = step.BASE["layers"],
    environments: Path,
    peers: Sequence[str] = tuple(RECIPES),
    timing: Timing | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time the steps.

    Args:
        dtype: bfloat16 is autocast, for all.
        seconds: Audio of the batch, padding included.
        layers: Of the transformer; fewer than 12 try a machine with little memory.
        environments: Folder of the peers' environments; what is missing is made there.
        peers: Which of the trainers; ``transformers`` is always there.
        timing: Rounds and clock.
        progress: Called with (done, total) after each step.

    Returns:
        See :meth:`allophone.benchmarks.timing.Measured.result`; besides, ``peak_bytes`` of each process,
        ``memory_ratio`` (ours over that of the fastest trainer), ``matmul_rate`` (before and after, mean) and
        ``share_of_best``.
        ``equal_output`` means that our loss before training is that of ``transformers`` with the same weights within
        5 %: its front end takes the statistics of padding in. Other trainers draw their own weights and masks.
    """
    timing = timing or Timing()
    batch = make_batch(6.0 if timing.quick else seconds, tiny=timing.quick)
    lengths = torch.from_numpy(batch["lengths"])
    layers = step.TINY["layers"] if timing.quick else layers
    missing = {name: reason for name, reason in NOT_THERE.items() if peers}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "batch.npz"
        np.savez(path, **batch)
        options = [str(path), dtype, str(torch.get_num_threads()), str(layers)]
        options.append("tiny" if timing.quick else "base")
        before = matmul_rate(getattr(torch, dtype), timing)
        processes = _started(environments, peers, options, missing)
        try:
            answers = _rounds(processes, missing, timing, progress)
        finally:
            for process in processes.values():
                process.close()
    seconds_of = {name: [answer[timing.clock] for answer in answers[name]] for name in answers}
    after = matmul_rate(getattr(torch, dtype), timing)
    rates = {name: statistics.mean((before[name], after[name])) for name in before}
    config = HubertConfig(**{**step_sizes(timing.quick), "num_hidden_layers": layers})
    reached = useful_operations(config, lengths) / statistics.median(seconds_of[OURS])
    first = {name: answers[name][0]["loss"] for name in answers}
    return Measured(
        name=f"pretrain-step hubert-base {dtype}",
        seconds=seconds_of,
        amount=samples_to_seconds(int(lengths.sum())),
        unit="seconds of audio a second",
        equal=abs(first[OURS] - first[THEIRS]) < 0.05 * first[THEIRS],
        missing=missing,
        more={
            **_memory(answers, seconds_of),
            "layers": layers,
            "losses": first,
            "clips": len(lengths),
            "padding": 1 - int(lengths.sum()) / batch["waveform"].size,
            "matmul_rate": rates,
            "operations_a_second": reached,
            "share_of_pytorch": reached / rates["pytorch"],
            "share_of_best": reached / rates["best"],
        },
    ).result()


def step_sizes(tiny: bool) -> dict[str, Any]:
    """The encoder's sizes by the names of its config."""
    size = step.TINY if tiny else step.BASE
    return {
        "num_hidden_layers": size["layers"],
        "hidden_size": size["dim"],
        "intermediate_size": size["inner"],
        "num_attention_heads": size["heads"],
    }


def make_batch(seconds: float, *, tiny: bool = False) -> dict[str, Any]:
    """Arrays of one batch: real clips near the median length, random units, span masks.

    Args:
        seconds: Of the batch, padding included.
        tiny: Clips of 1 to 2 s.

    Returns:
        ``waveform`` ``(B, S)``, ``lengths`` ``(B,)``, ``units`` ``(B, T)``, ``masked`` ``(B, T)``.
    """
    clips = recorded_clips(max(4 * seconds, 20.0), longest=2.0 if tiny else 15.0)
    clips.sort(key=len)
    batches = batches_of(clips, seconds)
    rows = [clips[index] for index in batches[len(batches) // 2]]
    clock = published_config("hubert-base").clock
    frames = [clock.count(len(row)) for row in rows]
    generator = torch_generator(0, "benchmark step")
    masks = [span_mask(count, probability=0.8, length=10, generator=generator) for count in frames]
    units = torch.randint(0, step.NUM_UNITS, (len(rows), max(frames)), generator=generator)
    padded: dict[str, Tensor] = {
        "waveform": pad_sequence(rows, batch_first=True),
        "lengths": torch.tensor([len(row) for row in rows]),
        "units": units,
        "masked": pad_sequence(masks, batch_first=True),
    }
    return {name: tensor.numpy() for name, tensor in padded.items()}


def _started(
    environments: Path, peers: Sequence[str], options: Sequence[str], missing: dict[str, str]
) -> dict[str, _Process]:
    """One process a trainer; those that cannot be had go into ``missing``."""
    ours = [sys.executable, "-m", "allophone.benchmarks.contestants"]
    processes = {name: _Process([*ours, name, *options]) for name in (OURS, THEIRS)}
    for name in peers:
        try:
            python = environment(environments, name)
        except AllophoneError as error:
            missing[name] = str(error)
            continue
        processes[name] = _Process([str(python), str(Path(step.__file__)), name, *options])
    return processes


def _rounds(
    processes: dict[str, _Process],
    missing: dict[str, str],
    timing: Timing,
    progress: Callable[[int, int], None] | None,
) -> dict[str, list[dict[str, float]]]:
    """Answers of each process: a warm-up, then the timed rounds, in turns; ``loss`` is that before training."""
    first: dict[str, dict[str, float]] = {}
    for name in list(processes):
        try:
            first[name] = processes[name].answer()
            processes[name].step()
        except AllophoneError as error:
            if name in (OURS, THEIRS):
                raise
            missing[name] = str(error)
            processes.pop(name).close()
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in processes}
    names, done = list(processes), 0
    for turn in range(timing.pairs):
        for position in range(len(names)):
            name = names[(turn + position) % len(names)]
            answers[name].append({**processes[name].step(), "loss": first[name]["loss"]})
            done += 1
            if progress is not None:
                progress(done, timing.pairs * len(names))
    return answers


def _memory(
    answers: Mapping[str, Sequence[Mapping[str, float]]], seconds: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    peaks = {name: int(answers[name][-1]["peak_bytes"]) for name in answers}
    trainers = {name: statistics.median(seconds[name]) for name in answers if name not in (OURS, THEIRS)}
    fastest = min(trainers, key=lambda name: trainers[name], default=None)
    return {
        "peak_bytes": peaks,
        "fastest_trainer": fastest,
        "memory_ratio": None if fastest is None else peaks[OURS] / peaks[fastest],
    }


class _Process:
    """A child that makes a step for every line it gets."""

    def __init__(self, command: Sequence[str]) -> None:
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        if "-m" not in command:  # a peer's interpreter finds its own packages
            environment.pop("PYTHONPATH")
        self._name = command[-6]
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment
        )

    def step(self) -> dict[str, float]:
        """Ask for a step and wait for it."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write("step\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # answer() says why
        return self.answer()

    def answer(self) -> dict[str, float]:
        """What the child says next.

        Raises:
            AllophoneError: It ended; the message has its last line.
        """
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self._child.wait()
            self._errors.seek(0)
            lines = [text for text in self._errors.read().splitlines() if text.strip()] or ["no message"]
            raise AllophoneError(f"{self._name} ended with status {self._child.returncode}: {lines[-1]}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.kill()
        self._child.wait()
        for file in (self._child.stdin, self._child.stdout, self._errors):
            try:
                file.close()
            except BrokenPipeError:
                pass
