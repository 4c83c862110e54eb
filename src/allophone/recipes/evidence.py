"""The claim of the project, measured: four languages added, three seeds each, beside every control."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.evaluate.measurements import (
    Measurement,
    changes,
    load_measurements,
    save_measurements,
    scores,
)
from allophone.evaluate.report_tables import markdown_tables
from allophone.recipes.expand import KEEP, expand, kept_corpora
from allophone.recipes.expand_measure import measure_frames
from allophone.recipes.ledger import LedgerConfig, base_posteriors, systems_of
from allophone.run.base import Base
from allophone.run.execute import fit_threads
from allophone.run.expansion_config import ExpandConfig
from allophone.run.progress import Report, silent
from allophone.run.starter import STARTER, open_base, starter_corpus
from allophone.units.extract import FrameCache

LANGUAGES = ("bul", "ell", "ita", "dan")


def evidence(
    out: Path,
    *,
    languages: Sequence[str] = LANGUAGES,
    seeds: Sequence[int] = (0, 1, 2),
    config: ExpandConfig | None = None,
    ledger: LedgerConfig | None = None,
    report: Report = silent,
) -> Path | None:
    """Expand the starter encoder to each language with each seed and write the tables.

    Finished runs are kept, so that the same call goes on where it stopped.

    Args:
        out: Folder of all runs; receives ``evidence.md`` and ``evidence.json``.
        languages: New languages.
        seeds: At least three for a result that may be cited.
        config: How the model is adapted; the seed is replaced.
        ledger: How much is measured; None = all but text probes of kept languages and drift.
        report: Told how far each stage is.

    Returns:
        ``evidence.md``; None when a signal stopped it.
    """
    corpus = starter_corpus()
    settings = ledger or LedgerConfig(kept_text=False, drift=False)
    every: dict[str, list[Measurement]] = {}
    model, cache = open_base(STARTER), FrameCache()
    fit_threads(model[0].encoder)
    for seed in seeds:
        known = unchanged(model[0], corpus, languages, settings, seed, out / f"unchanged-seed{seed}.parquet", report)
        for language in languages:
            run = out / f"{language}-seed{seed}"
            path = run / "measurements.parquet"
            if not (run / "result.json").exists():
                chosen = replace(config or ExpandConfig(), seed=seed)
                result = expand(
                    model,
                    corpus,
                    language=language,
                    keep=KEEP,
                    out=run,
                    config=chosen,
                    ledger=settings,
                    known=known,
                    cache=cache,
                    report=report,
                )
                if result is None:
                    return None
            every.setdefault(language, []).extend(load_measurements(path))
    return write_evidence(every, seeds, out)


def unchanged(
    base: Base,
    corpus: Corpus,
    languages: Sequence[str],
    config: LedgerConfig,
    seed: int,
    path: Path,
    report: Report,
) -> list[Measurement]:
    """Measurements of filter banks, random encoder and base, which no expansion changes; from ``path`` if there."""
    if path.exists():
        return load_measurements(path)
    systems = systems_of(base, None, seed)
    added = {one.languages[0]: one for one in (corpus.where(language=language) for language in languages)}
    kept = kept_corpora(corpus, KEEP, next(iter(added.values())))
    found = measure_frames(systems, base_posteriors(base), {**added, **kept}, added, config, seed, report)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_measurements(found, path)
    return found


def write_evidence(every: dict[str, list[Measurement]], seeds: Sequence[int], out: Path) -> Path:
    """One section a new language: every cell with its interval over items and seeds, and every change."""
    parts = [
        f"# Evidence\n\n{len(every)} languages added to the starter encoder, seeds {', '.join(map(str, seeds))}.\n"
    ]
    numbers = {}
    for language, found in every.items():
        parts.append(f"\n## {language} added\n\n{markdown_tables(found)}\n")
        numbers[language] = {
            "scores": [to_dict(score) for score in scores(found)],
            "changes": [to_dict(change) for change in changes(found)],
        }
    (out / "evidence.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    page = out / "evidence.md"
    page.write_text("".join(parts), encoding="utf-8")
    return page
