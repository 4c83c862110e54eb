"""Progress on a terminal and in a log file; how a long run ends."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from allophone.cli.console import COMMAND_FILE, ended, lines, progress, remember, stages
from allophone.errors import CheckpointError
from allophone.run.duration import duration


def test_a_line_for_each_tenth_with_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter(range(1000))
    report = lines("import", clock=lambda: float(next(now)))
    for done in range(1, 101):
        report(done, 100, {"loss": 3.14159})
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 11  # the first report, then each tenth
    assert said[-1] == "import: 100 of 100, 0 s left  loss 3.142"


def test_no_work_is_no_division_by_zero(capsys: pytest.CaptureFixture[str]) -> None:
    lines("x")(0, 0, {})
    assert capsys.readouterr().err == ""


def test_progress_works_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("fit") as report:
        report(1, 1)
    assert "fit: 1 of 1" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (99, "99 s"), (100, "1.7 min"), (3600, "1.0 h")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_terminal_shows_a_bar_for_each_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with stages() as stage:
        stage("Clustering")(3, 3, {})
        stage("Training")(1, 4, {"loss": 2.5})
    said = capsys.readouterr().err
    assert "Clustering" in said
    assert "1/4" in said
    assert "loss 2.5" in said


def test_a_command_that_a_folder_has_is_replaced_only_when_another_one_is_done(tmp_path: Path) -> None:
    def commanded(word: str, fails: bool) -> str:
        try:
            with remember(Namespace(out=tmp_path / "run", line=[word])):
                if fails:
                    raise CheckpointError("belongs to another run")
        except CheckpointError:
            pass
        return (tmp_path / "run" / COMMAND_FILE).read_text(encoding="utf-8")

    assert "first" in commanded("first", fails=True)  # what a killed run leaves can be made again
    assert "first" in commanded("second", fails=True)
    assert "third" in commanded("third", fails=False)


def test_a_run_that_was_stopped_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(False, Path("runs/x")) == 75
    assert "run the same command again" in capsys.readouterr().out
    assert ended(True, Path("runs/x")) == 0
    assert capsys.readouterr().out == "wrote runs/x\n"
