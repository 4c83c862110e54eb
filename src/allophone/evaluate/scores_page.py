"""A page of tables, systems in rows and scores in columns, and the same as Markdown; one offline file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allophone.config import from_dict, to_dict
from allophone.evaluate.pages import page_templates
from allophone.evaluate.result import Result, ResultTable

RESULT, TABLES, PAGE = "result.json", "scores.md", "report.html"
Rows = dict[str, list[Result]]
"""Results by system."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One table."""

    title: str
    text: str
    """What the numbers are; plain text."""
    table: ResultTable


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoresPage:
    """Everything that stands on the page."""

    title: str
    lead: str
    """What was trained and what the tables compare; plain text."""
    facts: tuple[tuple[str, str], ...]
    """Label and value."""
    sections: tuple[Section, ...]
    examples: tuple[tuple[str, str, str], ...] = ()
    """Name, what was right and what the model wrote."""

    def markdown(self) -> str:
        """The tables for a terminal or a repository."""
        facts = "\n".join(f"- {label}: {value}" for label, value in self.facts)
        parts = [f"# {self.title}\n", f"{self.lead}\n", f"{facts}\n"]
        for section in self.sections:
            parts += [f"## {section.title}\n", f"{section.text}\n", section.table.markdown()]
        return "\n".join(parts)


def write_scores(page: ScoresPage, folder: Path) -> Path:
    """Write ``report.html`` and ``scores.md``; returns the latter."""
    tables = [(section, _heads(section.table)) for section in page.sections]
    html = page_templates().get_template("scores.html.jinja").render(page=page, tables=tables)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(html, encoding="utf-8")
    (folder / TABLES).write_text(page.markdown(), encoding="utf-8")
    return folder / TABLES


def _heads(table: ResultTable) -> Sequence[str]:
    """Name, unit, direction and n of each column."""
    heads = []
    for place, column in enumerate(table.columns):
        one = next(row[place] for row in table.cells if row[place] is not None)
        assert one is not None
        better = "higher is better" if one.higher_is_better else "lower is better"
        heads.append(f"{column}{', ' if one.unit else ''}{one.unit} ({better}, n = {one.n})")
    return heads


def save_rows(
    rows: Mapping[str, Sequence[Result]], folder: Path, kind: str, made_from: Any, facts: Mapping[str, Any]
) -> None:
    """Write ``result.json``: all results, what they were made from, and what a reader needs besides."""
    values = {
        "format": kind,
        "made_from": made_from,
        **facts,
        "rows": {name: [to_dict(one) for one in results] for name, results in rows.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def saved_rows(folder: Path, kind: str, made_from: Any) -> Rows | None:
    """The results that lie there, where they were made from the same."""
    if not (folder / RESULT).exists():
        return None
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    if result.get("format") != kind or result.get("made_from") != made_from:
        return None
    return {name: [from_dict(Result, one) for one in found] for name, found in result["rows"].items()}
