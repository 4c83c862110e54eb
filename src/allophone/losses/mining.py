"""Which pairs of a batch a contrast learns from: the hard ones, by one of four rules, with ways out of an empty choice.

Source: PairTune (Audio ConFit), arXiv:2309.11895, mines hard pairs; its rule was never published. The rules here are
named choices: ``multi-similarity`` is the mining step of Wang et al. 2019, arXiv:1904.06627, equations 11 and 12 (as
pytorch-metric-learning's ``MultiSimilarityMiner`` has it); ``batch-hard`` that of Hermans et al. 2017,
arXiv:1703.07737, section 2; ``hardest`` and ``margin`` are the plain forms of both. What to do where a rule keeps
nothing is ours.
Shape letters: B anchors of this process, N rows of all.

Nothing here has a gradient, draws at random or knows a label: similarities and candidates in, masks out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from allophone.errors import ConfigError, ShapeError

Rule = Literal["none", "multi-similarity", "batch-hard", "hardest", "margin"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MiningConfig:
    """A rule and its numbers; those of other rules are not read."""

    rule: Rule = "multi-similarity"
    """``none`` keeps every pair."""
    epsilon: float = 0.1
    """``multi-similarity``: keep a negative within this of the hardest positive, a positive within this of the hardest
    negative."""
    num_positives: int = 2
    """``hardest``: the least similar positives that are kept."""
    num_negatives: int = 32
    """``hardest``: the most similar negatives that are kept."""
    positive_below: float = 0.8
    """``margin``: keep positives with a cosine below this."""
    negative_above: float = 0.2
    """``margin``: keep negatives with a cosine above this."""
    fallback_negatives: int = 8
    """Most similar negatives that stand in where a rule keeps none; where it keeps no positive, all of them do."""
    guard: float | None = None
    """For labels that are incomplete or wrong: a negative more similar than the closest positive less this share of it
    is taken for an unmarked positive and left out (0.05 is usual). None = labels are trusted."""

    def __post_init__(self) -> None:
        if min(self.num_positives, self.num_negatives, self.fallback_negatives) < 1 or self.epsilon < 0:
            raise ConfigError(
                "Mining needs num_positives, num_negatives and fallback_negatives of at least 1 and epsilon of at "
                f"least 0; got {self}."
            )
        if self.guard is not None and not 0 <= self.guard < 1:
            raise ConfigError(f"Mining: guard is a share from 0 to below 1, or None; got {self.guard}.")


@dataclass(frozen=True, slots=True)
class Mined:
    """Pairs that are kept."""

    positives: Tensor
    """Shape ``(B, N)``, bool; no row is empty that had a positive."""
    negatives: Tensor
    """Shape ``(B, N)``, bool."""
    found: Tensor
    """Anchors for which the rule itself kept a positive and a negative, so no fallback was needed. ``(B,)``, bool."""


@torch.no_grad()
def mine(similarity: Tensor, positives: Tensor, negatives: Tensor, config: MiningConfig) -> Mined:
    """Choose the pairs of each anchor: guard, rule, then fallback.

    Args:
        similarity: Cosines of anchors with all rows. Shape ``(B, N)``, float.
        positives: Candidates. Shape ``(B, N)``, bool; an anchor is no candidate of its own.
        negatives: Candidates. Shape ``(B, N)``, bool.
        config: The rule.

    Raises:
        ShapeError: The three shapes differ.

    Example:
        >>> pairs = torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]])
        >>> mine(torch.tensor([[0.9, 0.1, 0.5]]), *pairs, MiningConfig(rule="batch-hard")).positives.tolist()
        [[False, True, False]]
    """
    if not similarity.shape == positives.shape == negatives.shape or similarity.ndim != 2:
        raise ShapeError(
            f"mine: similarity {tuple(similarity.shape)}, positives {tuple(positives.shape)}, negatives "
            f"{tuple(negatives.shape)}; expected (anchors, rows) three times."
        )
    if config.guard is not None:
        negatives = guarded(similarity, positives, negatives, config.guard)
    kept_positives, kept_negatives = keep_by_rule(similarity, positives, negatives, config)
    no_positive, no_negative = ~kept_positives.any(dim=1, keepdim=True), ~kept_negatives.any(dim=1, keepdim=True)
    standing_in = _top(similarity, negatives, config.fallback_negatives)
    return Mined(
        kept_positives | (positives & no_positive),
        kept_negatives | (standing_in & no_negative),
        ~(no_positive | no_negative).squeeze(1),
    )


def guarded(similarity: Tensor, positives: Tensor, negatives: Tensor, share: float) -> Tensor:
    """Negatives without those that are suspiciously similar.

    The bound is ``s - share * |s|`` with s the closest positive's cosine; the absolute value keeps it below s where s
    is negative (without it, the bound would then lie above, sentence-transformers issue 3819). An anchor without a
    positive keeps all.

    Args:
        similarity: Shape ``(B, N)``, float.
        positives: Shape ``(B, N)``, bool.
        negatives: Shape ``(B, N)``, bool.
        share: Distance of the bound from s, as a share of s.

    Returns:
        Shape ``(B, N)``, bool.
    """
    closest = similarity.masked_fill(~positives, -math.inf).amax(dim=1, keepdim=True)
    bound = torch.where(closest.isfinite(), closest - share * closest.abs(), math.inf)
    return negatives & (similarity <= bound)


def keep_by_rule(
    similarity: Tensor, positives: Tensor, negatives: Tensor, config: MiningConfig
) -> tuple[Tensor, Tensor]:
    """What the rule alone keeps; rows may end up empty.

    Args:
        similarity: Shape ``(B, N)``, float.
        positives: Shape ``(B, N)``, bool.
        negatives: Shape ``(B, N)``, bool.
        config: The rule.

    Returns:
        Positives and negatives, each of shape ``(B, N)``, bool.
    """
    match config.rule:
        case "none":
            return positives, negatives
        case "multi-similarity":
            least = similarity.masked_fill(~positives, math.inf).amin(dim=1, keepdim=True)
            most = similarity.masked_fill(~negatives, -math.inf).amax(dim=1, keepdim=True)
            near_most, near_least = similarity - config.epsilon < most, similarity + config.epsilon > least
            return positives & near_most, negatives & near_least
        case "batch-hard":
            return _top(-similarity, positives, 1), _top(similarity, negatives, 1)
        case "hardest":
            kept = _top(-similarity, positives, config.num_positives)
            return kept, _top(similarity, negatives, config.num_negatives)
        case "margin":
            return positives & (similarity < config.positive_below), negatives & (similarity > config.negative_above)


def _top(values: Tensor, candidates: Tensor, count: int) -> Tensor:
    """The candidates with the ``count`` largest values of each row. Shapes ``(B, N)``."""
    places = values.masked_fill(~candidates, -math.inf).topk(min(count, values.shape[1]), dim=1).indices
    return torch.zeros_like(candidates).scatter(1, places, True) & candidates
