"""What all benchmarks share: turns taken, medians, and the object that is printed."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from allophone.errors import ConfigError

Clock = Callable[[], float]
"""Seconds since some moment."""
OURS = "allophone"


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How a benchmark is run."""

    pairs: int = 5
    """Timed rounds; in each, every way runs once."""
    clock: Literal["wall", "cpu"] = "wall"
    """``cpu`` counts this process's work only, for a machine shared with others."""
    quick: bool = False
    """Sizes so small that nothing but the program is tested."""

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ConfigError(f"A benchmark needs at least 1 pair; got pairs {self.pairs}.")

    def now(self) -> Clock:
        """The clock as a function."""
        return time.process_time if self.clock == "cpu" else time.perf_counter


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Seconds of each way in each round, and what else is to be said."""

    name: str
    seconds: Mapping[str, Sequence[float]]
    """``allophone`` and its peers."""
    amount: float
    """Work of one round, in what the unit counts."""
    unit: str
    """What is done in a second."""
    equal: bool
    """Whether the outputs are the same within the bound that the benchmark names."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Peers that did not run, with the reason."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the object."""

    def result(self) -> dict[str, Any]:
        """The object that ``--json`` prints; ratios are medians over rounds, above 1 = we are faster."""
        speed = {name: self.amount / statistics.median(values) for name, values in self.seconds.items()}
        own = self.seconds[OURS]
        ratios = {
            name: statistics.median(theirs / ours for ours, theirs in zip(own, values, strict=True))
            for name, values in self.seconds.items()
            if name != OURS
        }
        return {
            "name": self.name,
            "ours": speed.pop(OURS),
            "peers": speed,
            "unit": self.unit,
            "ratio": min(ratios.values(), default=None),
            "ratios": ratios,
            "equal_output": self.equal,
            "not_run": dict(self.missing),
            "pairs": len(own),
            **self.more,
            "machine": machine(),
        }


def alternated(
    ways: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Clock = time.perf_counter,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each way in each round; the order turns from round to round.

    Args:
        ways: Name to what is timed; it should have run once before.
        rounds: Times that each runs.
        clock: Seconds.
        progress: Called with (done, total) after each run of one way.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds):
        for position in range(len(names)):
            name = names[(turn + position) % len(names)]
            start = clock()
            ways[name]()
            seconds[name].append(clock() - start)
            if progress is not None:
                progress(turn * len(names) + position + 1, rounds * len(names))
    return seconds


def machine() -> str:
    """Processor, threads and versions."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}"
