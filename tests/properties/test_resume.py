"""A run that was killed and resumed equals one that was not, bit for bit (CPU)."""

from __future__ import annotations

from pathlib import Path

import pytest

from allophone.benchmarks.resume import prove_resume


def test_killed_runs_end_bit_equal(tmp_path: Path) -> None:
    proof = prove_resume(tmp_path, kills=3, seed=1, steps=10)
    assert proof.equal == proof.kills == 3
    assert all(0 < step < 10 for step in proof.killed_after)


@pytest.mark.slow
def test_twenty_kills_end_bit_equal(tmp_path: Path) -> None:
    proof = prove_resume(tmp_path, kills=20, seed=0)
    assert (proof.equal, proof.sigkill) == (20, 10)
