"""Mining by hand-made similarities: what each rule keeps, the ways out of an empty choice, the guard."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allophone.errors import ConfigError, ShapeError
from allophone.losses.mining import MiningConfig, Rule, guarded, keep_by_rule, mine

SIMILARITY = torch.tensor([[1.0, 0.9, 0.3, 0.5, 0.25, -0.2]])
POSITIVES = torch.tensor([[0, 1, 1, 0, 0, 0]]).bool()
NEGATIVES = torch.tensor([[0, 0, 0, 1, 1, 1]]).bool()


def places(mask: Tensor) -> list[int]:
    return mask[0].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("rule", "positives", "negatives"),
    [
        ("none", [1, 2], [3, 4, 5]),
        ("multi-similarity", [2], [3, 4]),  # 0.3 - 0.1 < 0.5 but 0.9 - 0.1 is not; 0.25 + 0.1 > 0.3, -0.2 + 0.1 is not
        ("batch-hard", [2], [3]),
        ("hardest", [1, 2], [3, 4, 5]),
        ("margin", [2], [3, 4]),
    ],
)
def test_each_rule_keeps_its_pairs(rule: Rule, positives: list[int], negatives: list[int]) -> None:
    found = mine(SIMILARITY, POSITIVES, NEGATIVES, MiningConfig(rule=rule))
    assert places(found.positives) == positives and places(found.negatives) == negatives
    assert found.found.tolist() == [True]


def test_hardest_counts() -> None:
    config = MiningConfig(rule="hardest", num_positives=1, num_negatives=2)
    found = mine(SIMILARITY, POSITIVES, NEGATIVES, config)
    assert places(found.positives) == [2] and places(found.negatives) == [3, 4]


def test_what_a_rule_leaves_empty_is_filled() -> None:
    easy = torch.tensor([[1.0, 0.95, 0.9, 0.1, 0.0, -0.2]])
    for rule in ("multi-similarity", "margin"):
        config = MiningConfig(rule=rule, fallback_negatives=2)  # type: ignore[arg-type]
        kept = keep_by_rule(easy, POSITIVES, NEGATIVES, config)
        assert not kept[0].any() and not kept[1].any()
        found = mine(easy, POSITIVES, NEGATIVES, config)
        assert places(found.positives) == [1, 2] and places(found.negatives) == [3, 4]
        assert found.found.tolist() == [False]


def test_an_anchor_without_candidates_stays_empty() -> None:
    nothing = torch.zeros_like(POSITIVES)
    for rule in ("none", "multi-similarity", "batch-hard", "hardest", "margin"):
        found = mine(SIMILARITY, nothing, NEGATIVES, MiningConfig(rule=rule))  # type: ignore[arg-type]
        assert not found.positives.any() and not found.found.any()
        found = mine(SIMILARITY, POSITIVES, nothing, MiningConfig(rule=rule))  # type: ignore[arg-type]
        assert found.positives.any() and not found.negatives.any() and not found.found.any()


def test_the_guard_drops_likely_positives_also_below_zero() -> None:
    positives, negatives = torch.tensor([[1, 0, 0]]).bool(), torch.tensor([[0, 1, 1]]).bool()
    assert places(guarded(torch.tensor([[0.8, 0.77, 0.5]]), positives, negatives, 0.05)) == [2]  # bound 0.76
    assert places(guarded(torch.tensor([[-0.8, -0.82, -0.9]]), positives, negatives, 0.05)) == [2]  # bound -0.84
    assert places(guarded(torch.tensor([[0.8, 0.9, 0.5]]), ~positives & positives, negatives, 0.05)) == [1, 2]
    config = MiningConfig(rule="batch-hard", guard=0.05)
    assert places(mine(torch.tensor([[0.8, 0.77, 0.5]]), positives, negatives, config).negatives) == [2]


def test_no_gradient_flows_and_nonsense_is_refused() -> None:
    similarity = SIMILARITY.clone().requires_grad_()
    assert not mine(similarity, POSITIVES, NEGATIVES, MiningConfig()).positives.requires_grad
    with pytest.raises(ShapeError, match=r"similarity \(1, 6\), positives \(1, 5\)"):
        mine(SIMILARITY, POSITIVES[:, 1:], NEGATIVES, MiningConfig())
    with pytest.raises(ConfigError, match="at least 1 and epsilon"):
        MiningConfig(num_positives=0)
    with pytest.raises(ConfigError, match="guard is a share"):
        MiningConfig(guard=1.5)
