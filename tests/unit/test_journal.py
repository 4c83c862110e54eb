from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from allophone.train import journal as module
from allophone.train.journal import METRICS, Journal, ProgressLine


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / METRICS).read_text().splitlines()]


def test_line_holds_means_of_what_was_added_since_the_last(tmp_path: Path) -> None:
    with Journal(tmp_path, tensorboard=False) as journal:
        journal.add({"loss": (torch.tensor(6.0), torch.tensor(2)), "accuracy": (1, 4)})
        journal.add({"loss": (2.0, 2)})
        journal.write(1, {"learning_rate": 0.5})
        journal.add({"loss": (9.0, 3)})
        journal.write(2, {"learning_rate": 0.25})
        assert journal.last == {"loss": (9.0, 3.0)}
    assert lines(tmp_path) == [
        {"step": 1, "learning_rate": 0.5, "loss": 2.0, "accuracy": 0.25},
        {"step": 2, "learning_rate": 0.25, "loss": 3.0},
    ]


def test_sum_without_items_is_left_out_and_nan_is_null(tmp_path: Path) -> None:
    with Journal(tmp_path, tensorboard=False) as journal:
        journal.add({"nothing": (0.0, 0), "broken": (math.nan, 1)})
        journal.write(1, {"rate": math.inf})
    assert lines(tmp_path) == [{"step": 1, "rate": None, "broken": None}]


def test_resumed_journal_reads_like_an_undisturbed_one(tmp_path: Path) -> None:
    def steps(journal: Journal, first: int, last: int) -> None:
        for step in range(first, last + 1):
            journal.add({"loss": (0.1 * step, 0.3 * step)})
            if step % 4 == 0:
                journal.write(step, {})

    with Journal(tmp_path / "whole", tensorboard=False) as journal:
        steps(journal, 1, 20)
    with Journal(tmp_path / "cut", tensorboard=False) as journal:
        steps(journal, 1, 10)
        saved = json.loads(json.dumps(journal.sums()))
        steps(journal, 11, 18)
    with (tmp_path / "cut" / METRICS).open("a") as file:
        file.write('{"step": 10, "half a li')
    with Journal(tmp_path / "cut", start=10, sums=saved, tensorboard=False) as journal:
        steps(journal, 11, 20)
    assert (tmp_path / "cut" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()


def test_new_run_forgets_a_former_one(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1}\nnot json\n[]\n{"step": 0, "event": "kept"}\n')
    with Journal(tmp_path, tensorboard=False):
        pass
    assert lines(tmp_path) == [{"step": 0, "event": "kept"}]


def test_events(tmp_path: Path) -> None:
    with Journal(tmp_path, tensorboard=False) as journal:
        journal.event(3, "warning", message="déjà vu")
    assert lines(tmp_path) == [{"step": 3, "event": "warning", "message": "déjà vu"}]
    assert "déjà vu" in (tmp_path / METRICS).read_text(encoding="utf-8")


def test_running_mean_covers_the_last_line_and_what_came_since(tmp_path: Path) -> None:
    with Journal(tmp_path, tensorboard=False) as journal:
        assert math.isnan(journal.mean("loss"))
        journal.add({"loss": (6.0, 2)})
        assert journal.mean("loss") == 3.0
        journal.write(1, {})
        assert journal.mean("loss") == 3.0
        journal.add({"loss": (2.0, 2)})
        assert journal.mean("loss") == 2.0


def test_tensorboard_sees_the_same_numbers_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Event files are read in the order of their names, which hold the second; two writers in one second have no order.
    seconds = itertools.count(1_700_000_000.0, 10.0)
    monkeypatch.setattr(time, "time", lambda: next(seconds))
    with Journal(tmp_path) as journal:
        for step in (1, 2, 3):
            journal.add({"loss": (float(step), 1)})
            journal.write(step, {})
    with Journal(tmp_path, start=2) as journal:
        journal.add({"loss": (30.0, 1)})
        journal.write(3, {})
    events = EventAccumulator(str(tmp_path / module.TENSORBOARD)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "rank", lambda: 1)
    with Journal(tmp_path / "run") as journal:
        journal.add({"loss": (1.0, 1)})
        journal.write(1, {})
        journal.event(1, "anything")
    assert not (tmp_path / "run").exists()


def test_progress_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    told: list[tuple[int, int, dict[str, float]]] = []
    line = ProgressLine(lambda step, total, info: told.append((step, total, info)), start=10, total=20)
    for step in range(11, 21):
        clock[0] += 0.2
        line.tell(step, lambda step=step: {"loss": float(step)})
    assert [step for step, _, _ in told] == [11, 14, 17, 20]  # half a second apart, and the last
    assert told[1][1] == 20 and told[1][2] == pytest.approx(
        {"loss": 14.0, "seconds_left": 1.2, "seconds_per_step": 0.2}
    )
    assert told[-1][2]["seconds_left"] == 0.0
    assert line.seconds() == pytest.approx(2.0)


def test_nobody_listens() -> None:
    def never() -> dict[str, float]:
        raise AssertionError("info was computed for nobody")

    ProgressLine(None, start=0, total=1).tell(1, never)


def test_seconds_drawn_add_up_over_lines_and_resumes(tmp_path: Path) -> None:
    def steps(journal: Journal, first: int, last: int) -> None:
        for step in range(first, last + 1):
            journal.add({"loss": (1.0, 1), "seconds_drawn/fra_Latn": (2.5, 0.0), "seconds_drawn/bul_Cyrl": (0.1, 0.0)})
            if step % 2 == 0:
                journal.write(step, {})

    with Journal(tmp_path, tensorboard=False) as journal:
        steps(journal, 1, 3)
        saved = json.loads(json.dumps(journal.sums()))
        steps(journal, 4, 5)  # lost
    with Journal(tmp_path, start=3, sums=saved, tensorboard=False) as journal:
        steps(journal, 4, 6)
    drawn = [line["seconds_drawn"] for line in lines(tmp_path)]
    assert drawn == [{"bul_Cyrl": pytest.approx(0.1 * n), "fra_Latn": 2.5 * n} for n in (2, 4, 6)]


def test_a_note_is_made_once_and_replaced_when_it_changes(tmp_path: Path) -> None:
    assert module.note_once(tmp_path, "start", "from a")
    assert not module.note_once(tmp_path, "start", "from a")
    assert module.note_once(tmp_path, "subset", "2 h")
    assert module.note_once(tmp_path, "start", "from b")
    with Journal(tmp_path, tensorboard=False) as journal:
        journal.write(1, {})
    assert [line.get("message") for line in lines(tmp_path)] == ["2 h", "from b", None]
