"""Losses of texts, against torch and by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from allophone.batch import Packed
from allophone.errors import ConfigError, ShapeError
from allophone.losses.sequence import IGNORED, ctc_loss, smoothed_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_that_of_torch_in_value_and_gradient(smoothing: float) -> None:
    logits = (3 * torch.randn(2, 5, 11)).requires_grad_()
    labels = torch.randint(11, (2, 5))
    labels[0, 3:] = IGNORED
    found = smoothed_cross_entropy(logits, labels, smoothing)
    found.loss_sum.backward()
    gradient, logits.grad = logits.grad, None
    flat = logits.flatten(0, 1)
    expected = F.cross_entropy(flat, labels.flatten(), label_smoothing=smoothing, reduction="sum")
    expected.backward()
    torch.testing.assert_close(found.loss_sum, expected)
    torch.testing.assert_close(gradient, logits.grad)
    torch.testing.assert_close(found.nll_sum, F.cross_entropy(flat, labels.flatten(), reduction="sum").detach())
    real = labels != IGNORED
    assert int(found.tokens) == 8 and int(found.hits) == int((logits.argmax(-1)[real] == labels[real]).sum())


def test_ctc_sums_over_paths_and_counts_what_cannot_be() -> None:
    frames = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.5, 0.5], [0.5, 0.5]]).log()
    found = ctc_loss(Packed(frames, (2, 2)), [[1], [1]])
    by_hand = -(torch.tensor(0.64).log() + torch.tensor(0.75).log())  # all paths but "blank, blank"
    torch.testing.assert_close(found.loss_sum, by_hand)
    assert int(found.symbols) == 2 and int(found.impossible) == 0
    values = torch.randn(6, 4, requires_grad=True)
    found = ctc_loss(Packed(values, (2, 4)), [[1, 1, 1], [2, 3]])  # three of a kind need five frames
    found.loss_sum.backward()
    assert int(found.impossible) == 1 and bool(values.grad.isfinite().all()) and not values.grad[:2].any()
    alone = ctc_loss(Packed(values[2:], (4,)), [[2, 3]])
    torch.testing.assert_close(found.loss_sum, alone.loss_sum)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="smoothing of 1"):
        smoothed_cross_entropy(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.int64), 1.0)
    with pytest.raises(ShapeError, match="do not fit"):
        smoothed_cross_entropy(torch.zeros(1, 2, 2), torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(ShapeError, match="2 texts for 1 utterances"):
        ctc_loss(Packed(torch.zeros(2, 2), (2,)), [[1], [1]])
