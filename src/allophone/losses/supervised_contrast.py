"""Supervised contrast: rows of one class are drawn together and away from the others, over all processes.

Source: Khosla et al. 2020, arXiv:2004.11362, equation 2 (L_out: the mean over positives outside the logarithm). Mined
pairs stand in the denominator too, as in PairTune (arXiv:2309.11895) and pytorch-metric-learning's ``SupConLoss``.
Several labels a row: PairTune's later versions weigh positives by the Jaccard index of their labels; the formula is
ours, as none was published: ``-sum_j w_ij log p_ij / sum_j w_ij``.
Shape letters: B rows of this process, N rows of all, D dim, F labels of one row.

Functions return sums over the B rows of this process. Known traps that are not repeated here: the authors' code of the
loss scales it by temperature / 0.07 and calls an anchor without positives one with a positive; here neither happens,
such an anchor adds nothing and is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from allophone.distributed import gather, gather_rows, rank
from allophone.errors import ShapeError


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Rows of this process beside those of all, every vector of length 1."""

    rows: Tensor
    """Shape ``(B, D)``, float32 (float64 where it was given)."""
    all_rows: Tensor
    """Shape ``(N, D)``, by process."""
    weights: Tensor
    """How far each row of all is a positive of each of these. Shape ``(B, N)``, float, 0 to 1; 0 for a row itself."""
    own: Tensor
    """Which row of all each of these is. Shape ``(B, N)``, bool, one a row."""

    @property
    def positives(self) -> Tensor:
        """Rows that share a label, themselves left out. Shape ``(B, N)``, bool."""
        return self.weights > 0

    @property
    def negatives(self) -> Tensor:
        """Rows that share no label. Shape ``(B, N)``, bool."""
        return ~(self.positives | self.own)


def jaccard(first: Tensor, second: Tensor) -> Tensor:
    """Shared labels over all labels of each two rows; 1 where both have the same, 0 where they share none.

    Args:
        first: Labels of each row, none twice in a row. Shape ``(B, F)``, int64, -1 = none.
        second: Shape ``(N, other F)``, int64.

    Returns:
        Shape ``(B, N)``, float32; 0 between rows without a label.

    Example:
        >>> jaccard(torch.tensor([[3, 7]]), torch.tensor([[7, -1], [7, 3], [1, 2]])).tolist()
        [[0.5, 1.0, 0.0]]
    """
    shared = torch.zeros(len(first), len(second), device=first.device)
    for one in first.unbind(1):  # loops over few labels, so that (B, N, F, F) is never there
        for other in second.unbind(1):
            shared += (one[:, None] == other[None, :]) & (one >= 0)[:, None]
    known = (first >= 0).sum(dim=1)[:, None] + (second >= 0).sum(dim=1)[None, :]
    return shared / (known - shared).clamp(min=1)


def label_weights(labels: Tensor) -> tuple[Tensor, Tensor]:
    """How far each row of all processes is a positive of each row of this one; every process must call it.

    Args:
        labels: Shape ``(B, F)``, int64, -1 = none; processes may differ in F.

    Returns:
        Weights, shape ``(B, N)``, float32, and which row of all each is, shape ``(B, N)``, bool.
    """
    found = gather(tuple(labels.shape))
    start = sum(rows for rows, _ in found[: rank()])
    everyone = gather_rows(F.pad(labels, (0, max(width for _, width in found) - labels.shape[1]), value=-1))
    places = torch.arange(len(everyone), device=labels.device)
    own = places[None, :] == places[start : start + len(labels), None]
    return jaccard(labels, everyone).masked_fill(own, 0.0), own


def gather_labelled(vectors: Tensor, labels: Tensor) -> LabelledRows:
    """Scale vectors to length 1 and put the rows of all processes beside them; every process must call it.

    Args:
        vectors: Shape ``(B, D)``, any float dtype.
        labels: Shape ``(B, F)``, int64, -1 = none.

    Raises:
        ShapeError: The two do not have these shapes.
    """
    if vectors.ndim != 2 or labels.ndim != 2 or len(vectors) != len(labels):
        raise ShapeError(
            f"gather_labelled: vectors {tuple(vectors.shape)} and labels {tuple(labels.shape)}; expected (batch, dim) "
            "and (batch, labels)."
        )
    with torch.autocast(vectors.device.type, enabled=False):
        rows = F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
        all_rows = gather_rows(rows)
    weights, own = label_weights(labels)
    return LabelledRows(rows, all_rows, weights.to(rows.dtype), own)


def cosines(labelled: LabelledRows) -> Tensor:
    """Similarity of each row of this process with each of all. Shape ``(B, N)``."""
    with torch.autocast(labelled.rows.device.type, enabled=False):
        return labelled.rows @ labelled.all_rows.T


def supervised_contrast_loss(
    similarity: Tensor, weights: Tensor, positives: Tensor, negatives: Tensor, temperature: float
) -> Tensor:
    """Cross-entropy of each anchor's positives among its kept rows, averaged over its positives.

    Args:
        similarity: Cosines. Shape ``(B, N)``, float.
        weights: Of the positives. Shape ``(B, N)``, float.
        positives: Kept positives. Shape ``(B, N)``, bool; an anchor without one adds nothing.
        negatives: Kept negatives. Shape ``(B, N)``, bool.
        temperature: Divides the cosines.

    Returns:
        Sum over anchors. Shape ``()``.

    Relates to:
        SupCon's L_out times the anchors that have a positive, where nothing is mined and every weight is 0 or 1.
    """
    active = positives.any(dim=1)
    logits = similarity / temperature
    kept = positives | negatives | ~active[:, None]  # a row of nothing would have no finite logarithm
    log_share = logits - logits.masked_fill(~kept, -math.inf).logsumexp(dim=1, keepdim=True)
    weighed = weights * positives
    sums = (weighed * log_share).sum(dim=1) / weighed.sum(dim=1).clamp(min=torch.finfo(weights.dtype).tiny)
    return -sums.masked_fill(~active, 0.0).sum()
