"""Processes share a step, they do not change it: gradient, losses and files stay those of one process."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("allophone_starter", reason="needs the starter corpus")

from processes import cut, difference, losses, method, moments, run, spawn, stream

from allophone.distributed import on_rank_zero
from allophone.seeding import derive
from allophone.train import TrainConfig, train
from allophone.train.loop import CHECKPOINTS
from allophone.train.schedule import learning_rate

MODES = ("ddp", "fsdp")


def both_modes(folder: Path) -> None:
    """In each mode: one step, three clipped ones, what another run has left, and what this run has left."""
    for mode in MODES:
        run(folder / mode, mode, 1, 0.0)
        run(folder / f"{mode}-clipped", mode, 3, 0.05)
        run(folder / f"{mode}-after-one", mode, 3, 0.05)
        on_rank_zero(lambda mode=mode: cut(folder / f"{mode}-clipped", folder / f"{mode}-again", 1))
        run(folder / f"{mode}-again", mode, 3, 0.05)


def compare_with_one(folder: Path, processes: int) -> None:
    run(folder / "one", "auto", 1, 0.0)
    run(folder / "one-clipped", "auto", 3, 0.05)
    for mode in MODES:
        cut(folder / "one-clipped", folder / f"{mode}-after-one", 1)
    spawn(processes, both_modes, folder)
    for mode in MODES:
        assert difference(moments(folder / "one"), moments(folder / mode)) < 1e-5
        assert losses(folder / mode) == pytest.approx(losses(folder / "one"), rel=1e-6)
        cut(folder / f"{mode}-clipped", folder / f"one-after-{mode}", 1)
        run(folder / f"one-after-{mode}", "auto", 3, 0.05)
        for name in (f"{mode}-clipped", f"{mode}-after-one", f"{mode}-again", f"one-after-{mode}"):
            assert difference(moments(folder / "one-clipped", 3), moments(folder / name, 3)) < 1e-5, name
            assert losses(folder / name) == pytest.approx(losses(folder / "one-clipped"), rel=1e-6), name
        last = Path(CHECKPOINTS) / "step-00000003"
        for file in ("model.safetensors", "optimizer.safetensors"):
            undisturbed, again = (folder / f"{mode}-{run}" / last / file for run in ("clipped", "again"))
            assert undisturbed.read_bytes() == again.read_bytes()


def test_the_batches_of_a_step_differ_in_length_and_count() -> None:
    """Or the tests below would show little."""
    with closing(stream()) as it:
        batches = [next(it) for _ in range(4)]
    assert len({batch.waveform.shape[1] for batch in batches}) == 4
    assert len({len(batch.ids) for batch in batches}) > 1
    assert any(len(set(batch.waveform_lengths.tolist())) > 1 for batch in batches)


def test_two_processes_are_one_whole_and_in_shards_also_after_a_resume(tmp_path: Path) -> None:
    compare_with_one(tmp_path, 2)


@pytest.mark.slow
def test_four_processes_are_one_whole_and_in_shards_also_after_a_resume(tmp_path: Path) -> None:
    compare_with_one(tmp_path, 4)


def test_one_process_is_the_plain_loop_bit_for_bit(tmp_path: Path) -> None:
    config = TrainConfig(
        steps=3, microbatches=2, warmup_steps=1, max_grad_norm=0.05, tensorboard=False, bf16="off", seed=7
    )
    trained, plain = method(), method()
    with closing(stream()) as batches:
        train(trained, batches, config, tmp_path)
    groups = [{"params": g.parameters, "weight_decay": g.weight_decay} for g in plain.parameter_groups()]
    groups[0]["weight_decay"] = config.weight_decay
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)
    with closing(stream()) as it:
        for step in range(1, 4):
            batches = [next(it) for _ in range(2)]
            total = sum(plain.count(batch) for batch in batches)
            for number, batch in enumerate(batches):
                torch.manual_seed(derive(7, "step", step, number))
                (plain.step(batch).loss_sum / total).backward()
            for parameter in parameters:  # what a step does not use decays all the same
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            nn.utils.clip_grad_norm_(parameters, 0.05)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config)
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), plain.parameters(), strict=True))
