"""The page of a claim: the verdict, every comparison with its interval, and every score; one offline file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allophone.evaluate.claim import UNTRAINED, Effect, Observation, Scale, digits, level
from allophone.evaluate.pages import page_templates
from allophone.evaluate.report_media import EffectBar, effects_plot
from allophone.evaluate.report_tables import language_name
from allophone.metrics.intervals import Interval

VERDICTS = {True: "holds here", False: "does not hold here: the opposite was found", None: "not decided here"}
TONES = {True: "good", False: "bad", None: "same"}
SYMBOLS = {True: "▲", False: "▼", None: "○"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimPage:
    """Everything that stands on the page."""

    name: str
    paper: str
    says: str
    design: str
    arms: tuple[str, ...]
    scales: tuple[Scale, ...]
    observations: tuple[Observation, ...]
    effects: tuple[Effect, ...]
    """The first decides."""
    facts: tuple[tuple[str, str], ...]
    command: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTable:
    """One measure: arms down, conditions across."""

    scale: Scale
    conditions: tuple[str, ...]
    rows: tuple[tuple[str, bool, tuple[tuple[str, str], ...]], ...]
    """Arm, whether it is trained, and value with bounds for each condition."""


def write_claim_page(page: ClaimPage, path: Path) -> Path:
    """Write ``path`` and return it."""
    first = page.effects[0]
    plots = []
    for unit in dict.fromkeys(one.unit for one in page.effects):
        own = [one for one in page.effects if one.unit == unit]
        bars = [EffectBar(name=one.contrast.name, improvement=one.improvement, holds=one.holds) for one in own]
        plots.append(effects_plot(bars, unit))
    html = (
        page_templates()
        .get_template("claim.html.jinja")
        .render(
            page=page,
            first=first,
            verdict=VERDICTS[first.holds],
            tones=TONES,
            symbols=SYMBOLS,
            plots=plots,
            tables=[_table(page, scale) for scale in page.scales],
        )
    )
    partial = path.with_name(f".{path.name}")
    partial.write_text(html, encoding="utf-8")
    partial.replace(path)
    return path


def _table(page: ClaimPage, scale: Scale) -> ScoreTable:
    conditions = list(dict.fromkeys(one.condition for one in page.observations if one.measure == scale.measure))
    columns: list[tuple[str, Sequence[str]]] = [(_condition(one), [one]) for one in conditions]
    if len(conditions) > 1:
        columns.append(("mean", conditions))
    rows = []
    for arm in page.arms:
        cells = [_cell(level(page.observations, arm, scale, members), digits(scale.unit)) for _, members in columns]
        if any(value != "–" for value, _ in cells):
            rows.append((arm, arm not in UNTRAINED, tuple(cells)))
    return ScoreTable(scale=scale, conditions=tuple(name for name, _ in columns), rows=tuple(rows))


def _condition(name: str) -> str:
    """Language codes by their names, everything else as it is."""
    return language_name(name) if len(name) == 3 else name


def _cell(interval: Interval | None, decimals: int) -> tuple[str, str]:
    if interval is None:
        return "–", ""
    value, low, high = (f"{one:.{decimals}f}" for one in (interval.value, interval.low, interval.high))
    return value, f"{low}–{high}"
