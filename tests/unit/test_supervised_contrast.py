"""The supervised contrast: by hand, with several labels, without positives, and its fixed points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from allophone.errors import ShapeError
from allophone.losses.supervised_contrast import cosines, gather_labelled, jaccard, supervised_contrast_loss


def loss(vectors: Tensor, labels: Tensor, temperature: float = 0.5) -> Tensor:
    rows = gather_labelled(vectors, labels)
    return supervised_contrast_loss(cosines(rows), rows.weights, rows.positives, rows.negatives, temperature)


def test_by_hand() -> None:
    """Anchors at right angles: one positive at cosine 1 and one negative at cosine 0."""
    vectors = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    labels = torch.tensor([[0], [0], [1]])
    expected = 2 * math.log(1 + math.exp(-1 / 0.5))  # two anchors; the third has no positive
    assert float(loss(vectors, labels)) == pytest.approx(expected, abs=1e-12)


def test_a_row_is_neither_its_own_positive_nor_negative() -> None:
    rows = gather_labelled(torch.randn(4, 3), torch.tensor([[0], [0], [1], [2]]))
    assert not rows.positives.diagonal().any() and not rows.negatives.diagonal().any()
    assert rows.positives.int().tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert (rows.positives | rows.negatives | rows.own).all()


def test_jaccard_weighs_several_labels() -> None:
    weights = jaccard(torch.tensor([[0, 1, -1], [5, -1, -1], [-1, -1, -1]]), torch.tensor([[1, 0], [1, 2], [-1, -1]]))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 1 / 3, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))


def test_several_labels_by_hand() -> None:
    vectors = torch.eye(3, dtype=torch.float64)
    labels = torch.tensor([[0, 1], [0, 1], [1, 2]])
    rows = gather_labelled(vectors, labels)
    assert rows.weights[0].tolist() == pytest.approx([0.0, 1.0, 1 / 3])
    assert float(loss(vectors, labels)) == pytest.approx(3 * math.log(2))  # all cosines 0: each positive has half
    near = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    one, two = -math.log(math.e**2 / (math.e**2 + 1)), -math.log(1 / (math.e**2 + 1))
    anchor = (one + two / 3) / (4 / 3)
    assert float(loss(near, labels)) == pytest.approx(2 * anchor + math.log(2))


def test_an_anchor_without_positive_adds_nothing_but_pushes() -> None:
    vectors = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0], [1], [0], [2], [3]])
    total = loss(vectors, labels)
    total.backward()
    assert vectors.grad is not None and bool(vectors.grad.isfinite().all()) and bool((vectors.grad[3] != 0).any())
    alone = torch.randn(3, 4, requires_grad=True)
    nothing = loss(alone, torch.tensor([[0], [1], [2]]))
    nothing.backward()
    assert float(nothing.detach()) == 0.0 and alone.grad is not None and not alone.grad.any()


def test_low_temperature_and_half_precision_stay_finite() -> None:
    vectors = torch.randn(8, 4).bfloat16().requires_grad_()
    value = loss(vectors, torch.arange(8)[:, None] % 3, temperature=0.01)
    value.backward()
    assert value.dtype == torch.float32 and bool(value.isfinite())
    assert vectors.grad is not None and bool(vectors.grad.isfinite().all())


def test_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"vectors \(3, 2\) and labels \(3,\)"):
        gather_labelled(torch.ones(3, 2), torch.ones(3))
