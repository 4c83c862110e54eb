"""How a step is split over micro-batches and processes changes neither its loss nor its gradient."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from allophone.batch import SpeechBatch
from allophone.benchmarks.resume import tiny_method, tiny_stream
from allophone.data.sampler import SamplerState
from allophone.train import TrainConfig, train
from allophone.train.loop import CHECKPOINTS


class Listed:
    """A stream of given batches."""

    def __init__(self, batches: Sequence[SpeechBatch]) -> None:
        self.batches, self.position = batches, 0

    def __next__(self) -> SpeechBatch:
        self.position += 1
        return self.batches[self.position - 1]

    def state(self) -> SamplerState:
        return SamplerState(epoch=0, position=self.position, seed=0)

    def seek(self, state: SamplerState) -> None:
        self.position = state.position


def merge(batches: Sequence[SpeechBatch]) -> SpeechBatch:
    """One ragged batch of all utterances."""

    def join(tensors: Iterator[Tensor], value: float) -> Tensor:
        rows = [row for tensor in tensors for row in tensor]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    return SpeechBatch(
        ids=tuple(name for batch in batches for name in batch.ids),
        waveform=join((batch.waveform for batch in batches), 0.0),
        waveform_lengths=torch.cat([batch.waveform_lengths for batch in batches]),
        frame_lengths=torch.cat([batch.frame_lengths for batch in batches]),
        units=join((batch.units for batch in batches if batch.units is not None), -1),
        masked=join((batch.masked for batch in batches if batch.masked is not None), False),
    ).validate()


def config(microbatches: int) -> TrainConfig:
    return TrainConfig(
        steps=1, microbatches=microbatches, max_grad_norm=0.0, log_every=1, tensorboard=False, bf16="off"
    )


def outcome(run_dir: Path) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient of the first step, the latter from Adam's first moments."""
    line = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
    saved = load_file(run_dir / CHECKPOINTS / "step-00000001" / "optimizer.safetensors")
    return line["loss"], {name: value / 0.1 for name, value in saved.items() if name.startswith("exp_avg/")}


def require_same(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    assert one[1].keys() == other[1].keys() and len(one[1]) > 20
    largest = max(float(gradient.abs().max()) for gradient in one[1].values())
    assert largest > 1e-3
    for name, gradient in one[1].items():
        assert torch.allclose(gradient, other[1][name], rtol=1e-4, atol=1e-6 * largest), name


def first_batches(count: int) -> list[SpeechBatch]:
    with closing(tiny_stream()) as stream:
        return [next(stream) for _ in range(count)]


def test_four_microbatches_are_one_batch(tmp_path: Path) -> None:
    batches = first_batches(4)
    assert len({batch.waveform.shape for batch in batches}) > 1  # of unequal weight, or the test would show little
    train(tiny_method(dropout=0.0), Listed(batches), config(4), tmp_path / "4x1")
    train(tiny_method(dropout=0.0), Listed([merge(batches)]), config(1), tmp_path / "1x4")
    require_same(outcome(tmp_path / "4x1"), outcome(tmp_path / "1x4"))


def _rank(number: int, run_dir: Path, dropout: float) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{run_dir}.sync", rank=number, world_size=2)
    method = tiny_method(dropout=dropout)
    with closing(tiny_stream()) as stream:
        train(method, stream, config(2), run_dir)
    dist.destroy_process_group()


def two_processes(run_dir: Path, dropout: float) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["allophone.benchmarks.resume", "torch._dynamo"])
    processes = [context.Process(target=_rank, args=(number, run_dir, dropout)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    two_processes(tmp_path / "two", dropout=0.0)
    train(tiny_method(dropout=0.0), Listed([merge(first_batches(2))]), config(1), tmp_path / "one")
    require_same(outcome(tmp_path / "two"), outcome(tmp_path / "one"))


def test_two_processes_are_two_microbatches_even_with_dropout(tmp_path: Path) -> None:
    two_processes(tmp_path / "two", dropout=0.2)
    method = tiny_method(dropout=0.2)
    with closing(tiny_stream()) as stream:
        train(method, stream, config(2), tmp_path / "one")
    require_same(outcome(tmp_path / "two"), outcome(tmp_path / "one"))
