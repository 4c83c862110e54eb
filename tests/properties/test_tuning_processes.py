"""Pair tuning over processes: loss and gradients of two add up to those of one that has all rows, mining included."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model
import torch
from processes import spawn
from safetensors.torch import load_file, save_file
from torch import Tensor

from allophone.batch import Labels, SpeechBatch
from allophone.distributed import all_reduce_sum, rank, sum_gradients, world_size
from allophone.losses.mining import MiningConfig, Rule, mine
from allophone.losses.supervised_contrast import cosines, gather_labelled, supervised_contrast_loss
from allophone.methods.pair_tuning import PairTuning, PairTuningConfig
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig

RULES: tuple[Rule, ...] = ("none", "multi-similarity", "batch-hard", "hardest", "margin")
LABELS = torch.tensor([[0, 3], [1, -1], [0, -1], [2, -1], [1, 2], [0, 1], [3, -1]])


def measured(rule: Rule) -> dict[str, Tensor]:
    """Of 7 rows, the first process of two has 4; the second knows one label a row less where it can."""
    torch.manual_seed(9)
    values = torch.randn(7, 4)
    own = slice(None) if world_size() == 1 else (slice(0, 4), slice(4, 7))[rank()]
    layer = torch.nn.Linear(4, 6)
    rows = gather_labelled(layer(values[own]), LABELS[own])
    similarity = cosines(rows)
    kept = mine(similarity.detach(), rows.positives, rows.negatives, MiningConfig(rule=rule, num_negatives=2))
    loss = supervised_contrast_loss(similarity, rows.weights, kept.positives, kept.negatives, 0.2)
    active = all_reduce_sum(rows.positives.any(dim=1).sum())
    (loss / active).backward()
    sum_gradients(layer.parameters())
    gradients = torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None])
    return {"loss": all_reduce_sum(loss.detach()), "active": active, "gradients": gradients}


def stepped() -> dict[str, Tensor]:
    """A step of the method on five recordings, of which the first process of two has three."""
    whole = tiny_model.batch(), tiny_model.batch(rows=2)
    torch.manual_seed(4)
    config = SpeechEmbedderConfig(dim=16, layers="last", pooling="mean", projection="none")
    method = PairTuning(SpeechEmbedder(tiny_model.lasr(), config), PairTuningConfig(dim=8)).eval()
    waveform = torch.cat([whole[0].waveform, 0.5 * whole[1].waveform])
    lengths = torch.cat([batch.waveform_lengths for batch in whole])
    frames = torch.cat([batch.frame_lengths for batch in whole])
    own = slice(0, 5) if world_size() == 1 else (slice(0, 3), slice(3, 5))[rank()]
    labels = Labels(torch.tensor([[0], [1], [2], [0], [1]])[own], place=0)  # companions are in the other process
    batch = SpeechBatch(tuple("abcde")[own], waveform[own], lengths[own], frames[own], labels=labels).validate()
    total = all_reduce_sum(method.count(batch))
    output = method.step(batch)
    (output.loss_sum / total).backward()
    sum_gradients(method.parameters())
    gradients = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    return {"total": total, "loss": all_reduce_sum(output.loss_sum.detach()), "gradients": gradients}


def work(folder: Path) -> None:
    for rule in RULES:
        save_file(measured(rule), folder / f"{rule}-{rank()}.safetensors")
    save_file(stepped(), folder / f"method-{rank()}.safetensors")


def test_two_processes_are_one(tmp_path: Path) -> None:
    spawn(2, work, tmp_path)
    for rule in RULES:
        alone = measured(rule)
        assert float(alone["gradients"].norm()) > 0.05 and int(alone["active"]) == 7
        for number in range(2):
            together = load_file(tmp_path / f"{rule}-{number}.safetensors")
            torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    alone = stepped()
    assert int(alone["total"]) == 4
    for number in range(2):
        together = load_file(tmp_path / f"method-{number}.safetensors")
        assert float((together["gradients"] - alone["gradients"]).norm() / alone["gradients"].norm()) < 1e-5
        assert float(together["loss"]) == pytest.approx(float(alone["loss"]), rel=1e-5)
