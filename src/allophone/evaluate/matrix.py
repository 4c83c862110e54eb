"""The ledger of languages added one after another: after each, how is each language, the kept ones and those to come.

A state is the model after an addition. Every cell is compared with the first state, the model as it was given, on the
same recordings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from allophone.errors import DataError
from allophone.evaluate.measurements import MEASURES, Change, Measure, Measurement, Score, changes, scores
from allophone.evaluate.pages import page_templates
from allophone.evaluate.report_media import heat_map
from allophone.evaluate.report_tables import SYMBOLS, bounds, change_text, language_name, number, verdict_text

MATRIX_MEASURES = (
    "masked_loss_base_units",
    "character_error_all",
    "character_error_150",
    "retrieval_dtw",
    "retrieval_mean",
)
"""Measures that mean the same in every state. Units are those of the first model, read by its own table."""

Relation = Literal["kept", "added", "to come"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class State:
    """The model after an addition; the first one is as it was given."""

    name: str
    added: str | None
    """Tag of the language; None for the first."""
    measurements: tuple[Measurement, ...]
    """Of this model alone, whatever they call it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """How one language is in one state."""

    score: Score | None
    change: Change | None
    """From the first state; None there."""
    relation: Relation
    """Whether the language was there from the start, has been added by now, or is not yet added."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """One measure: states down, languages across."""

    key: str
    states: tuple[str, ...]
    languages: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]

    @property
    def measure(self) -> Measure:
        """How it is read."""
        return MEASURES[self.key]


def matrices(states: Sequence[State]) -> tuple[Matrix, ...]:
    """One matrix for each of :data:`MATRIX_MEASURES` that was measured; added languages first, in their order.

    Raises:
        DataError: There is no state, or two were scored on different recordings.
    """
    if not states or states[0].added is not None:
        raise DataError("A matrix needs the model as it was given as its first state, without an added language.")
    rows = [_as(state.measurements, "after") for state in states]
    start = _as(states[0].measurements, "before")
    cells = [{(one.measure, one.language): one for one in scores(row)} for row in rows]
    differences: list[dict[tuple[str, str], Change]] = [{}]
    differences += [{(one.measure, one.language): one for one in changes([*row, *start])} for row in rows[1:]]
    added = [state.added for state in states if state.added is not None]
    found = []
    for key in MATRIX_MEASURES:
        present = {language for row in cells for measure, language in row if measure == key}
        if not present:
            continue
        languages = (*(tag for tag in added if tag in present), *sorted(present - set(added)))
        table = tuple(
            tuple(
                Cell(
                    score=row.get((key, tag)),
                    change=different.get((key, tag)),
                    relation=_relation(tag, added, number),
                )
                for tag in languages
            )
            for number, (row, different) in enumerate(zip(cells, differences, strict=True))
        )
        found.append(Matrix(key=key, states=tuple(state.name for state in states), languages=languages, cells=table))
    return tuple(found)


def _as(measurements: Iterable[Measurement], system: Literal["before", "after"]) -> list[Measurement]:
    """What the matrix shows of the model itself, under another name, once each."""
    chosen = {
        (one.measure, one.language, one.seed): replace(one, system=system)
        for one in measurements
        if one.measure in MATRIX_MEASURES and one.system in ("before", "after")
    }
    return list(chosen.values())


def _relation(language: str, added: Sequence[str], state: int) -> Relation:
    if language not in added:
        return "kept"
    return "added" if added.index(language) < state else "to come"


def matrix_figure(matrix: Matrix) -> str:
    """Relative change from the first state, a square a state and language; each has its sign and number.

    Returns:
        A ``data:`` address of an SVG; empty where there is only the first state.
    """
    if len(matrix.states) < 2:
        return ""
    rows = matrix.cells[1:]
    values = [[0.0 if cell.change is None else _finite(cell.change) for cell in row] for row in rows]
    texts = [[_in_square(cell) for cell in row] for row in rows]
    return heat_map(values, texts, matrix.states[1:], [language_name(tag) for tag in matrix.languages])


def _finite(change: Change) -> float:
    value = change.relative.value
    return value if value == value else 0.0


def _in_square(cell: Cell) -> str:
    if cell.change is None or cell.change.relative.value != cell.change.relative.value:
        return "–"
    value = f"{SYMBOLS[cell.change.verdict]} {cell.change.relative.value:+.1f}".replace("-", "−")
    return f"({value})" if cell.relation == "to come" else value


def matrix_json(found: Sequence[Matrix]) -> list[dict[str, Any]]:
    """Every cell, as JSON values; what is not a number is null."""
    return [
        {
            "measure": matrix.key,
            "state": state,
            "language": language,
            "relation": cell.relation,
            "score": None if cell.score is None else _numbers(asdict(cell.score.interval)),
            "relative_change": None if cell.change is None else _numbers(asdict(cell.change.relative)),
            "verdict": None if cell.change is None else cell.change.verdict,
        }
        for matrix in found
        for state, row in zip(matrix.states, matrix.cells, strict=True)
        for language, cell in zip(matrix.languages, row, strict=True)
    ]


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value if value == value else None for name, value in values.items()}


def write_matrix_page(
    title: str, found: Sequence[Matrix], facts: Sequence[tuple[str, str]], path: Path, *, pages: Sequence[str] = ()
) -> Path:
    """Write one offline page: a heat map and a table for every measure.

    Args:
        title: Heading.
        found: The matrices.
        facts: Label and value: base, order, hashes.
        path: File to write; its folder is made.
        pages: Addresses of the pages of single additions, relative to ``path``.
    """
    ledger = json.dumps(matrix_json(found), ensure_ascii=False, allow_nan=False, indent=1)
    ledger = ledger.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    page = (
        page_templates()
        .get_template("matrix.html.jinja")
        .render(
            title=title,
            sections=[
                (matrix, matrix_figure(matrix), [_row(matrix, number) for number in range(len(matrix.states))])
                for matrix in found
            ],
            languages=lambda matrix: [language_name(tag) for tag in matrix.languages],
            facts=facts,
            pages=pages,
            ledger=ledger,
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def _row(matrix: Matrix, state: int) -> list[dict[str, str]]:
    """Cells of one state as text."""
    unit = matrix.measure.unit
    tones = {"better": "good", "worse": "bad", "no clear change": "same"}
    return [
        {
            "value": "–" if cell.score is None else number(cell.score.interval.value, unit),
            "bounds": "" if cell.score is None else bounds(cell.score.interval, unit),
            "change": "" if cell.change is None else change_text(cell.change),
            "verdict": "" if cell.change is None else verdict_text(cell.change),
            "tone": "none" if cell.change is None else tones[cell.change.verdict],
            "relation": cell.relation,
        }
        for cell in matrix.cells[state]
    ]
