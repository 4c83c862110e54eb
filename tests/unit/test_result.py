"""Results, their signatures and their tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from allophone.config import from_json, to_json
from allophone.errors import ConfigError, DataError, NumericsError
from allophone.evaluate.result import Result, Signature, load_results, result_from_interval, save_results, tabulate
from allophone.metrics.intervals import Interval

SIGNATURE = Signature(data_hash="d1", model_hash="m1", normalizer="allophone-1", seed=0)
RECALL = Result(
    name="R@1",
    value=67.4,
    low=64.1,
    high=70.5,
    n=508,
    unit="%",
    higher_is_better=True,
    seeds=(0, 1, 2),
    signature=SIGNATURE,
)
ERROR = replace(RECALL, name="CER", value=65.0, low=62.0, high=68.0, n=163, higher_is_better=False)
CHANCE = replace(RECALL, value=0.2, low=0.2, high=0.2, seeds=(), signature=replace(SIGNATURE, model_hash="chance"))


def test_json_round_trip(tmp_path: Path) -> None:
    assert from_json(Result, to_json(RECALL)) == RECALL
    save_results([RECALL, CHANCE], tmp_path / "result.json")
    assert load_results(tmp_path / "result.json") == [RECALL, CHANCE]


def test_an_interval_becomes_a_result() -> None:
    made = result_from_interval(
        "R@1",
        Interval(0.674, 0.641, 0.705, 508).scaled(100),
        unit="%",
        higher_is_better=True,
        signature=SIGNATURE,
        seeds=[0, 1, 2],
    )
    assert (made.value, made.low, made.high) == pytest.approx((67.4, 64.1, 70.5))
    assert made.seeds == (0, 1, 2) and made.n == 508


def test_table_shows_interval_direction_and_n() -> None:
    table = tabulate({"chance": [CHANCE], "pretrained": [RECALL, ERROR]})
    text = table.markdown()
    assert "| R@1, % ↑ (n = 508) | CER, % ↓ (n = 163) |" in text
    assert "| chance | 0.2 | – |" in text and "| pretrained | 67.4 [64.1, 70.5] | 65.0 [62.0, 68.0] |" in text


def test_the_best_row_follows_the_direction() -> None:
    table = tabulate({"a": [RECALL, ERROR], "b": [CHANCE, replace(ERROR, value=63.0)], "c": []})
    assert table.best("R@1") == "a" and table.best("CER") == "b"


@pytest.mark.parametrize("field", ["data_hash", "normalizer", "seed"])
def test_a_column_never_mixes_signatures(field: str) -> None:
    other = replace(RECALL, signature=replace(SIGNATURE, **{field: 7 if field == "seed" else "other"}))
    with pytest.raises(DataError, match="column 'R@1' would mix what cannot be compared"):
        tabulate({"a": [RECALL], "b": [other]})


@pytest.mark.parametrize("change", [{"n": 7}, {"unit": "nats"}, {"higher_is_better": False}])
def test_a_column_never_mixes_units_or_counts(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="Score both on the same data"):
        tabulate({"a": [RECALL], "b": [replace(RECALL, **change)]})  # type: ignore[arg-type]


def test_only_the_model_and_its_seeds_may_differ() -> None:
    other = replace(RECALL, seeds=(0,), signature=replace(SIGNATURE, model_hash="m2"))
    assert tabulate({"a": [RECALL], "b": [other]}).rows == ("a", "b")


def test_two_results_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="'a' has two results of one name"):
        tabulate({"a": [RECALL, CHANCE]})


def test_results_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(NumericsError, match="is not finite; do not report it"):
        replace(RECALL, value=float("nan"))
    with pytest.raises(DataError, match="expected low <= high"):
        replace(RECALL, low=80.0)
    with pytest.raises(DataError, match="of 0 items"):
        replace(RECALL, n=0)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(DataError, match="cannot be read as results"):
        load_results(path)
    path.write_text("{}", "utf-8")
    with pytest.raises(DataError, match="expected a JSON list"):
        load_results(path)
    path.write_text('[{"name": "R@1"}]', "utf-8")
    with pytest.raises(ConfigError, match=r"result\.json\[0\]: missing fields"):
        load_results(path)
