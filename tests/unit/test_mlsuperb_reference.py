"""SUPERB_s: every score that was published for a row that was published."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from allophone.errors import ConfigError
from allophone.evaluate.mlsuperb_reference import AMOUNTS, COLUMNS, reference_set

ROWS = {
    "FBANK": "72.1/63.7 62.4/59.3 58.3/57.4 11.1/9.3 35.9/43.5 62.0/58.6 58.9/58.1",
    "HuBERT-base": "42.8/35.3 39.8/31.4 44.5/42.7 61.2/86.1 71.5/86.0 39.2/30.9 43.8/41.8",
    "XLS-R-128": "39.7/30.6 29.2/22.0 40.9/39.3 66.9/87.9 55.6/85.6 28.4/22.9 42.1/42.4",
    "WavLabLM-MS": "40.5/32.8 37.8/31.9 43.8/42.8 71.7/81.1 70.8/80.0 37.0/32.2 43.4/41.2",
    "MMS-300M": "33.8/30.5 28.7/24.0 36.5/36.5 62.3/84.3 71.9/74.3 31.5/30.0 30.9/29.2",
    "MMS-1B": "33.3/25.7 21.3/18.1 30.2/30.8 84.8/86.1 73.3/74.8 26.0/25.5 25.4/24.8",
    "mHuBERT-147": "34.2/26.3 23.6/22.0 33.2/32.9 85.3/91.0 81.4/90.0 26.2/22.1 34.9/33.5",
    "NWHC1": "39.5/30.5 28.9/21.5 41.4/38.6 67.1/87.4 77.1/90.6 28.8/21.5 40.3/38.2",
    "NWHC2": "39.5/30.5 29.3/21.6 42.0/39.3 64.4/88.1 77.4/90.6 28.4/21.8 41.5/38.8",
}
"""Rows as printed, 10 min / 1 h."""
PUBLISHED = [
    ("leaderboard-2024", "FBANK", "0", "0"),
    ("leaderboard-2024", "XLS-R-128", "730.8", "850.5"),
    ("leaderboard-2024", "WavLabLM-MS", "707.5", "740.9"),
    ("leaderboard-2024", "MMS-300M", "824.9", "844.3"),
    ("leaderboard-2024", "MMS-1B", "983.5", "948.1"),
    ("leaderboard-2024", "mHuBERT-147", "949.8", "950.2"),
    ("leaderboard-2024", "NWHC1", "774.4", "876.9"),
    ("leaderboard-2024", "NWHC2", "759.9", "873.3"),
    ("paper-2023", "HuBERT-base", "832", "885"),
    ("paper-2023", "XLS-R-128", "947.5", "996.0"),
    ("paper-2023", "WavLabLM-MS", "914.4", "873.8"),
]


def printed(name: str, place: int) -> np.ndarray:
    return np.array([float(column.split("/")[place]) for column in ROWS[name].split()])


@pytest.mark.parametrize(("name", "model", "ten_minutes", "one_hour"), PUBLISHED)
def test_published_scores_to_their_last_digit(name: str, model: str, ten_minutes: str, one_hour: str) -> None:
    for place, (amount, score) in enumerate(zip(AMOUNTS, (ten_minutes, one_hour), strict=True)):
        digits = len(score.partition(".")[2])
        found = float(reference_set(amount, name).score(printed(model, place)))
        assert f"{found:.{digits}f}" == score


def test_the_stored_rows_are_the_printed_ones() -> None:
    for place, amount in enumerate(AMOUNTS):
        stored = reference_set(amount).rows
        for name in ROWS:
            assert stored[name] == tuple(printed(name, place))


def test_a_score_moves_with_its_reference_set_and_so_does_the_hash() -> None:
    small = reference_set("10min")
    better = replace(small, rows={**small.rows, "new": tuple(small.best + np.array([-5, -5, -5, 5, 5, -5, -5]))})
    row = printed("MMS-1B", 0)
    assert better.score(row) < small.score(row) - 50
    assert better.score(better.best) == pytest.approx(1000)
    hashes = {one.hash for one in (small, better, reference_set("1h"), reference_set("10min", "paper-2023"))}
    assert len(hashes) == 4 and all(len(one) == 16 for one in hashes)
    assert small.hash in str(small) and "leaderboard-2024" in str(small)


def test_rows_are_scored_together_as_alone() -> None:
    rows = np.stack([printed(name, 1) for name in ROWS])
    together = reference_set("1h").score(rows)
    assert together == pytest.approx([float(reference_set("1h").score(row)) for row in rows])


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="Unknown reference set 'leaderboard-2042'"):
        reference_set("10min", "leaderboard-2042")
    with pytest.raises(ConfigError, match="amount '2h'; expected one of 10min, 1h"):
        reference_set("2h")  # type: ignore[arg-type]
    good = reference_set("10min")
    with pytest.raises(ConfigError, match="expected a full row 'FBANK', at least one model, and 7 columns"):
        replace(good, rows={"FBANK": good.rows["FBANK"]})
    assert len(COLUMNS) == 7
