"""A number with all that is needed to trust it, and tables that refuse to put unlike numbers in one column."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from allophone.config import from_dict, to_dict
from allophone.errors import DataError, NumericsError
from allophone.metrics.intervals import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """What a number was made from."""

    data_hash: str
    """Of the utterances that were scored (and trained on, for a probe)."""
    model_hash: str
    """Of the parameters; a name such as ``"chance"`` or ``"filter bank"`` where there are none."""
    normalizer: str
    """How texts or frames were made comparable, with its version; ``"none"`` where they were not."""
    seed: int
    """Of the evaluation: subsets, splits and resampling."""
    settings: str = ""
    """Hash of how much was measured and with which probe; empty where there is nothing to set."""

    def comparable(self, other: Signature) -> bool:
        """Whether two numbers measure the same thing; only the model may differ."""
        return replace(self, model_hash="") == replace(other, model_hash="")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One measured number."""

    name: str
    """What was measured: the column of a table."""
    value: float
    """In ``unit``."""
    low: float
    """Lower bound of the 95 % interval; ``value`` itself for an exact number, such as chance."""
    high: float
    """Upper bound."""
    n: int
    """Independent items behind the interval."""
    unit: str
    """Such as ``"%"`` or ``"nats"``."""
    higher_is_better: bool
    """Direction."""
    seeds: tuple[int, ...]
    """Of the trainings behind the value; empty where nothing was trained."""
    signature: Signature
    """What it was made from."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(number) for number in (self.value, self.low, self.high)):
            raise NumericsError(
                f"Result {self.name!r}: {self.value} [{self.low}, {self.high}] is not finite; do not report it."
            )
        if self.low > self.high or self.n < 1:
            raise DataError(
                f"Result {self.name!r}: interval [{self.low}, {self.high}] of {self.n} items; "
                "expected low <= high, n >= 1."
            )

    @property
    def text(self) -> str:
        """Value and interval, such as ``"67.4 [64.1, 70.5]"``."""
        if self.low == self.high == self.value:
            return f"{self.value:.1f}"
        digits = 3 if self.unit == "nats" else 1
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def result_from_interval(
    name: str,
    interval: Interval,
    *,
    unit: str,
    higher_is_better: bool,
    signature: Signature,
    seeds: Sequence[int] = (),
) -> Result:
    """Name an interval. It must be in ``unit`` already (:meth:`Interval.scaled`)."""
    return Result(
        name=name,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        unit=unit,
        higher_is_better=higher_is_better,
        seeds=tuple(seeds),
        signature=signature,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultTable:
    """Rows of systems, columns of what was measured; made by :func:`tabulate`."""

    columns: tuple[str, ...]
    """Names of results, in the order they first appeared."""
    rows: tuple[str, ...]
    """Names of systems."""
    cells: tuple[tuple[Result | None, ...], ...]
    """One tuple a row; None = not measured."""

    def best(self, column: str) -> str:
        """The row with the best value of a column."""
        place = self.columns.index(column)
        measured = [(row[place], name) for row, name in zip(self.cells, self.rows, strict=True)]
        present = [(result, name) for result, name in measured if result is not None]
        return max(present, key=lambda pair: pair[0].value if pair[0].higher_is_better else -pair[0].value)[1]

    def markdown(self) -> str:
        """The table with units, directions, intervals and n."""
        heads = []
        for place, column in enumerate(self.columns):
            result = next(row[place] for row in self.cells if row[place] is not None)
            assert result is not None
            arrow = "↑" if result.higher_is_better else "↓"
            name = f"{column}, {result.unit}" if result.unit else column
            heads.append(f"{name} {arrow} (n = {result.n})")
        lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        for name, row in zip(self.rows, self.cells, strict=True):
            lines.append("| " + " | ".join([name, *(result.text if result else "–" for result in row)]) + " |")
        return "\n".join(lines) + "\n"


def tabulate(rows: Mapping[str, Sequence[Result]]) -> ResultTable:
    """Put systems side by side.

    Args:
        rows: Results of each system.

    Raises:
        DataError: Two results of one column differ in data, normalizer, evaluation seed, unit, direction or n, or a
            system has two results of one name.
    """
    columns = list(dict.fromkeys(result.name for results in rows.values() for result in results))
    first: dict[str, tuple[str, Result]] = {}
    for system, results in rows.items():
        names = [result.name for result in results]
        if len(set(names)) < len(names):
            raise DataError(f"tabulate: {system!r} has two results of one name: {sorted(names)}.")
        for result in results:
            _refuse_unlike(result.name, first.setdefault(result.name, (system, result)), (system, result))
    by_name = [{result.name: result for result in results} for results in rows.values()]
    cells = tuple(tuple(row.get(column) for column in columns) for row in by_name)
    return ResultTable(columns=tuple(columns), rows=tuple(rows), cells=cells)


def _refuse_unlike(column: str, first: tuple[str, Result], second: tuple[str, Result]) -> None:
    kept, other = first[1], second[1]
    alike = kept.signature.comparable(other.signature)
    facts = [(one.unit, one.higher_is_better, one.n) for one in (kept, other)]
    if not alike or facts[0] != facts[1]:
        raise DataError(
            f"tabulate: column {column!r} would mix what cannot be compared. {first[0]!r}: {kept.signature}, "
            f"{kept.unit}, n = {kept.n}. {second[0]!r}: {other.signature}, {other.unit}, n = {other.n}. "
            "Score both on the same data with the same settings; only the model may differ."
        )


def save_results(results: Sequence[Result], path: Path) -> None:
    """Write a JSON list."""
    path.write_text(json.dumps([to_dict(result) for result in results], indent=2, ensure_ascii=False) + "\n", "utf-8")


def load_results(path: Path) -> list[Result]:
    """Read what :func:`save_results` wrote.

    Raises:
        DataError: The file is missing or not a JSON list.
        ConfigError: An entry is not a :class:`Result`.
    """
    try:
        entries = json.loads(path.read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot be read as results: {error}. Run the evaluation again.") from error
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a JSON list of results, got {type(entries).__name__}.")
    return [from_dict(Result, entry, f"{path}[{place}]") for place, entry in enumerate(entries)]
