"""Losses of whole texts: smoothed cross-entropy of tokens, and CTC.

Sums, never means: the caller divides once by the tokens of all processes. Shape letters: B utterances, L tokens of the
longest text, N tokens of all, T frames of the longest utterance, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from allophone.batch import Packed
from allophone.errors import ConfigError, ShapeError

IGNORED = -100
"""Label that stands for no token."""


@dataclass(frozen=True, slots=True)
class TokenSums:
    """What a loss of tokens gives back."""

    loss_sum: Tensor
    """Shape ``()``, float32."""
    nll_sum: Tensor
    """The same without smoothing, detached. Shape ``()``, float32."""
    hits: Tensor
    """Tokens whose most probable guess is right. Shape ``()``, int64."""
    tokens: Tensor
    """Real labels. Shape ``()``, int64."""


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.1) -> TokenSums:
    """Cross-entropy with a share of the target spread evenly over the vocabulary.

    Args:
        logits: Shape ``(B, L, V)``, any float dtype.
        labels: Shape ``(B, L)``, int64; :data:`IGNORED` counts for nothing.
        smoothing: The share that is spread, 0 to below 1.

    Raises:
        ConfigError: ``smoothing`` is out of range.
        ShapeError: The two do not fit together.

    Source:
        Szegedy et al. 2016, arXiv:1512.00567, section 7. Relates to: equal to ``torch``'s ``cross_entropy`` with
        ``label_smoothing`` and ``reduction="sum"``.
    """
    if not 0 <= smoothing < 1:
        raise ConfigError(f"Label smoothing of {smoothing}; expected 0 to below 1 (0.1 is usual).")
    if logits.shape[:-1] != labels.shape:
        raise ShapeError(f"cross-entropy: logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit.")
    real = labels != IGNORED
    scores, said = logits[real].float(), labels[real]
    normalizer = scores.logsumexp(dim=-1)
    nll = (normalizer - scores.gather(1, said[:, None])[:, 0]).sum()
    loss = (1 - smoothing) * nll + smoothing * (normalizer - scores.mean(dim=-1)).sum()
    hits = (scores.detach().argmax(dim=-1) == said).sum()
    return TokenSums(loss, nll.detach(), hits, real.sum())


@dataclass(frozen=True, slots=True)
class CtcSums:
    """What the CTC loss gives back."""

    loss_sum: Tensor
    """Shape ``()``, float32."""
    symbols: Tensor
    """Of all texts. Shape ``()``, int64."""
    impossible: Tensor
    """Utterances with too few frames for their text, which add no loss. Shape ``()``, int64."""


def ctc_loss(logits: Packed, texts: Sequence[Sequence[int]]) -> CtcSums:
    """Negative log-probability of all paths that spell the texts, summed.

    Args:
        logits: Of each frame, ``values`` of shape ``(N, V)``; symbol 0 is the blank.
        texts: Symbols of each utterance, none of them 0.

    Raises:
        ShapeError: There are not as many texts as utterances.

    Source:
        Graves et al. 2006, Connectionist temporal classification, equations 3 and 8. Relates to: ``torch``'s
        ``ctc_loss`` with ``reduction="sum"``.
    """
    if len(texts) != len(logits.lengths):
        raise ShapeError(f"CTC: {len(texts)} texts for {len(logits.lengths)} utterances.")
    device = logits.values.device
    flat = torch.tensor([symbol for text in texts for symbol in text], dtype=torch.int64, device=device)
    with torch.autocast(device.type, enabled=False):
        log_probabilities = logits.with_values(logits.values.float().log_softmax(dim=-1)).padded()
        loss = F.ctc_loss(
            log_probabilities.transpose(0, 1),
            flat,
            torch.tensor(logits.lengths),
            torch.tensor([len(text) for text in texts]),
            reduction="sum",
            zero_infinity=True,
        )
    impossible = sum(_frames_needed(text) > frames for text, frames in zip(texts, logits.lengths, strict=True))
    return CtcSums(loss, torch.tensor(len(flat), device=device), torch.tensor(impossible, device=device))


def _frames_needed(text: Sequence[int]) -> int:
    """One a symbol, and one for the blank between two that are the same."""
    return len(text) + sum(first == second for first, second in pairwise(text))
