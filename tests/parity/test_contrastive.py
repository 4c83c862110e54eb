"""Values and gradients of the losses against open_clip, sentence-transformers and pytorch-metric-learning."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from allophone.losses.contrastive import Pairs, embed_in_chunks, gather_pairs, infonce_loss, sigmoid_loss

pytestmark = [pytest.mark.parity, pytest.mark.peer]
ROWS = 12


def leaves(rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors of two sides and a logarithm of the temperature, all with gradients."""
    drawn = torch.randn(2, rows, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return drawn[0].requires_grad_(), drawn[1].requires_grad_(), torch.tensor(0.3).log().requires_grad_()


def ours(audio: Tensor, text: Tensor) -> Pairs:
    return gather_pairs(audio, text, torch.arange(len(audio)), torch.arange(len(audio))[:, None])


def assert_same(one: Tensor, other: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(one, inputs), torch.autograd.grad(other, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def open_clip_losses() -> ModuleType:
    """The file of the losses alone: the package itself needs torchvision."""
    found = importlib.util.find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        pytest.skip("open_clip_torch is not installed")
    file = f"{found.submodule_search_locations[0]}/loss.py"
    spec = importlib.util.spec_from_file_location("open_clip_loss", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_infonce_equals_open_clip() -> None:
    audio, text, log_temperature = leaves()
    unit = nn.functional.normalize(audio, dim=-1), nn.functional.normalize(text, dim=-1)
    theirs = open_clip_losses().ClipLoss()(*unit, 1 / log_temperature.exp())
    mine = infonce_loss(ours(audio, text), log_temperature.exp()).loss_sum / ROWS
    assert_same(mine, theirs, audio, text, log_temperature)


def test_sigmoid_equals_open_clip() -> None:
    audio, text, log_temperature = leaves()
    bias = torch.tensor(-2.0, requires_grad=True)
    unit = nn.functional.normalize(audio, dim=-1), nn.functional.normalize(text, dim=-1)
    theirs = open_clip_losses().SigLipLoss()(*unit, 1 / log_temperature.exp(), bias)
    mine = sigmoid_loss(ours(audio, text), log_temperature.exp(), bias).loss_sum / ROWS
    assert_same(mine, theirs, audio, text, log_temperature, bias)


class Stub(nn.Module):
    """What sentence-transformers takes for a model: a linear layer and dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(8, 5)

    def __getitem__(self, index: int) -> nn.Module:
        return self.layer

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": self.layer(features["values"])}


def test_infonce_equals_sentence_transformers_whole_and_cached() -> None:
    peers = pytest.importorskip("sentence_transformers.losses")
    model = Stub()
    audio, text, _ = leaves()
    sides = [{"values": audio.detach()}, {"values": text.detach()}]
    gradients, values = [], []
    losses = [
        peers.MultipleNegativesSymmetricRankingLoss(model, scale=5.0),
        peers.CachedMultipleNegativesSymmetricRankingLoss(model, scale=5.0, mini_batch_size=4),
    ]
    for compute in [*(lambda peer=peer: peer(sides, None) for peer in losses), lambda: cached(model, audio, text)]:
        model.zero_grad()
        loss = compute()
        loss.backward()
        values.append(loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone())
    for value, gradient in zip(values[:2], gradients[:2], strict=True):
        torch.testing.assert_close(values[2], value, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(gradients[2], gradient, atol=1e-6, rtol=1e-5)


def cached(model: Stub, audio: Tensor, text: Tensor) -> Tensor:
    sides = [embed_in_chunks(model.layer, [(part,) for part in side.detach().split(4)]) for side in (audio, text)]
    return infonce_loss(ours(*sides), 0.2).loss_sum / ROWS


def test_several_positives_equal_supcon_of_pytorch_metric_learning() -> None:
    peer = pytest.importorskip("pytorch_metric_learning.losses").SupConLoss(temperature=0.2)
    audio, text, _ = leaves()
    labels = torch.arange(ROWS) % 5
    others = labels.clone()  # the same object would be taken for the same rows, and the diagonal left out
    theirs = (peer(audio, labels, ref_emb=text, ref_labels=others) + peer(text, labels, None, audio, others)) / 2
    mine = infonce_loss(gather_pairs(audio, text, labels, labels[:, None]), 0.2).loss_sum / ROWS
    assert_same(mine, theirs, audio, text)
