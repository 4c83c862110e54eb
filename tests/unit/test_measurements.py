"""Scores, changes and their verdicts from items."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from allophone.errors import ConfigError, DataError
from allophone.evaluate.measurements import (
    MEASURES,
    MIN_ITEMS,
    SYSTEMS,
    Measurement,
    changes,
    load_measurements,
    load_signature,
    save_measurements,
    scores,
)
from allophone.evaluate.result import Signature


def measurement(
    values: Any, *, measure: str = "character_error_all", system: Any = "after", seed: int = 0, **other: Any
) -> Measurement:
    """Items 0, 1, ... with ``values`` over 10 (or over ``denominators``)."""
    numerators = np.asarray(values, dtype=np.float64)
    given = {
        "language": "bul_Cyrl",
        "items": tuple(f"item {number}" for number in range(len(numerators))),
        "denominators": np.full(len(numerators), 10.0),
    }
    return Measurement(measure=measure, system=system, seed=seed, numerators=numerators, **(given | other))


def pair(before: Any, after: Any, measure: str = "character_error_all") -> list[Measurement]:
    baseline = MEASURES[measure].baseline
    return [measurement(before, measure=measure, system=baseline), measurement(after, measure=measure)]


HARDNESS = np.random.default_rng(0).uniform(1, 9, 60)


def test_a_score_is_a_ratio_of_sums_not_a_mean_of_ratios() -> None:
    one = measurement([1, 30], denominators=np.array([1.0, 100.0]))
    (score,) = scores([one])
    assert score.interval.value == pytest.approx(100 * 31 / 101)
    assert score.interval.low <= score.interval.value <= score.interval.high
    assert (score.interval.n, score.seeds) == (2, 1)


def test_scores_come_in_the_order_of_tables() -> None:
    given = [
        measurement(HARDNESS, system=system, measure=measure)
        for system in reversed(SYSTEMS)
        for measure in ("language_identification", "retrieval_dtw")
    ]
    keys = [(score.measure, score.system) for score in scores(given)]
    assert keys == [(measure, system) for measure in ("retrieval_dtw", "language_identification") for system in SYSTEMS]


@pytest.mark.parametrize(
    ("measure", "step", "verdict"),
    [
        ("character_error_all", -0.5, "better"),
        ("character_error_all", 0.5, "worse"),
        ("retrieval_dtw", 0.5, "better"),
        ("retrieval_dtw", -0.5, "worse"),
        ("masked_loss_own_units", -0.5, "better"),
    ],
)
def test_relative_change_is_positive_when_better(measure: str, step: float, verdict: str) -> None:
    (change,) = changes(pair(HARDNESS, HARDNESS + step, measure))
    assert change.verdict == verdict
    assert (change.relative.value > 0) == (verdict == "better")
    assert change.relative.low <= change.relative.value <= change.relative.high
    assert math.copysign(1, change.difference.value) == math.copysign(1, step)
    assert change.difference.value == pytest.approx(step / 10 * MEASURES[measure].scale)
    assert abs(change.relative.value) == pytest.approx(100 * abs(step) / HARDNESS.mean())


def test_noise_is_no_clear_change() -> None:
    noise = np.random.default_rng(1).normal(size=60)
    (change,) = changes(pair(HARDNESS, HARDNESS + noise - noise.mean()))
    assert change.verdict == "no clear change"
    assert change.relative.low < 0 < change.relative.high


def test_pairing_by_item_sees_what_separate_intervals_cannot() -> None:
    given = pair(HARDNESS, HARDNESS - 0.2 + np.random.default_rng(2).normal(size=60) * 0.1)
    before, after = scores(given)
    assert after.interval.high > before.interval.low, "the intervals of the two scores overlap"
    assert changes(given)[0].verdict == "better"


def test_seeds_are_drawn_too() -> None:
    """Seeds that disagree by more than the change leave it unclear, however sure each seed is of itself."""
    before = [measurement(HARDNESS, system="before", seed=seed) for seed in range(3)]
    agreed = [measurement(HARDNESS - 0.4, seed=seed) for seed in range(3)]
    torn = [measurement(HARDNESS + step, seed=seed) for seed, step in enumerate((-3.0, 0.6, 1.2))]
    assert changes([*before, *agreed])[0].verdict == "better"
    unsure = changes([*before, *torn])[0]
    assert (unsure.verdict, unsure.seeds) == ("no clear change", 3)


def test_one_baseline_serves_all_seeds() -> None:
    given = [measurement(HARDNESS, system="before"), *(measurement(HARDNESS - 1, seed=seed) for seed in (4, 5))]
    assert changes(given)[0].seeds == 2


def test_masked_prediction_under_its_own_units_is_compared_with_the_control() -> None:
    rows = {"before": 9.0, "head only": 4.0, "after": 3.0}
    given = [measurement(np.full(20, value), measure="masked_loss_own_units", system=s) for s, value in rows.items()]
    assert changes(given)[0].relative.value == pytest.approx(25.0)


def test_few_items_give_no_verdict() -> None:
    for count, verdict in ((MIN_ITEMS - 1, "no clear change"), (MIN_ITEMS, "better")):
        assert changes(pair(np.full(count, 5.0), np.full(count, 1.0)))[0].verdict == verdict


def test_a_baseline_of_zero_still_has_a_verdict() -> None:
    (change,) = changes(pair(np.zeros(20), np.full(20, 5.0), "retrieval_dtw"))
    assert change.verdict == "better"
    assert math.isnan(change.relative.value)
    assert change.difference.value == pytest.approx(50.0)


def test_without_a_baseline_there_is_no_change() -> None:
    assert changes([measurement(HARDNESS)]) == []


def test_round_trip(tmp_path: Path) -> None:
    given = [
        *pair(HARDNESS, HARDNESS + 1),
        measurement([1 / 3, 2, 3], seed=7, measure="retrieval_dtw", language="qaa_Zyyy", items=("ü", "b", "a")),
    ]
    save_measurements(given, tmp_path / "m.parquet")
    read = load_measurements(tmp_path / "m.parquet")
    assert scores(read) == scores(given)
    assert changes(read) == changes(given)
    for one, other in zip(given, read, strict=True):
        assert (one.measure, one.language, one.system, one.seed, one.items) == (
            other.measure,
            other.language,
            other.system,
            other.seed,
            other.items,
        )
        np.testing.assert_array_equal(one.numerators, other.numerators)
        np.testing.assert_array_equal(one.denominators, other.denominators)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Unknown measure 'retrieval_dwt'. Did you mean 'retrieval_dtw'\?"):
        measurement([1], measure="retrieval_dwt")
    with pytest.raises(ConfigError, match=r"unknown system 'befor'. Did you mean 'before'\?"):
        measurement([1], system="befor")


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="character_error_all/bul_Cyrl/after: 1 items, 2 numerators, 2 denominators"):
        measurement([1, 2], items=("only",))
    with pytest.raises(DataError, match="at least one"):
        measurement([])


def test_what_cannot_be_paired_is_refused() -> None:
    before = measurement([1, 2, 3], system="before")
    with pytest.raises(DataError, match="'after' and 'before' were scored on different items"):
        changes([before, measurement([1, 2, 3], items=("x", "y", "z"))])
    with pytest.raises(DataError, match=r"'after' has seeds \[0, 1\], 'before' has \[1, 2\]"):
        changes(
            [measurement([1, 2, 3], system="before", seed=seed) for seed in (1, 2)]
            + [measurement([1, 2, 3], seed=seed) for seed in (0, 1)]
        )


def test_seeds_of_a_row_must_be_of_the_same_items_and_distinct() -> None:
    with pytest.raises(DataError, match="scored on different items; they cannot share a row"):
        scores([measurement([1, 2]), measurement([1, 2], seed=1, items=("x", "y"))])
    with pytest.raises(DataError, match="a seed occurs twice"):
        scores([measurement([1, 2]), measurement([1, 2])])


def test_files_that_are_not_measurements_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.parquet: cannot be read as measurements"):
        load_measurements(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not a table")
    with pytest.raises(DataError, match=r"text\.parquet: cannot be read as measurements"):
        load_measurements(tmp_path / "text.parquet")
    pq.write_table(pa.table({"measure": ["x"], "seed": [0]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"not a table of measurements, \['language', 'system', 'item'"):
        load_measurements(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no measurements to write"):
        save_measurements([], tmp_path / "m.parquet")


def test_items_of_one_content_are_drawn_together(tmp_path: Path) -> None:
    hits = np.random.default_rng(0).integers(0, 2, size=40).astype(float)
    groups = tuple(f"prompt {number // 4}" for number in range(160))
    alone = measurement(np.repeat(hits, 4), denominators=np.ones(160))
    together = measurement(np.repeat(hits, 4), denominators=np.ones(160), groups=groups)
    narrow, wide = (scores([one])[0].interval for one in (alone, together))
    assert narrow.value == wide.value
    assert 1.6 < (wide.high - wide.low) / (narrow.high - narrow.low) < 2.5  # a quarter of the draws: twice the width
    save_measurements([alone, replace(together, system="before")], tmp_path / "m.parquet")
    back = load_measurements(tmp_path / "m.parquet")
    assert [one.groups for one in back] == [(), groups]
    with pytest.raises(DataError, match="160 items, 3 groups; expected one an item, or none"):
        measurement(np.repeat(hits, 4), denominators=np.ones(160), groups=("a", "b", "c"))


def test_the_signature_travels_with_the_numbers(tmp_path: Path) -> None:
    signature = Signature(data_hash="d", model_hash="m", normalizer="n", seed=3, settings="s")
    save_measurements([measurement(HARDNESS)], tmp_path / "signed.parquet", signature)
    save_measurements([measurement(HARDNESS)], tmp_path / "plain.parquet")
    assert load_signature(tmp_path / "signed.parquet") == signature
    assert len(load_measurements(tmp_path / "signed.parquet")) == 1
    with pytest.raises(DataError, match="holds no signature, so nothing says what was measured on what"):
        load_signature(tmp_path / "plain.parquet")
    with pytest.raises(DataError, match="cannot be read as measurements"):
        load_signature(tmp_path / "none.parquet")
