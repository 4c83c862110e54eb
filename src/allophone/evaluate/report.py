"""``report.html``: what adding a language changed, on one offline page for readers who do not program.

The page is a template filled with words, tables, figures and players; it loads nothing and runs nothing. The same
numbers lie in it as JSON (``<script type="application/json" id="ledger">``) for programs.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment

from allophone.evaluate.measurements import MEASURES, Change, Measurement, Score, changes, scores
from allophone.evaluate.pages import page_templates
from allophone.evaluate.report_content import Clip, Curve, ReportContent, Table
from allophone.evaluate.report_media import MAX_CLIP_SECONDS, curves_plot, envelope_path, forest_plot, opus_address
from allophone.evaluate.report_summary import summarize, terminal_summary
from allophone.evaluate.report_tables import (
    SYMBOLS,
    MeasureTable,
    change_text,
    language_name,
    markdown_tables,
    measure_tables,
    verdict_text,
)
from allophone.frames import SAMPLE_RATE

__all__ = ["Clip", "Curve", "ReportContent", "Table", "markdown_tables", "terminal_summary", "write_report"]

MAX_PAGE_BYTES = 6_000_000
"""Players that would make the page larger are left out, and the page says how many."""
MAX_UNITS = 40
"""Sound units shown of a recording."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Player:
    caption: str
    text: str
    seconds: float
    cut: bool
    audio: str
    envelope: str
    units: tuple[tuple[str, tuple[tuple[str, int], ...], int], ...]
    """Heading, units with how often each follows itself, and how many are not shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Section:
    table: MeasureTable
    names: tuple[str, ...]
    figure: str
    described: str
    """The figure in words."""


def write_report(content: ReportContent, path: Path) -> Path:
    """Write the page.

    Args:
        content: Everything on it.
        path: File to write; its folder is made.

    Returns:
        ``path``.

    Raises:
        DataError: A clip cannot be played, or measurements do not belong together.
    """
    cells, differences = scores(content.measurements), changes(content.measurements)
    view = _view(content, cells, differences)
    template = _environment().get_template("report.html.jinja")
    bare = template.render(view, players=[], left_out=0)
    players = _players(content.clips, MAX_PAGE_BYTES - len(bare.encode()) - 20_000)
    page = template.render(view, players=players, left_out=len(content.clips) - len(players))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def _environment() -> Environment:
    environment = page_templates()
    environment.filters["unbroken"] = _unbroken
    return environment


def _unbroken(text: str) -> str:
    """Keep a number and its sign on one line."""
    return text.replace(" %", "\u00a0%").replace(" = ", "\u00a0=\u00a0").replace(" nats", "\u00a0nats")


def _view(content: ReportContent, cells: Sequence[Score], differences: Sequence[Change]) -> dict[str, Any]:
    """Every name that the template uses, players aside."""
    order = (content.new_language, *content.kept_languages)
    tables = measure_tables(cells, differences, order=order)
    names = {tag: language_name(tag) for tag in (*order, *(tag for table in tables for tag in table.languages))}
    names[content.new_language] = content.new_language_name
    return {
        "content": content,
        "summary": summarize(content, cells, differences),
        "sections": [_section(table, names) for table in tables],
        "names": names,
        "glance": _glance(tables, names),
        "curves": curves_plot(content.curves),
        "symbols": SYMBOLS,
        "change_text": change_text,
        "verdict_text": verdict_text,
        "facts": [fact for fact in content.facts if not _is_hash(fact)],
        "signature": [*(fact for fact in content.facts if _is_hash(fact)), *_signature(content.measurements)],
        "ledger": ledger_json(content, cells, differences),
        "max_clip_seconds": round(MAX_CLIP_SECONDS),
    }


def _section(table: MeasureTable, names: dict[str, str]) -> _Section:
    compared = [change for change in table.changes if change is not None]
    shown = tuple(names[tag] for tag in table.languages)
    told = [names[change.language] for change in compared]
    words = "; ".join(
        f"{name}: {change_text(change)}, {verdict_text(change)}" for name, change in zip(told, compared, strict=True)
    )
    return _Section(
        table=table, names=shown, figure=forest_plot(compared, told), described=f"Relative change. {words}."
    )


def _glance(tables: Sequence[MeasureTable], names: dict[str, str]) -> dict[str, Any]:
    """One cell a measure and language: the verdict at a glance."""
    compared = {
        (table.key, change.language): change for table in tables for change in table.changes if change is not None
    }
    languages = [tag for tag in names if any(language == tag for _, language in compared)]
    rows = [
        (table.key, table.measure.title, [compared.get((table.key, tag)) for tag in languages])
        for table in tables
        if any(key == table.key for key, _ in compared)
    ]
    return {"languages": [names[tag] for tag in languages], "rows": rows}


def _players(clips: Sequence[Clip], room: int) -> list[_Player]:
    """Players that fit into ``room`` bytes, in the order given."""
    players: list[_Player] = []
    for clip in clips:
        player = _player(clip)
        room -= len(player.audio) + len(player.envelope) + 2000 + 60 * sum(len(units) for _, units, _ in player.units)
        if room < 0:
            break
        players.append(player)
    return players


def _player(clip: Clip) -> _Player:
    samples = clip.waveform()
    seconds = len(samples) / SAMPLE_RATE
    units = (("Sound units before", clip.units_before), ("Sound units after", clip.units_after))
    return _Player(
        caption=clip.caption,
        text=clip.text,
        seconds=seconds,
        cut=seconds > MAX_CLIP_SECONDS,
        audio=opus_address(samples),
        envelope=envelope_path(samples),
        units=tuple((heading, *_runs(given)) for heading, given in units if len(given)),
    )


def _runs(units: str | Sequence[str]) -> tuple[tuple[tuple[str, int], ...], int]:
    """Units with how often each follows itself; at most :data:`MAX_UNITS`, and how many are left."""
    single = units.split() if isinstance(units, str) else [str(unit) for unit in units]
    runs = [(unit, len(list(same))) for unit, same in groupby(single)]
    return tuple(runs[:MAX_UNITS]), max(0, len(runs) - MAX_UNITS)


def _is_hash(fact: tuple[str, str]) -> bool:
    return any(word in fact[0].lower() for word in ("hash", "sha256", "checksum"))


def _signature(measurements: Sequence[Measurement]) -> list[tuple[str, str]]:
    """What the numbers were made with."""
    packages = [f"{name} {_version(name)}" for name in ("allophone", "torch", "numpy", "transformers", "peft")]
    return [
        ("Measurements (SHA-256)", measurements_hash(measurements)),
        ("Versions", ", ".join([*packages, f"Python {platform.python_version()}"])),
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def measurements_hash(measurements: Sequence[Measurement]) -> str:
    """SHA-256 of every number, whatever the order in which the measurements are given."""
    digest = hashlib.sha256()
    for one in sorted(measurements, key=lambda one: (one.measure, one.language, one.system, one.seed)):
        digest.update(json.dumps([one.measure, one.language, one.system, one.seed, one.items]).encode())
        for numbers in (one.numerators, one.denominators):
            digest.update(numbers.astype("<f8").tobytes())
    return digest.hexdigest()


def ledger_json(content: ReportContent, cells: Sequence[Score], differences: Sequence[Change]) -> str:
    """Scores and changes as JSON that may stand inside a ``<script>``; what is not a number is null."""
    ledger = {
        "title": content.title,
        "new_language": content.new_language,
        "kept_languages": content.kept_languages,
        "base_model": content.base_model,
        "facts": [list(fact) for fact in content.facts],
        "measurements_sha256": measurements_hash(content.measurements),
        "measures": {key: asdict(MEASURES[key]) for key in MEASURES if any(cell.measure == key for cell in cells)},
        "scores": [asdict(cell) for cell in cells],
        "changes": [asdict(change) for change in differences],
        "warnings": content.warnings,
    }
    text = json.dumps(_finite(ledger), ensure_ascii=False, allow_nan=False, indent=1)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
