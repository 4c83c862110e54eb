"""What a verb says: results on stdout, progress with the time left on stderr."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from allophone.run.duration import duration

if TYPE_CHECKING:
    from allophone.recipes.write_files import WrittenPiece

STOPPED = 75
"""Exit code of a run that saved and stopped (EX_TEMPFAIL: try again)."""
COMMAND_FILE = "command.json"
"""The command line that made a folder."""
Progress = Callable[[int, int], None]
"""Called with (done, total)."""
StageProgress = Callable[[int, int, Mapping[str, float]], None]
"""Called with (done, total, figures such as the loss)."""


def processes() -> int:
    """How many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def follows() -> bool:
    """Whether another process of the same job speaks for this one."""
    return processes() > 1 and os.environ.get("RANK", "0") != "0"


def say(text: str) -> None:
    """Print a result, once a job."""
    if not follows():
        print(text, flush=True)


def complain(text: str) -> None:
    """Print an error; one of several processes says which it is."""
    who = f" (process {os.environ.get('RANK', '?')} of {processes()})" if processes() > 1 else ""
    print(f"error{who}: {text}", file=sys.stderr, flush=True)


def wrote(path: Path, what: str = "wrote") -> None:
    """Print where something was written; every verb that writes ends with it."""
    say(f"{what} {path}")


def say_pieces(path: Path, pieces: Iterable[WrittenPiece]) -> None:
    """Print what was written for a recording, a line for each piece: where, how sure, what."""
    for piece in pieces:
        where = f"{path} {piece.start_seconds:.1f}-{piece.end_seconds:.1f} s"
        say(f"{where}  ({piece.confidence:.2f})  {piece.text}")


@contextmanager
def remember(arguments: argparse.Namespace) -> Iterator[None]:
    """Write the command line into the folder that it makes, so that the same can be made again without a speaker.

    What a folder already has is replaced only when the work inside the ``with`` is done: it may refuse the folder.
    """
    path = arguments.out / COMMAND_FILE
    if not follows() and not path.exists():
        _write_command(arguments, path)
    yield
    if not follows():
        _write_command(arguments, path)


def _write_command(arguments: argparse.Namespace, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {"arguments": getattr(arguments, "line", [])}
    path.write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")


def ended(finished: bool, path: Path) -> int:
    """Print where a long run wrote, or how to go on with it; returns the exit code."""
    if finished:
        wrote(path)
        return 0
    say("stopped and saved; run the same command again to go on")
    return STOPPED


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a line for each tenth of the work."""
    with stages() as stage:
        report = stage(label)
        yield lambda done, total: report(done, total, {})


@contextmanager
def stages() -> Iterator[Callable[[str], StageProgress]]:
    """For work in several parts: given the name of a part, what its progress is told to."""
    if follows():
        yield lambda name: lambda done, total, info: None
        return
    if not sys.stderr.isatty():
        yield lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def stage(name: str) -> StageProgress:
            task = bars.add_task(name, total=None, figures="")
            return lambda done, total, info: bars.update(task, completed=done, total=total, figures=figures(info))

        yield stage


def lines(label: str, clock: Callable[[], float] = time.monotonic) -> StageProgress:
    """Progress for a log file: a line at each tenth, with the time left."""
    start, shown = clock(), -1

    def report(done: int, total: int, info: Mapping[str, float]) -> None:
        nonlocal shown
        tenth = 10 * done // max(total, 1)
        if tenth > shown and done > 0:
            shown = tenth
            left = (clock() - start) / done * (total - done)
            print(
                f"{label}: {done} of {total}, {duration(left)} left  {figures(info)}".rstrip(),
                file=sys.stderr,
                flush=True,
            )

    return report


def figures(info: Mapping[str, float]) -> str:
    """What a stage tells beside how far it is.

    Example:
        >>> figures({"loss": 3.14159, "lr": 0.0005})
        'loss 3.142  lr 0.0005'
    """
    return "  ".join(f"{name} {value:.4g}" for name, value in info.items())
