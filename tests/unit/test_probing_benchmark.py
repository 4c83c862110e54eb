"""The benchmark of probes and geometry, small, by its command."""

from __future__ import annotations

import json

import pytest

from allophone.benchmarks.probing import measure_probing
from allophone.cli.main import main


def test_it_times_every_part_and_harder_classes_are_harder(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    easy = measure_probing(rows=240, dim=16, classes=4, spread=0.5, progress=lambda *done: told.append(done))
    hard = measure_probing(rows=240, dim=16, classes=4, spread=30.0, progress=lambda *_: None)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert easy["right"]["linear"] == 100.0 > hard["right"]["linear"]
    assert all(easy[part]["cpu_seconds"] >= 0 for part in ("linear", "neighbors", "geometry"))
    assert main(["benchmark", "probing", "--rows", "300", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == 300
