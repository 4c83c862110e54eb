"""Pooling sees real frames only, alone and in company, and starts where its docstring says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from allophone.batch import Packed
from allophone.errors import ConfigError, ShapeError
from allophone.nn.pooling import AttentionPooling, LayerWeights, MeanPooling, mean_pool


def frames(*lengths: int, dim: int = 8) -> Packed:
    return Packed(torch.randn(sum(lengths), dim), lengths)


def trained_attention(heads: int) -> AttentionPooling:
    pooling = AttentionPooling(8, 6, heads)
    nn.init.normal_(pooling.score.weight)
    return pooling


@pytest.mark.parametrize("pooling", [MeanPooling(), trained_attention(1), trained_attention(4)])
def test_ragged_equals_alone(pooling: nn.Module) -> None:
    hidden = frames(5, 1, 3, 5, 9)
    together = pooling(hidden)
    assert together.shape == (5, 8)
    for row, utterance in zip(together, hidden.split(), strict=True):
        torch.testing.assert_close(row, pooling(Packed(utterance, (len(utterance),)))[0], atol=1e-6, rtol=1e-5)


def test_attention_by_hand() -> None:
    pooling, hidden = trained_attention(2), frames(4, 2)
    for row, utterance in zip(pooling(hidden), hidden.split(), strict=True):
        weights = torch.softmax(torch.tanh(utterance @ pooling.hidden.weight.T + pooling.hidden.bias)
                                @ pooling.score.weight.T, dim=0)  # fmt: skip
        expected = torch.cat([weights[:, 0] @ utterance[:, :4], weights[:, 1] @ utterance[:, 4:]])
        torch.testing.assert_close(row, expected)


def test_attention_starts_as_the_mean_and_learns() -> None:
    pooling, hidden = AttentionPooling(8, 6), frames(4, 2)
    torch.testing.assert_close(pooling(hidden), mean_pool(hidden))
    pooling(hidden).square().sum().backward()
    assert pooling.score.weight.grad is not None and pooling.score.weight.grad.abs().max() > 0


def test_statistics_are_means_and_deviations_under_the_same_weights() -> None:
    plain, both = AttentionPooling(8, 6), AttentionPooling(8, 6, statistics=True)
    hidden = frames(4, 1, 7)
    alone = torch.stack([torch.cat([one.mean(0), one.std(0, unbiased=False)]) for one in hidden.split()])
    alone[1, 8:] = 1e-3  # one frame does not deviate; the root of the least variance
    torch.testing.assert_close(both(hidden), alone)
    nn.init.normal_(both.score.weight)
    plain.load_state_dict(both.state_dict())
    found = both(hidden)
    torch.testing.assert_close(found[:, :8], plain(hidden))
    squares = hidden.with_values(hidden.values**2)
    weights = torch.cat([torch.softmax(both.score(torch.tanh(both.hidden(one))), dim=0) for one in hidden.split()])
    mean_square = torch.stack(
        [(w * one).sum(0) for w, one in zip(weights.split(hidden.lengths), squares.split(), strict=True)]
    )
    spread = (mean_square - found[:, :8] ** 2).clamp_min(1e-6).sqrt()
    torch.testing.assert_close(found[:, 8:], spread, atol=1e-3, rtol=1e-3)


def test_the_gradient_of_statistics_is_that_of_finite_differences() -> None:
    pooling = AttentionPooling(3, 4, statistics=True).double()
    nn.init.normal_(pooling.score.weight)
    values = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)

    def pooled(values: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(pooling, {"score.weight": score}, Packed(values, (4, 3)))

    inputs = (values, pooling.score.weight.detach().requires_grad_())
    assert torch.autograd.gradcheck(pooled, inputs, eps=1e-3, atol=1e-3)  # the softmax is in single precision


def test_layer_weights_mix() -> None:
    states = [frames(3, 2) for _ in range(3)]
    mix = LayerWeights(3)
    torch.testing.assert_close(mix(states).values, torch.stack([state.values for state in states]).mean(0))
    with torch.no_grad():
        mix.logits.copy_(torch.tensor([0.0, 0.0, 50.0]))
    torch.testing.assert_close(mix(states).values, states[2].values)
    assert mix(states).lengths == (3, 2)


def test_what_cannot_be_pooled() -> None:
    with pytest.raises(ShapeError, match="row 1 of the batch has no frame"):
        mean_pool(Packed(torch.randn(2, 3), (2, 0)))
    with pytest.raises(ShapeError, match="2 hidden states with 1 sets"):
        LayerWeights(3)([frames(2), frames(2)])
    with pytest.raises(ConfigError, match="3 heads cannot share 8"):
        AttentionPooling(8, heads=3)
