from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from allophone.errors import AllophoneError
from allophone.run.aside import aside
from allophone.run.progress import Progress, Report, silent
from allophone.text.languages import parse_language


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("allophone.run.aside.cpu_count", lambda: 2)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _noted(told: list[str]) -> Report:
    def report(stage: str) -> Progress:
        return lambda done, total, info: told.append(f"{stage} {done}/{total}")

    return report


def test_calls_go_on_in_one_other_process_and_their_errors_come_back(two_cores: None) -> None:
    told: list[str] = []
    with aside(True) as begin:
        first, second = (begin("Who", os.getpid, _noted(told)) for _ in range(2))
        wrong = begin("Language", partial(parse_language, "xyzzy"), silent)
        assert first() == second() != os.getpid()
        with pytest.raises(AllophoneError, match="xyzzy"):
            wrong()
        threads = begin("Threads", torch.get_num_threads, silent)()
    assert told == ["Who 1/1", "Who 1/1"]
    assert threads == 1


def test_leaving_ends_what_nobody_waits_for(two_cores: None) -> None:
    with aside(True) as begin:
        process = begin("Who", os.getpid, silent)()
        begin("Sleep", partial(time.sleep, 3600), silent)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_what_a_killed_process_leaves_is_done_here(two_cores: None) -> None:
    with aside(True) as begin:
        process = begin("Who", os.getpid, silent)()
        begin("Sleep", partial(time.sleep, 3600), silent)
        waited = begin("Sum", partial(dict, two=2), silent)
        os.kill(process, signal.SIGKILL)
        assert waited() == {"two": 2, "report": silent}


@pytest.mark.parametrize("reason", ["short", "one core", "threads", "torchrun"])
def test_without_a_free_core_calls_are_done_when_asked_for(
    two_cores: None, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "one core":
        monkeypatch.setattr("allophone.run.aside.cpu_count", lambda: 1)
    elif reason == "threads":
        torch.set_num_threads(2)
    elif reason == "torchrun":
        monkeypatch.setenv("WORLD_SIZE", "2")
    done: list[int] = []

    def work(number: int, *, report: Report) -> int:
        done.append(number)
        report("Work")(1, 1, {})
        return os.getpid()

    told: list[str] = []
    with aside(reason != "short") as begin:
        first, second = (begin("Work", partial(work, number), _noted(told)) for number in (1, 2))
        assert not done and second() == first() == os.getpid() and done == [2, 1]
    assert told == ["Work 1/1", "Work 1/1"]
