"""Comparisons of arms: pairing, worst and mean over conditions, verdicts, and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from allophone.errors import DataError
from allophone.evaluate.claim import (
    Contrast,
    Observation,
    Scale,
    effect,
    level,
    load_observations,
    save_observations,
)
from allophone.evaluate.claim_page import ClaimPage, write_claim_page
from allophone.metrics.intervals import combined_bootstrap, paired_bootstrap

ERRORS = Scale(measure="e", title="Errors", unit="points", factor=100.0, higher_is_better=False, explanation="Errors.")
HITS = replace(ERRORS, higher_is_better=True)
ITEMS = tuple(f"clip {number}" for number in range(60))


def observation(arm: str, condition: str, rate: float, seed: int = 0, *, key: int = 0) -> Observation:
    draw = np.random.default_rng([key, seed])
    errors = draw.binomial(20, rate, len(ITEMS)).astype(float)
    return Observation(
        arm=arm,
        measure="e",
        condition=condition,
        seed=seed,
        items=ITEMS,
        numerators=errors,
        denominators=np.full(len(ITEMS), 20.0),
    )


def world() -> list[Observation]:
    """Two arms under two conditions; ``new`` is better under ``a`` and alike under ``b``."""
    return [
        observation(arm, condition, rate, seed, key=number)
        for seed in range(3)
        for number, (arm, condition, rate) in enumerate(
            [("old", "a", 0.5), ("new", "a", 0.3), ("old", "b", 0.2), ("new", "b", 0.2)]
        )
    ]


def contrast(*conditions: str, combine: str = "mean", arm: str = "new", baseline: str = "old") -> Contrast:
    return Contrast(
        name="new against old",
        arm=arm,
        baseline=baseline,
        measure="e",
        conditions=conditions,
        combine=combine,  # type: ignore[arg-type]
    )


def test_an_improvement_is_positive_whatever_the_direction_of_the_measure() -> None:
    found = effect(world(), contrast("a"), ERRORS)
    assert found.holds is True and found.seeds == 3
    assert 15 < found.improvement.low < found.improvement.value < found.improvement.high < 25
    assert str(found).endswith(f"({found.improvement.low:+.1f} to {found.improvement.high:+.1f})")
    assert effect(world(), contrast("a"), HITS).holds is False
    assert effect(world(), contrast("a", arm="old", baseline="new"), ERRORS).holds is False
    assert effect(world(), contrast("b"), ERRORS).holds is None


def test_mean_and_worst_over_conditions() -> None:
    rates = {
        (arm, condition): np.mean([one.numerators.mean() / 20 for one in world() if (one.arm, one.condition) == key])
        for key in [("old", "a"), ("new", "a"), ("old", "b"), ("new", "b")]
        for arm, condition in [key]
    }
    mean = effect(world(), contrast("a", "b"), ERRORS).improvement.value
    expected = (rates["old", "a"] + rates["old", "b"] - rates["new", "a"] - rates["new", "b"]) / 2
    assert mean == pytest.approx(100 * expected)
    worst = effect(world(), contrast("a", "b", combine="worst"), ERRORS).improvement.value
    assert worst == pytest.approx(100 * (rates["old", "a"] - rates["new", "a"]))


def test_one_condition_is_the_paired_bootstrap_up_to_its_draws() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.random((3, 40)), generator.random((3, 40))
    ones = np.ones((3, 40))
    mine = combined_bootstrap([(first, ones)], [(second, ones)], lambda rates: rates[:, 0], resamples=20_000)
    other = paired_bootstrap(first, second, resamples=20_000)
    assert mine.value == pytest.approx(other.value)
    assert [mine.low, mine.high] == pytest.approx([other.low, other.high], abs=0.015)


def test_sets_of_the_same_items_share_their_draws() -> None:
    values, ones = np.random.default_rng(1).random((1, 30)), np.ones((1, 30))
    same = combined_bootstrap([(values, ones)] * 2, None, lambda rates: rates[:, 0] - rates[:, 1], item_sets=[0, 0])
    other = combined_bootstrap([(values, ones)] * 2, None, lambda rates: rates[:, 0] - rates[:, 1])
    assert same.low == same.high == 0.0
    assert other.low < 0 < other.high


def test_arms_on_other_items_or_seeds_are_refused() -> None:
    shifted = [replace(one, items=tuple(reversed(ITEMS))) if one.arm == "new" else one for one in world()]
    with pytest.raises(DataError, match="different items or seeds"):
        effect(shifted, contrast("a"), ERRORS)
    fewer = [one for one in world() if one.arm == "old" or one.seed < 2]
    with pytest.raises(DataError, match="different items or seeds"):
        effect(fewer, contrast("a"), ERRORS)
    with pytest.raises(DataError, match="was not scored by 'e' under 'c'"):
        effect(world(), contrast("c"), ERRORS)
    with pytest.raises(DataError, match="a seed occurs twice"):
        effect([*world(), world()[0]], contrast("a"), ERRORS)
    with pytest.raises(DataError, match="expected as many of each"):
        combined_bootstrap([(np.ones(3), np.ones(3))], [], lambda rates: rates[:, 0])
    with pytest.raises(DataError, match="same items with as many seeds"):
        combined_bootstrap([(np.ones(3), 1.0)], [(np.ones(4), 1.0)], lambda rates: rates[:, 0])


def test_observations_come_back_and_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "observations.parquet"
    save_observations(world(), path)
    found = load_observations(path)
    assert len(found) == len(world())
    for one, other in zip(found, world(), strict=True):
        assert (one.arm, one.condition, one.seed, one.items) == (other.arm, other.condition, other.seed, other.items)
        np.testing.assert_array_equal(one.numerators, other.numerators)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="Delete it and run again"):
        load_observations(path)


def test_the_page_tells_the_verdict_and_loads_nothing(tmp_path: Path) -> None:
    effects = (effect(world(), contrast("b"), ERRORS), effect(world(), contrast("a"), ERRORS))
    page = ClaimPage(
        name="tests",
        paper="none",
        says="New is <better>.",
        design="Two arms.",
        arms=("old", "new"),
        scales=(ERRORS,),
        observations=tuple(world()),
        effects=effects,
        facts=(("Seeds", "0, 1, 2"),),
        command="allophone claims run tests",
    )
    html = write_claim_page(page, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "not decided here" in html and "New is &lt;better&gt;." in html
    assert "http" not in html.replace("http-equiv", "").split("</style>")[1]
    interval = level(world(), "new", ERRORS, ["a"])
    assert interval is not None and f"{interval.value:.1f}" in html
    assert level(world(), "new", ERRORS, ["a", "c"]) is None
