"""The losses of audio and text: values by hand, equal captions, chunks with the gradients and memory they promise."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allophone.errors import ShapeError
from allophone.losses.contrastive import embed_in_chunks, gather_pairs, infonce_loss, matches, sigmoid_loss


def vectors(rows: int, dim: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    drawn = torch.randn(2, rows, dim, generator=torch.Generator().manual_seed(seed))
    return drawn[0].requires_grad_(), drawn[1].requires_grad_()


def own(rows: int) -> tuple[Tensor, Tensor]:
    """Each text is true of its own recording only."""
    return torch.arange(rows), torch.arange(rows)[:, None]


def test_a_batch_of_random_vectors_costs_about_log_n_and_one_of_equal_vectors_exactly() -> None:
    same = torch.ones(8, 3)
    result = infonce_loss(gather_pairs(same, same, *own(8)), 0.07)
    assert float(result.loss_sum) / 8 == pytest.approx(math.log(8), rel=1e-6)


def test_perfect_pairs_cost_nothing_and_all_hit() -> None:
    eye = torch.eye(5)
    result = infonce_loss(gather_pairs(3 * eye, 7 * eye, *own(5)), 0.01)
    assert float(result.loss_sum) < 1e-6
    assert int(result.audio_hits) == int(result.text_hits) == 5


def test_several_positives_by_hand() -> None:
    """Recordings 0 and 2 share their caption; recording 1 has a fact that caption 0 states too."""
    audio, text = vectors(3)
    stated, known = torch.tensor([4, 9, 4]), torch.tensor([[4, -1], [9, 4], [4, -1]])
    truth = torch.tensor([[True, False, True], [True, True, True], [True, False, True]])
    assert torch.equal(matches(known, stated), truth)
    pairs = gather_pairs(audio, text, stated, known)
    assert torch.equal(pairs.text_matches, truth.T)
    cosines = F.normalize(audio, dim=1) @ F.normalize(text, dim=1).T / 0.5
    one_way = F.cross_entropy(cosines, truth.float() / truth.sum(1, keepdim=True), reduction="sum")
    back = F.cross_entropy(cosines.T, truth.T.float() / truth.T.sum(1, keepdim=True), reduction="sum")
    torch.testing.assert_close(infonce_loss(pairs, 0.5).loss_sum, (one_way + back) / 2)
    signs = truth.float() * 2 - 1
    expected = -F.logsigmoid(signs * (cosines - 3.0)).sum()
    torch.testing.assert_close(sigmoid_loss(pairs, 0.5, -3.0).loss_sum, expected)


def test_an_equal_caption_is_not_pushed_away() -> None:
    """With numbers of their own, two recordings of one caption are driven apart though nothing tells them apart."""
    audio = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]], requires_grad=True)
    text = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]], requires_grad=True)
    pushes = []
    for stated in (torch.tensor([0, 0]), torch.tensor([0, 1])):
        loss = infonce_loss(gather_pairs(audio, text, stated, stated[:, None]), 0.1).loss_sum
        pushes.append(torch.autograd.grad(loss, text)[0])
    assert pushes[0].abs().max() < 1e-6
    assert pushes[1].abs().max() > 0.1


def test_temperature_and_bias_are_learnable() -> None:
    audio, text = vectors(4)
    temperature, bias = torch.tensor(0.1, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    sigmoid_loss(gather_pairs(audio, text, *own(4)), temperature, bias).loss_sum.backward()
    assert temperature.grad is not None and bias.grad is not None
    assert temperature.grad.abs() > 0 and bias.grad.abs() > 0


def test_vectors_in_bfloat16_are_compared_in_float32() -> None:
    audio, text = (x.detach().bfloat16() for x in vectors(64, 32))
    exact = infonce_loss(gather_pairs(audio.float(), text.float(), *own(64)), 0.01).loss_sum
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = infonce_loss(gather_pairs(audio, text, *own(64)), 0.01).loss_sum
    assert torch.equal(result, exact)


def test_shapes_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"audio \(3, 6\), text \(2, 6\)"):
        gather_pairs(vectors(3)[0], vectors(2)[1], *own(3))
    with pytest.raises(ShapeError, match="no chunk"):
        embed_in_chunks(lambda x: x, [])


def tower(seed: int, width: int = 32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Dropout(0.3), nn.Linear(width, 6))


@pytest.mark.parametrize("rows", [10, 16])
def test_chunks_have_the_gradients_of_the_whole_batch_with_dropout(rows: int) -> None:
    """The same draws, all activations kept, against chunks of 4 that are computed twice."""
    inputs = torch.randn(rows, 8)
    chunks = [(part,) for part in inputs.split(4)]
    found = []
    for cached in (True, False):
        audio, text = tower(0), tower(1)
        temperature = torch.tensor(0.2, requires_grad=True)
        torch.manual_seed(5)
        embedded = [
            embed_in_chunks(side, chunks) if cached else torch.cat([side(*chunk) for chunk in chunks])
            for side in (audio, text)
        ]
        after = torch.rand(())
        loss = infonce_loss(gather_pairs(*embedded, *own(rows)), temperature).loss_sum / rows
        loss.backward()
        gradients = [p.grad.flatten() for side in (audio, text) for p in side.parameters() if p.grad is not None]
        assert temperature.grad is not None
        found.append((loss.detach(), torch.cat([*gradients, temperature.grad[None]]), after, torch.rand(())))
    for one, other in zip(*found, strict=True):  # the random numbers that follow are the same too
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-5)
    assert found[0][1].norm() > 0.01


def peak_bytes(rows: int, chunk: int, folder: Path, depth: int = 24) -> int:
    """Most memory that one step of a deep tower holds beyond what is there before it."""
    layers = [nn.Sequential(nn.Linear(128, 128), nn.GELU(), nn.Dropout(0.1)) for _ in range(depth)]
    side = nn.Sequential(*layers, nn.Linear(128, 6))
    for parameter in side.parameters():
        parameter.grad = torch.zeros_like(parameter)
    chunks = [(part,) for part in torch.randn(rows, 128).split(chunk)]
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        embedded = embed_in_chunks(side, chunks)
        infonce_loss(gather_pairs(embedded, embedded, *own(rows)), 0.1).loss_sum.backward()
    trace = folder / f"{rows}-{chunk}-{depth}.json"
    profile.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    held = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(itertools.accumulate(held))


def test_a_batch_of_1024_needs_the_memory_of_64_beside_its_similarities(tmp_path: Path) -> None:
    sizes = ((64, 64, 24), (1024, 64, 24), (1024, 1024, 24), (1024, 1024, 0))
    one, cached, whole, similarities = (peak_bytes(*size[:2], tmp_path, depth=size[2]) for size in sizes)
    assert cached < similarities + 1.1 * one
    assert whole > similarities + 5 * one
