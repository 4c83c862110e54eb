"""Several processes on one machine, and a ragged stream of real recordings for them, for the tests of training."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import allophone_starter
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tiny_model import LASR
from torch import Tensor

from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus
from allophone.data.loader import BatchStream
from allophone.data.sampler import BatchSampler
from allophone.data.utterance import Utterance
from allophone.frames import seconds_to_samples
from allophone.methods.masked_prediction import MaskedPrediction, MaskedPredictionConfig
from allophone.models.lasr import Lasr
from allophone.seeding import numpy_generator
from allophone.train import TrainConfig, train
from allophone.train.loop import CHECKPOINTS

UNITS = 9


def recordings(count: int = 24) -> Corpus:
    """Short real recordings in three languages, of very different lengths."""
    corpus = Corpus.open(allophone_starter.corpus_path())
    languages = ("ita_Latn", "rus_Cyrl", "fra_Latn")
    short = [row for row in corpus if 0.5 < row.duration_seconds < 2.5 and row.language in languages]
    return corpus.with_utterances(tuple(short[:: len(short) // count][:count]))


def stream() -> BatchStream[Utterance]:
    """Ragged batches of unequal count."""
    corpus, clock = recordings(), LASR.clock
    rows = corpus.utterances
    units = {
        row.id: numpy_generator(0, "units", row.id).integers(
            0, UNITS, clock.count(seconds_to_samples(row.duration_seconds))
        )
        for row in rows
    }
    sampler = BatchSampler(
        [row.duration_seconds for row in rows],
        [row.language for row in rows],
        ["all"] * len(rows),
        batch_seconds=5.0,
        crop_seconds=2.2,
    )
    config = CollateConfig(crop_seconds=2.2, equal_lengths=False, mask_length=4)
    return BatchStream(corpus, rows, units, sampler, clock, config)


def method() -> MaskedPrediction:
    """A tiny encoder of the starter's family, with dropout and a loss on visible frames."""
    torch.manual_seed(1)
    encoder = Lasr(replace(LASR, dropout=0.1, attention_dropout=0.1, activation_dropout=0.1))
    return MaskedPrediction(encoder, MaskedPredictionConfig(num_units=UNITS, projection_dim=16, unmasked_weight=0.5))


def run(run_dir: Path, parallel: str, steps: int, max_grad_norm: float) -> None:
    """Train the tiny encoder on four batches a step, or go on with it."""
    config = TrainConfig(
        steps=steps,
        microbatches=4,
        learning_rate=1e-3,
        schedule="constant",
        max_grad_norm=max_grad_norm,
        log_every=1,
        save_every=1,
        keep_checkpoints=steps,
        tensorboard=False,
        bf16="off",
        parallel=parallel,  # type: ignore[arg-type]
    )
    trained = method()
    with closing(stream()) as batches:
        train(trained, batches, config, run_dir)
    saved = load_file(run_dir / CHECKPOINTS / f"step-{steps:08d}" / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in trained.state_dict().items())


def cut(run_dir: Path, to: Path, step: int) -> None:
    """Copy a run as it was when its checkpoint of ``step`` was the last; as a killed one leaves it."""
    shutil.copytree(run_dir, to)
    for later in list((to / CHECKPOINTS).iterdir()):
        if int(later.name.removeprefix("step-")) > step:
            shutil.rmtree(later)


def spawn(processes: int, work: Callable[..., None], *arguments: object) -> None:
    """Run ``work`` in so many processes at once, in a process group of gloo.

    Raises:
        AssertionError: One of them failed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["processes", "allophone.benchmarks.resume", "torch._dynamo"])
    sync = Path(str(arguments[0])).with_suffix(".sync")
    ranks = [
        context.Process(target=_rank, args=(number, processes, sync, work, arguments)) for number in range(processes)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0] * processes


def _rank(number: int, processes: int, sync: Path, work: Callable[..., None], arguments: Sequence[object]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sync}", rank=number, world_size=processes)
    work(*arguments)
    dist.destroy_process_group()


def losses(run_dir: Path) -> list[float]:
    """Loss of each step in the journal."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def moments(run_dir: Path, step: int = 1) -> dict[str, Tensor]:
    """Adam's first moments: after one step a tenth of its gradient."""
    saved = load_file(run_dir / CHECKPOINTS / f"step-{step:08d}" / "optimizer.safetensors")
    return {name: value for name, value in saved.items() if name.startswith("exp_avg/")}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Norm of the difference of all tensors over the norm of the first."""
    assert one.keys() == other.keys() and all(one[name].shape == other[name].shape for name in one)
    first, second = (torch.cat([tensors[name].flatten().double() for name in one]) for tensors in (one, other))
    return float((first - second).norm() / first.norm())
