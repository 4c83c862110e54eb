"""The page of an evaluation: the scores of one frozen model with intervals, beside its controls; one offline file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from allophone.evaluate.measurements import Score
from allophone.evaluate.pages import page_templates
from allophone.evaluate.report_tables import MeasureTable, language_name, measure_tables

NOTES = {"chance": "guessing", "filter bank": "plain sound, no learning", "random encoder": "same model, untrained"}
MODEL = "this model"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationPage:
    """Everything that stands on the page."""

    title: str
    facts: tuple[tuple[str, str], ...]
    """Label and value: model, corpus, suite, seeds, each with its hash."""
    scores: tuple[Score, ...]
    """Systems ``before`` (the model itself) and its controls."""
    warnings: tuple[str, ...]
    command: str
    """Makes it again."""


def write_evaluation_page(page: EvaluationPage, path: Path) -> Path:
    """Write ``path`` and return it."""
    sections = [(table, _rows(table)) for table in measure_tables(page.scores, [])]
    template = page_templates().get_template("evaluation.html.jinja")
    html = template.render(page=page, sections=sections, name=language_name)
    partial = path.with_name(f".{path.name}")
    partial.write_text(html, encoding="utf-8")
    partial.replace(path)
    return path


def _rows(table: MeasureTable) -> list[tuple[str, str, tuple[tuple[str, str], ...]]]:
    """Name, note and cells of the systems that have a score; no footnotes, since nothing else was to be measured."""
    rows = []
    for row in table.rows:
        if row.seeds:
            name = MODEL if row.system == "before" else row.system
            rows.append((name, NOTES.get(row.system, ""), tuple((cell.value, cell.bounds) for cell in row.cells)))
    return rows
