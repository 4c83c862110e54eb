"""What a run writes down while it trains: ``metrics.jsonl``, TensorBoard events, and the line a user watches."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from allophone.batch import SECONDS_DRAWN
from allophone.distributed import gather, is_distributed, rank

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (step, all steps, what is known: loss, seconds_left, ...)."""


class Journal:
    """Sums up what the steps report and appends one line per ``write``; only rank 0 touches the disk.

    A journal that is opened at step n forgets what was written for later steps, so the file of a resumed run reads
    like that of an undisturbed one. Sums whose names begin with ``seconds_drawn/`` are totals of the whole run: carried
    from line to line and through checkpoints, so that no second counts twice after a resume.

    Args:
        run_dir: Folder of the run.
        start: Step after which the run goes on; 0 for a new one.
        sums: Sums and counts since the last line, from a checkpoint.
        tensorboard: Also write event files.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        start: int = 0,
        sums: Mapping[str, tuple[float, float]] | None = None,
        tensorboard: bool = True,
    ) -> None:
        self._path = run_dir / METRICS
        self._sums = {name: list(pair) for name, pair in (sums or {}).items()} if rank() == 0 else {}
        self._waiting: list[tuple[str, Any, Any]] = []
        self.last: dict[str, tuple[float, float]] = {}
        """Sums and counts of the last line."""
        self._board: SummaryWriter | None = None
        if rank() == 0:
            run_dir.mkdir(parents=True, exist_ok=True)
            _forget_after(self._path, start)
            if tensorboard:
                self._board = SummaryWriter(str(run_dir / TENSORBOARD), purge_step=start + 1 if start else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()

    def add(self, sums: Mapping[str, tuple[Tensor | float, Tensor | float]]) -> None:
        """Take name to (sum, count), each a number or a tensor of shape ``()``; devices are not waited for."""
        self._waiting.extend((name, value, count) for name, (value, count) in sums.items())

    def sums(self) -> dict[str, tuple[float, float]]:
        """Sums and counts of all ranks since the last line, on rank 0; every rank must call this together."""
        self._collect()
        if is_distributed():
            everyone = gather(self._sums)
            self._sums = _merge(everyone) if rank() == 0 else {}
        return {name: (pair[0], pair[1]) for name, pair in self._sums.items()}

    def mean(self, name: str) -> float:
        """Mean of one name over the last line and what came since, as this rank knows it; NaN where there is none."""
        self._collect()
        value, count = (
            sum(pair) for pair in zip(self._sums.get(name, (0, 0)), self.last.get(name, (0, 0)), strict=True)
        )
        return value / count if count else math.nan

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line with ``values``, the means of everything added since the last line, and the run's totals."""
        self.last = self.sums()
        self._sums = {name: list(pair) for name, pair in self.last.items() if name.startswith(SECONDS_DRAWN)}
        means = {name: value / count for name, (value, count) in self.last.items() if count}
        drawn = {name.removeprefix(SECONDS_DRAWN): round(pair[0], 3) for name, pair in sorted(self._sums.items())}
        self._append({"step": step} | dict(values) | means | ({"seconds_drawn": drawn} if drawn else {}))
        if self._board is not None:
            for name, value in (dict(values) | means).items():
                self._board.add_scalar(name, value, step)
            self._board.flush()

    def event(self, step: int, name: str, **fields: Any) -> None:
        """Append a line about something other than numbers."""
        self._append({"step": step, "event": name} | fields)

    def _collect(self) -> None:
        for name, value, count in self._waiting:
            pair = self._sums.setdefault(name, [0.0, 0.0])
            pair[0] += float(value)
            pair[1] += float(count)
        self._waiting.clear()

    def _append(self, line: Mapping[str, Any]) -> None:
        if rank() == 0:
            clean = {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in line.items()
            }
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(clean, ensure_ascii=False) + "\n")


def note_once(run_dir: Path, name: str, message: str) -> bool:
    """Write an event of step 0 before a run begins, in place of an earlier one of that name.

    Returns:
        Whether it is new; False when the journal has it already, and on other ranks than 0.
    """
    path, head = run_dir / METRICS, {"step": 0, "event": name}
    line = json.dumps({**head, "message": message}, ensure_ascii=False) + "\n"
    before = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    if rank() != 0 or line in before:
        return False
    others = [one for one in before if one.endswith("\n") and not one.startswith(json.dumps(head)[:-1])]
    run_dir.mkdir(parents=True, exist_ok=True)
    path.write_text("".join([*others, line]), encoding="utf-8")
    return True


def _merge(everyone: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    total: dict[str, list[float]] = {}
    for sums in everyone:
        for name, (value, count) in sums.items():
            pair = total.setdefault(name, [0.0, 0.0])
            pair[0] += value
            pair[1] += count
    return total


def _forget_after(path: Path, step: int) -> None:
    """Drop lines of later steps and a last line that was cut off."""
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if _is_before(line, step)]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)


def _is_before(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False


class ProgressLine:
    """Tells a listener where the run is, at most twice a second, with the time that is left.

    Args:
        listener: Receives (step, total, info), or None.
        start: Step after which this process began.
        total: All steps.
    """

    def __init__(self, listener: Progress | None, *, start: int, total: int) -> None:
        self._listener, self._start, self._total = listener, start, total
        self._began = time.monotonic()
        self._told = -math.inf

    def seconds(self) -> float:
        """Time since this process began to train."""
        return time.monotonic() - self._began

    def tell(self, step: int, info: Callable[[], dict[str, float]]) -> None:
        """Report ``step`` as done; ``info`` is only asked for when the listener is called."""
        now = time.monotonic()
        if self._listener is None or (now - self._told < 0.5 and step < self._total):
            return
        self._told = now
        pace = (now - self._began) / max(1, step - self._start)
        left = {"seconds_left": pace * (self._total - step), "seconds_per_step": pace}
        self._listener(step, self._total, info() | left)
