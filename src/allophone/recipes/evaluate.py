"""Scores of a frozen encoder beside chance, the same encoder with random weights, and filter banks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.errors import DataError
from allophone.evaluate.measurements import Measurement, Score, save_measurements, scores
from allophone.evaluate.report_tables import markdown_tables
from allophone.models.conversion import model_hash
from allophone.recipes.expand import measure_frames
from allophone.recipes.ledger import LedgerConfig, base_posteriors, language_rows, systems_of
from allophone.run.execute import fit_threads
from allophone.run.progress import Report, silent
from allophone.run.starter import open_base


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """What an evaluation leaves."""

    tables: Path
    """``scores.md``."""
    scores: tuple[Score, ...]
    measurements: tuple[Measurement, ...]


def evaluate(
    model: str | Path,
    corpus: Corpus | Path | str,
    *,
    out: Path,
    languages: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    config: LedgerConfig | None = None,
    report: Report = silent,
) -> Evaluated:
    """Score a model on each language of a corpus: same prompt in another voice, linear text probes, languages.

    Args:
        model: ``starter``, a model folder or a hub id.
        corpus: A corpus with splits, or anything that ``Corpus.open`` reads.
        out: Receives ``scores.md``, ``result.json`` and ``measurements.parquet``.
        languages: Only these; empty = all.
        seeds: Of probes and random encoders.
        config: How much.
        report: Told how far each stage is.

    Raises:
        DataError: No utterance is left.
    """
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    chosen = opened.where(language=languages) if languages else opened
    if len(chosen) == 0:
        raise DataError(f"{opened.name}: no utterance in {', '.join(languages)}; it has {', '.join(opened.languages)}.")
    base, _ = open_base(model)
    fit_threads(base.encoder)
    by_language = {tag: chosen.where(language=tag) for tag in chosen.languages}
    found: list[Measurement] = []
    for seed in seeds:
        systems = systems_of(base, None, seed)
        settings = config or LedgerConfig()
        found += measure_frames(
            systems, base_posteriors(base), by_language, by_language, settings, seed, report, everything=True
        )
        found += language_rows(systems, by_language, settings, seed, report)
    out.mkdir(parents=True, exist_ok=True)
    save_measurements(found, out / "measurements.parquet")
    cells = scores(found)
    signature = {"model": model_hash(base.encoder), "corpus": chosen.hash, "seeds": list(seeds)}
    result = {"format": "allophone-result-1", "signature": signature, "scores": [to_dict(cell) for cell in cells]}
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    tables = out / "scores.md"
    tables.write_text(markdown_tables(found), encoding="utf-8")
    return Evaluated(tables=tables, scores=tuple(cells), measurements=tuple(found))
