"""Numbers as text, and the tables of scores: one a measure, systems down, languages across."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from allophone.errors import DataError
from allophone.evaluate.measurements import (
    MEASURES,
    MIN_ITEMS,
    SYSTEMS,
    Change,
    Measure,
    Measurement,
    Score,
    System,
    Verdict,
    changes,
    scores,
)
from allophone.metrics.intervals import Interval
from allophone.text.languages import parse_language

SYMBOLS: dict[Verdict, str] = {"better": "▲", "worse": "▼", "no clear change": "○"}
"""A shape for each verdict, so that color is never the only sign."""

MISSING = "–"

SYSTEM_NOTES: dict[System, str] = {
    "chance": "guessing",
    "filter bank": "plain sound, no learning",
    "random encoder": "same model, untrained",
    "before": "the model as it was",
    "head only": "control: LoRA left out",
    "after": "with the new language",
}

ADAPTED: set[System] = {"head only", "after"}
"""Systems that only an adaptation has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One score as text."""

    value: str
    bounds: str
    """``yy.y–zz.z``, empty where there is no score."""
    mark: str
    """Letter of a footnote, or empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One system."""

    system: System
    note: str
    seeds: str
    """``3 seeds``, ``1–3 seeds``, or empty."""
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureTable:
    """One measure on all languages."""

    key: str
    measure: Measure
    languages: tuple[str, ...]
    """Tags, in order of columns."""
    items: tuple[int, ...]
    """Items a language."""
    rows: tuple[Row, ...]
    changes: tuple[Change | None, ...]
    """One a language, where both systems were measured; empty where nothing was adapted."""
    footnotes: tuple[tuple[str, str], ...]
    """Letter and text."""

    @property
    def direction(self) -> str:
        """In words."""
        return "higher is better" if self.measure.higher_is_better else "lower is better"


def language_name(tag: str) -> str:
    """English name, or the tag itself where it is unknown."""
    try:
        return parse_language(tag).name
    except DataError:
        return tag


def number(value: float, unit: str) -> str:
    """A value in a measure's unit: three decimals for nats, else one; a true minus sign."""
    return f"{value:.1f}".replace("-", "−") if unit != "nats" else f"{value:.3f}".replace("-", "−")


def bounds(interval: Interval, unit: str) -> str:
    """``low–high``; with ``to`` where a sign would be read as a dash."""
    joint = " to " if min(interval.low, interval.high) < 0 else "–"
    return f"{number(interval.low, unit)}{joint}{number(interval.high, unit)}"


def signed(value: float) -> str:
    """Percent with its sign: ``+8.3 %``, ``−1.0 %``."""
    return f"{value:+.1f} %".replace("-", "−")


def change_text(change: Change) -> str:
    """``▲ +8.3 % (5.1 to 11.4)``; in the measure's unit where the baseline is 0."""
    symbol, relative = SYMBOLS[change.verdict], change.relative
    if math.isnan(relative.value):
        unit = MEASURES[change.measure].unit
        return f"{symbol} from 0 to {number(change.difference.value, unit)} ({bounds(change.difference, unit)})"
    return f"{symbol} {signed(relative.value)} ({bounds_signed(relative)})"


def verdict_text(change: Change) -> str:
    """The verdict in words, and why there is none where there are too few items."""
    return change.verdict if change.difference.n >= MIN_ITEMS else "too few items to say"


def bounds_signed(interval: Interval) -> str:
    """``−1.0 to +3.2``."""
    return f"{interval.low:+.1f} to {interval.high:+.1f}".replace("-", "−")


def measure_tables(
    cells: Iterable[Score], differences: Iterable[Change], *, order: Sequence[str] = ()
) -> list[MeasureTable]:
    """Arrange scores and changes, one table a measure in the order of :data:`MEASURES`.

    Where nothing was adapted, as in an evaluation, there are neither rows nor changes of adaptation.

    Args:
        cells: From :func:`~allophone.evaluate.measurements.scores`.
        differences: From :func:`~allophone.evaluate.measurements.changes`.
        order: Language tags that come first; the others follow by tag.
    """
    by_key = {(one.measure, one.language, one.system): one for one in cells}
    changed = {(one.measure, one.language): one for one in differences}
    measured = {system for _, _, system in by_key}
    systems = tuple(system for system in SYSTEMS if measured & ADAPTED or system not in ADAPTED)
    tables = []
    for key in MEASURES:
        present = {language for measure, language, _ in by_key if measure == key}
        if present:
            languages = tuple(sorted(present, key=lambda tag: (order.index(tag) if tag in order else len(order), tag)))
            tables.append(_table(key, languages, systems, by_key, changed))
    return tables


def _table(
    key: str,
    languages: tuple[str, ...],
    systems: tuple[System, ...],
    cells: dict[tuple[str, str, System], Score],
    changed: dict[tuple[str, str], Change],
) -> MeasureTable:
    unit, letters = MEASURES[key].unit, _Footnotes()
    rows = []
    for system in systems:
        found = [cells.get((key, language, system)) for language in languages]
        rows.append(
            Row(
                system=system,
                note=SYSTEM_NOTES[system],
                seeds=_seeds([score.seeds for score in found if score is not None]),
                cells=tuple(_cell(score, unit, letters, key, system) for score in found),
            )
        )
    sizes = tuple(
        max(cells[key, tag, system].interval.n for system in SYSTEMS if (key, tag, system) in cells)
        for tag in languages
    )
    compared = tuple(changed.get((key, language)) for language in languages) if ADAPTED & set(systems) else ()
    return MeasureTable(
        key=key,
        measure=MEASURES[key],
        languages=languages,
        items=sizes,
        rows=tuple(rows),
        changes=compared,
        footnotes=tuple((letter, text) for text, letter in letters.texts.items()),
    )


class _Footnotes:
    """Gives each distinct text a letter."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def letter(self, text: str) -> str:
        return self.texts.setdefault(text, chr(ord("a") + len(self.texts)))


def _cell(score: Score | None, unit: str, letters: _Footnotes, measure: str, system: System) -> Cell:
    if score is None:
        return Cell(value=MISSING, bounds="", mark=letters.letter(why_missing(measure, system)))
    return Cell(value=number(score.interval.value, unit), bounds=bounds(score.interval, unit), mark="")


def _seeds(counts: Sequence[int]) -> str:
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"{low}–{high} seeds" if low != high else f"{low} seed{'s' if low > 1 else ''}"


def why_missing(measure: str, system: System) -> str:
    """Why a cell is empty, as far as the measure itself explains it."""
    needs_units = measure.startswith("masked_loss") or measure == "retrieval_posteriors"
    if system == "head only" and measure != "masked_loss_own_units":
        return "The control trains only the output table, so the model's hearing is that of “before”; same score."
    if needs_units and system in ("filter bank", "random encoder"):
        return "This test needs a model with a trained table of sound units, which this system does not have."
    if measure == "masked_loss_own_units" and system == "before":
        return "The model as it was has no output table for the new sound units; “head only” stands in for it."
    if system == "chance":
        return "Guessing has no single value on this test."
    return "Not measured in this run."


def markdown_tables(measurements: Iterable[Measurement], *, order: Sequence[str] = ()) -> str:
    """The same tables as Markdown, for a README or a page of results.

    Args:
        measurements: Of any measures, languages, systems and seeds.
        order: Language tags that come first.
    """
    known = list(measurements)
    tables = measure_tables(scores(known), changes(known), order=order)
    return "\n\n".join(_markdown(table) for table in tables) + ("\n" if tables else "")


def _markdown(table: MeasureTable) -> str:
    measure = table.measure
    heads = [f"{language_name(tag)} (n = {count})" for tag, count in zip(table.languages, table.items, strict=True)]
    lines = [
        f"### {measure.title} ({measure.unit}, {table.direction})",
        "",
        measure.explanation,
        "",
        _line(["system", *heads, "seeds"]),
        "|---" + "|---:" * len(heads) + "|---|",
    ]
    for row in table.rows:
        shown = [_markdown_cell(cell) for cell in row.cells]
        name, values = (
            (f"**{row.system}**", [f"**{cell}**" for cell in shown]) if row.system == "after" else (row.system, shown)
        )
        lines.append(_line([name, *values, row.seeds.removesuffix(" seeds").removesuffix(" seed") or MISSING]))
    if table.changes:
        texts = [MISSING if one is None else f"{change_text(one)} {verdict_text(one)}" for one in table.changes]
        counts = _seeds([change.seeds for change in table.changes if change is not None])
        seeds = counts.removesuffix(" seeds").removesuffix(" seed") or MISSING
        lines.append(_line([f"change from {measure.baseline}", *texts, seeds]))
    notes = [f"({letter}) {text}" for letter, text in table.footnotes]
    return "\n".join([*lines, *(["", " ".join(notes)] if notes else [])])


def _markdown_cell(cell: Cell) -> str:
    return f"{cell.value} ({cell.mark})" if cell.mark else f"{cell.value} ({cell.bounds})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
