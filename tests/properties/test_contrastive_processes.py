"""Contrast over processes: the losses and gradients of two add up to those of one that has all rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

pytest.importorskip("allophone_starter", reason="needs the starter corpus")

import tiny_model
from processes import spawn
from tiny_text import TEXTS, text_encoder

from allophone.batch import Captions, SpeechBatch
from allophone.distributed import all_reduce_sum, gather_rows, rank, sum_gradients, world_size
from allophone.losses.contrastive import embed_in_chunks, gather_pairs, infonce_loss, sigmoid_loss
from allophone.methods.audio_text_contrast import AudioTextContrast, AudioTextContrastConfig
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig
from allophone.models.text_embedder import TextEmbedderConfig, build_text_embedder

STATED = torch.tensor([0, 1, 2, 1, 4, 5, 0])
KNOWN = torch.tensor([[0, -1, -1], [1, 4, -1], [2, 0, 5], [1, -1, -1], [4, -1, -1], [5, -1, -1], [0, 1, -1]])


def towers() -> nn.ModuleList:
    torch.manual_seed(2)
    return nn.ModuleList([nn.Linear(4, 6), nn.Linear(3, 6), nn.ParameterList([torch.tensor(0.2), torch.tensor(-3.0)])])


def measured(name: str) -> dict[str, Tensor]:
    """Loss, hits and gradients of all processes together; of 7 rows, the first process of two has 4."""
    torch.manual_seed(9)
    audio, text = torch.randn(7, 4), torch.randn(7, 3)
    mine = slice(None) if world_size() == 1 else (slice(0, 4), slice(4, 7))[rank()]
    facts = KNOWN[mine] if rank() == 0 else KNOWN[mine][:, :2]  # processes may know different numbers of facts
    model = towers()
    sides = [embed_in_chunks(layer, [(part,) for part in rows[mine].split(2)])
             for layer, rows in zip(model, (audio, text), strict=False)]  # fmt: skip
    pairs = gather_pairs(*sides, STATED[mine], facts)
    temperature, bias = model[2]
    found = infonce_loss(pairs, temperature) if name == "infonce" else sigmoid_loss(pairs, temperature, bias)
    (found.loss_sum / 7).backward()
    sum_gradients(model.parameters())
    return {
        "loss": all_reduce_sum(found.loss_sum.detach()),
        "hits": all_reduce_sum(torch.stack([found.audio_hits, found.text_hits])),
        "gradients": torch.cat([torch.zeros(1) if p.grad is None else p.grad.flatten() for p in model.parameters()]),
    }


def work(folder: Path) -> None:
    for name in ("infonce", "sigmoid"):
        save_file(measured(name), folder / f"{name}-{rank()}.safetensors")
    rows = gather_rows(torch.full((rank() + 1, 2), rank()))
    assert rows.tolist() == [[0, 0], [1, 1], [1, 1]]


def test_two_processes_are_one(tmp_path: Path) -> None:
    spawn(2, work, tmp_path)
    for name in ("infonce", "sigmoid"):
        alone = measured(name)
        assert float(alone["gradients"].norm()) > 0.1
        for number in range(2):
            together = load_file(tmp_path / f"{name}-{number}.safetensors")
            torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_alone_rows_are_what_they_were() -> None:
    value = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(value) is value


def stepped(folder: Path) -> dict[str, Tensor]:
    """Loss and gradients of the method on five recordings, of which the first process of two has three."""
    whole = tiny_model.batch(), tiny_model.batch(rows=2)
    texts, facts = (*TEXTS[:3], *TEXTS[1:3]), torch.tensor([1, 2, 3, 2, 5])
    torch.manual_seed(4)
    speech = SpeechEmbedder(tiny_model.lasr(), SpeechEmbedderConfig(dim=8, pooling_dim=4))
    text = build_text_embedder(folder / "text", TextEmbedderConfig(dim=8, training="full"))
    method = AudioTextContrast(speech, text, AudioTextContrastConfig(chunk_rows=2)).eval()
    waveform = torch.cat([whole[0].waveform, 0.5 * whole[1].waveform])
    lengths = torch.cat([batch.waveform_lengths for batch in whole])
    frames = torch.cat([batch.frame_lengths for batch in whole])
    mine = slice(0, 5) if world_size() == 1 else (slice(0, 3), slice(3, 5))[rank()]
    captions = Captions(texts[mine], facts[mine], facts[mine][:, None])
    batch = SpeechBatch(tuple("abcde")[mine], waveform[mine], lengths[mine], frames[mine], captions=captions).validate()
    (method.step(batch).loss_sum / all_reduce_sum(method.count(batch))).backward()
    sum_gradients(method.parameters())
    return {"gradients": torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])}


def step_and_save(folder: Path) -> None:
    save_file(stepped(folder), folder / f"method-{rank()}.safetensors")


def test_a_step_of_the_method_in_two_processes_is_one(tmp_path: Path) -> None:
    text_encoder(tmp_path / "text")
    spawn(2, step_and_save, tmp_path)
    alone = stepped(tmp_path)["gradients"]
    for number in range(2):
        together = load_file(tmp_path / f"method-{number}.safetensors")["gradients"]
        assert float((together - alone).norm() / alone.norm()) < 1e-5
