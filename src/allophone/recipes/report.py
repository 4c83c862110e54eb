"""One page from the measurements of several runs, such as the seeds of one expansion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from allophone.errors import DataError
from allophone.evaluate.measurements import Measurement, load_measurements
from allophone.evaluate.report import write_report
from allophone.evaluate.report_content import ReportContent
from allophone.text.languages import parse_language


def report(runs: Sequence[Path], *, out: Path) -> Path:
    """Write a page over all seeds of one expansion.

    Args:
        runs: Folders that ``allophone expand`` wrote, for one new language and one base model, each with its own seed.
        out: The page.

    Raises:
        DataError: A folder holds no finished run, or the runs are of several languages or base models.
    """
    found: list[Measurement] = []
    kinds: set[tuple[str, str]] = set()
    seeds: list[int] = []
    for run in runs:
        path = run / "result.json"
        if not path.is_file():
            raise DataError(f"{run}: no result.json, so no finished run. Name folders that `allophone expand` wrote.")
        result = json.loads(path.read_text(encoding="utf-8"))
        kinds.add((result["language"], result["signature"]["model"]))
        seeds.append(result["signature"]["seed"])
        found += load_measurements(run / "measurements.parquet")
    if len(kinds) != 1:
        raise DataError(f"The runs are of several languages or models: {sorted(kinds)}. Write one page for each.")
    ((language, model),) = kinds
    name = parse_language(language).name
    kept = sorted({one.language for one in found} - {language})
    return write_report(
        ReportContent(
            title=f"{name}, {len(seeds)} runs",
            new_language=language,
            new_language_name=name,
            kept_languages=tuple(kept),
            base_model=model,
            facts=(("Runs", ", ".join(str(run) for run in runs)), ("Seeds", ", ".join(map(str, sorted(seeds))))),
            measurements=tuple(found),
        ),
        out,
    )
