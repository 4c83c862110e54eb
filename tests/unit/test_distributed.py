from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from allophone import distributed
from allophone.cli.main import main
from allophone.distributed import (
    copy_from_rank_zero,
    device,
    gather,
    on_rank_zero,
    process_group,
    rank,
    rank_zero_first,
    require_shared,
    wait,
)
from allophone.errors import ConfigError, DistributedError
from allophone.train import parallel
from allophone.train.parallel import batches_of_step, batches_per_process


def test_alone_everything_is_a_no_op(tmp_path: Path) -> None:
    done: list[str] = []
    with process_group(), rank_zero_first():
        done.append("block")
    on_rank_zero(lambda: done.append("work"))
    wait()
    require_shared(tmp_path / "not made")
    assert done == ["block", "work"] and gather(3) == [3] and not (tmp_path / "not made").exists()
    assert device() == torch.device("cpu")


def test_environment_without_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is 4, but LOCAL_RANK.* is not set"), process_group():
        pass


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with process_group():
        assert device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with process_group():
        assert device() == torch.device("cuda", 1)
    assert device() == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match=r"Process 2 of this machine has no GPU.*--nproc-per-node 2"), process_group():
        pass


def test_restarts_on_several_machines_need_a_fresh_store(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"WORLD_SIZE": "8", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    elastic = {"LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_MAX_RESTARTS": "3"}
    for name, value in (job | elastic).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"), process_group():
        pass


def test_uneven_shares_are_refused_with_what_would_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "world_size", lambda: 3)
    assert batches_per_process(12) == 4
    with pytest.raises(ConfigError, match=r"3 processes cannot share the 4 batches.*Start 1 or 2 or 4 processes"):
        batches_per_process(4)
    assert batches_of_step(None) == 3 and batches_of_step(6) == 6
    with pytest.raises(ConfigError, match=r"3 processes cannot share the 4 batches"):
        batches_of_step(4)
    with pytest.raises(ConfigError, match=r"--microbatches is 0; expected 1 or more"):
        batches_of_step(0)


def test_only_pretrain_runs_in_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "error (process 1 of 2): 2 processes were started" in captured.err
    for verb in ("pretrain", "align", "distill", "translate train", "transcribe train", "vocoder train"):
        assert f"allophone {verb}" in captured.err
    assert main(["pretrain", "--corpus", "nowhere", "--plan"]) == 0  # rank 0 speaks
    assert capsys.readouterr().out == ""


def _agree(folder: Path) -> None:
    """What two processes must agree on; then one of them ends."""
    assert gather(rank()) == [0, 1]
    linear = nn.Linear(2, 2)
    nn.init.constant_(linear.weight, float(rank()))
    copy_from_rank_zero(linear)
    assert float(linear.weight.sum()) == 0.0
    with rank_zero_first():
        assert (folder / "made").exists() == (rank() == 1)
        (folder / "made").touch()
    require_shared(folder / "run")
    assert not list((folder / "run").iterdir())
    with pytest.raises(ConfigError, match=r"not seen by process 1"):
        require_shared(folder / f"of-{rank()}")
    if rank() == 1:
        os._exit(0)
    with pytest.raises(DistributedError, match=r"Process 0 of 2 lost the others"):
        wait()
    os._exit(0)


def test_two_processes_agree_and_notice_when_one_is_lost(tmp_path: Path) -> None:
    processes = pytest.importorskip("processes", exc_type=ImportError)
    processes.spawn(2, _agree, tmp_path)
    assert distributed.world_size() == 1
