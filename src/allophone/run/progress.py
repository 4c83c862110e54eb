"""What long work tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, dict[str, float]], None]
Report = Callable[[str], Progress]
"""Given the name of a stage, what its progress is told to."""
Tell = Callable[[str], None]
"""Takes a sentence that a user should read."""


def silent(stage: str) -> Progress:
    """A :data:`Report` that tells nobody."""
    return lambda done, total, info: None


def to_nobody(sentence: str) -> None:
    """A :data:`Tell` that keeps it to itself; the journal has it all the same."""


def counted(progress: Progress) -> Callable[[int, int], None]:
    """The same for work that only counts."""
    return lambda done, total: progress(done, total, {})
