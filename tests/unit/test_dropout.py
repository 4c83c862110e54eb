"""Dropout drawn four values at a time, and attention that draws it again in its backward pass."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from allophone.nn.dropout import Dropout, drop_, kept, scale
from allophone.nn.trained_attention import trained_attention


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.999999])
def test_the_share_that_stays_is_the_one_asked_for(probability: float) -> None:
    stay = kept((301, 997), probability, seed=3)
    share = 1 / scale(probability)
    assert share == pytest.approx(1 - probability, abs=2**-16)
    assert stay.double().mean().item() == pytest.approx(
        share, abs=4 * (share * (1 - share) / stay.numel()) ** 0.5 + 1e-12
    )
    assert torch.equal(stay, kept((301, 997), probability, seed=3))


def test_neighbors_are_independent_and_seeds_differ() -> None:
    stay = kept((400_003,), 0.5, seed=0).double() - 0.5
    for lag in (1, 2, 3, 4, 5):
        assert abs(4 * (stay[lag:] * stay[:-lag]).mean()) < 4 / len(stay) ** 0.5
    assert abs(4 * (stay * (kept((400_003,), 0.5, seed=1).double() - 0.5)).mean()) < 4 / len(stay) ** 0.5


def test_values_and_gradients_share_their_zeros_and_follow_the_seed_of_torch() -> None:
    layer, values = Dropout(0.3), torch.ones(50, 40, requires_grad=True)
    torch.manual_seed(1)
    dropped = layer(values)
    dropped.sum().backward()
    assert values.grad is not None and torch.equal(values.grad, dropped.detach())
    assert dropped.unique().tolist() == pytest.approx([0.0, scale(0.3)])
    torch.manual_seed(1)
    assert torch.equal(layer(values), dropped)
    assert not torch.equal(layer(values), dropped)


def test_evaluation_and_probability_zero_change_nothing() -> None:
    values = torch.randn(5)
    assert Dropout(0.5).eval()(values) is values
    assert Dropout(0.0)(values) is values


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_trained_attention_is_attention_with_its_gradients(masked: bool, dropout: float) -> None:
    shape = (2, 3, 17, 8)
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    if masked:
        leaves.append(torch.randn(2, 3, 17, 17, generator=generator, dtype=torch.float64).requires_grad_())
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    torch.manual_seed(5)
    ours = trained_attention(*leaves[:3], leaves[3] if masked else None, dropout)
    gradients = torch.autograd.grad((ours * weights).sum(), leaves)
    torch.manual_seed(5)
    stay = kept((2, 3, 17, 17), dropout, int(torch.randint(2**62, ()))) if dropout else torch.ones(2, 3, 17, 17)
    queries, keys, values = leaves[:3]
    logits = queries @ keys.mT / 8**0.5 + (leaves[3] if masked else 0.0)
    theirs = (logits.softmax(-1) * stay * scale(dropout)) @ values
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(gradients, torch.autograd.grad((theirs * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(one, other)
    if not dropout:
        torch.testing.assert_close(ours, functional.scaled_dot_product_attention(*leaves[:3], *leaves[3:]))


def test_under_autocast_attention_stays_in_the_dtype_of_its_inputs() -> None:
    inputs = [torch.randn(1, 2, 9, 4, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attended = trained_attention(*inputs, None, 0.1)
    attended.sum().backward()
    assert attended.dtype == torch.bfloat16
    assert all(leaf.grad is not None and leaf.grad.dtype == torch.bfloat16 for leaf in inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_values_that_do_not_stay_become_zero_and_others_keep_every_bit(dtype: torch.dtype) -> None:
    values = torch.randn(7, 5).to(dtype)
    stay = kept((7, 5), 0.4, seed=3)
    expected = torch.where(stay, values, torch.zeros((), dtype=dtype))
    assert torch.equal(drop_(values.clone(), stay), expected)
    turned = values.clone().t()  # a view that is not contiguous
    assert torch.equal(drop_(turned, stay.t()), expected.t())
