"""The benchmark of the index, small."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lancedb", reason="needs the extra 'search'")

from allophone.benchmarks.vectors import TRIED_PROBES, measure_index


def test_it_measures_what_it_says(tmp_path: Path) -> None:
    told = []
    result = measure_index(
        tmp_path,
        rows=1_200,
        dim=16,
        additions=100,
        queries=10,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (1_300, 1_300) and result["rows"] == 1_200 and result["bytes"] > 1_200 * 16 * 4
    assert result["killed_while_building"] == {"rows_written": 1_200, "all_there_and_went_on": True}
    assert result["recall_at_10"] == result["queries_after_addition"]["32 probes"]["recall_at_10"]
    for asked in (result["queries"], result["queries_after_addition"]):
        assert list(asked) == [f"{probes} probes" for probes in TRIED_PROBES]
        assert asked["64 probes"]["recall_at_10"] >= 0.95
        assert all(0 < one["median_ms"] <= one["p95_ms"] for one in asked.values())
    assert not (tmp_path / "index").exists()
