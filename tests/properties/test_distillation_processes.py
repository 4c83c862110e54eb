"""Contrast with hard negatives over processes: loss and gradients of two add up to those of one that has all rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

pytest.importorskip("allophone_starter", reason="needs the starter corpus")

from processes import spawn

from allophone.distributed import all_reduce_sum, rank, sum_gradients, world_size
from allophone.losses.distillation import contrast_with_negatives

KEYS = torch.tensor([[3, 1], [8, 2], [3, 3], [5, 1], [8, 4]])


def measured() -> dict[str, Tensor]:
    """Of 5 rows, the first process of two has 3."""
    torch.manual_seed(9)
    speech, teacher, wrong = torch.randn(5, 4), torch.randn(5, 6), torch.randn(5, 2, 6)
    student = nn.Linear(4, 6)
    mine = slice(None) if world_size() == 1 else (slice(0, 3), slice(3, 5))[rank()]
    loss, hits = contrast_with_negatives(student(speech[mine]), teacher[mine], KEYS[mine], 0.2, wrong[mine])
    (loss.sum() / 5).backward()
    sum_gradients(student.parameters())
    gradients = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    return {"loss": all_reduce_sum(loss.detach().sum()), "hits": all_reduce_sum(hits.sum()), "gradients": gradients}


def work(folder: Path) -> None:
    save_file(measured(), folder / f"{rank()}.safetensors")


def test_two_processes_are_one(tmp_path: Path) -> None:
    spawn(2, work, tmp_path)
    alone = measured()
    assert float(alone["gradients"].norm()) > 0.1
    for number in range(2):
        together = load_file(tmp_path / f"{number}.safetensors")
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
