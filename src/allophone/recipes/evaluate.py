"""Scores of a frozen encoder beside chance, the same encoder with random weights, and filter banks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from allophone.config import config_hash, to_dict
from allophone.data.corpus import Corpus
from allophone.errors import ConfigError, DataError, suggest
from allophone.evaluate.evaluation_page import EvaluationPage, write_evaluation_page
from allophone.evaluate.measurements import Measurement, Score, System, save_measurements, scores
from allophone.evaluate.protocol import FrameSource
from allophone.evaluate.report_tables import markdown_tables
from allophone.evaluate.result import Signature
from allophone.evaluate.sources import RememberingSource
from allophone.models.conversion import model_hash
from allophone.recipes.ledger import (
    MIN_READ_CLIPS,
    LedgerConfig,
    base_posteriors,
    draw_rows,
    labelled_rows,
    language_rows,
    named_rows,
    probed_languages,
    systems_of,
    text_rows,
)
from allophone.recipes.phones import read_phone_table
from allophone.recipes.suite_scores import Summaries, phone_rows, space_rows
from allophone.recipes.voices import choosing_pair, compared_pairs, retrieval_rows, spoken_pair
from allophone.run.aside import aside
from allophone.run.base import Base
from allophone.run.execute import fit_threads
from allophone.run.progress import Report, silent
from allophone.run.starter import open_base

QUICK = LedgerConfig(
    probe_steps=300,
    few=(None,),
    most_test_clips=32,
    most_train_clips=80,
    most_prompts=50,
    choosing_prompts=40,
    most_pairs=1,
    most_probed=2,
    most_phone_clips=40,
)
"""For every change: 3 minutes on two cores for the starter encoder on the starter corpus. It has fewer clips and steps
than ``full``, so ``allophone compare`` refuses to put numbers of both into one table."""
SUITES: dict[str, LedgerConfig] = {"quick": QUICK, "full": LedgerConfig()}
CONTROLS: tuple[System, ...] = ("filter bank", "random encoder")
LONG = 200
"""Updates of a probe from which the controls get a process of their own."""
NORMALIZER = "allophone.text.normalize"
FEWEST = 20
"""Held-out items of a language below which a warning names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """What an evaluation leaves."""

    tables: Path
    """``scores.md``."""
    page: Path
    """``report.html``, which needs nothing beside it."""
    scores: tuple[Score, ...]
    measurements: tuple[Measurement, ...]


def evaluate(
    model: str | Path,
    corpus: Corpus | Path | str,
    *,
    out: Path,
    suite: str = "full",
    languages: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    config: LedgerConfig | None = None,
    report: Report = silent,
) -> Evaluated:
    """Score a model on each language of a corpus: prompts in another voice, text probes, languages, units, geometry.

    Args:
        model: ``starter``, a model folder or a hub id.
        corpus: A corpus with splits, or anything that ``Corpus.open`` reads.
        out: Receives ``result.json``, ``report.html``, ``scores.md`` and ``measurements.parquet``; the same call writes
            the same bytes again.
        suite: ``quick`` or ``full``.
        languages: Only these; empty = all.
        seeds: Of probes and random encoders.
        config: How much, in place of the suite's own choice.
        report: Told how far each stage is.

    Raises:
        ConfigError: There is no such suite.
        DataError: No utterance is left, or none of the measures has what it needs.
    """
    settings = config or suite_config(suite)
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    chosen = opened.where(language=languages) if languages else opened
    if len(chosen) == 0:
        raise DataError(f"{opened.name}: no utterance in {', '.join(languages)}; it has {', '.join(opened.languages)}.")
    _require_measurable(chosen, settings)
    base, _ = open_base(model)
    fit_threads(base.encoder)
    measured = [_measure(base, chosen, settings, seed, report) for seed in seeds]
    found = [one for part, _ in measured for one in part]
    signature = Signature(
        data_hash=chosen.hash,
        model_hash=model_hash(base.encoder),
        normalizer=NORMALIZER,
        seed=0,
        settings=config_hash(settings),
    )
    summaries = {str(seed): more for seed, (_, more) in zip(seeds, measured, strict=True)}
    return _write(out, found, summaries, signature, model, chosen, "custom" if config else suite)


def suite_config(suite: str) -> LedgerConfig:
    """How much a suite measures.

    Raises:
        ConfigError: There is no such suite.
    """
    if suite not in SUITES:
        raise ConfigError(f"Unknown suite {suite!r}. {suggest(suite, SUITES)}")
    return SUITES[suite]


def heard_hours(corpus: Corpus, settings: LedgerConfig) -> float:
    """Hours of different audio that each encoder hears in one evaluation."""
    corpora = _by_language(corpus)
    rows = {row.id: row for side in named_rows(corpora, settings) for every in side.values() for row in every}
    rows |= {row.id: row for pair in compared_pairs(corpora, settings)[1].values() for side in pair for row in side}
    for one in probed_languages(corpora, settings).values():
        rows |= {row.id: row for side in labelled_rows(one, settings) for row in side}
    for one in corpora.values():
        phones = read_phone_table(one)
        rows |= {row.id: row for row in draw_rows([r for r in one if r.id in phones], settings.most_phone_clips)}
    return sum(row.duration_seconds for row in rows.values()) / 3600


def _require_measurable(corpus: Corpus, settings: LedgerConfig) -> None:
    """Refuse a corpus of which nothing could be scored, before anything is computed."""
    corpora = _by_language(corpus)
    named = len(named_rows(corpora, settings)[1]) > 1
    labelled = max(len(read_phone_table(one)) for one in corpora.values()) >= settings.min_phone_clips
    if not (named or labelled or compared_pairs(corpora, settings)[0] or probed_languages(corpora, settings)):
        splits = Counter(row.split or "no split" for row in corpus)
        raise DataError(
            f"{corpus.name}: nothing can be scored; {len(corpora)} language(s), utterances: "
            f"{', '.join(f'{number} of {split}' for split, number in sorted(splits.items()))}. Expected one of: two "
            f"languages with train and test utterances; a language with {settings.min_labelled_clips} train and "
            f"{MIN_READ_CLIPS} test utterances that have texts; two voices with {settings.min_pair_prompts} prompts in "
            "common, one of them in train. `allophone corpus split` gives a corpus its splits."
        )


def _by_language(corpus: Corpus) -> dict[str, Corpus]:
    return {tag: corpus.where(language=tag) for tag in corpus.languages}


def _measure(
    base: Base, corpus: Corpus, settings: LedgerConfig, seed: int, report: Report
) -> tuple[list[Measurement], Summaries]:
    """All that is measured with one seed; what the model is compared with goes on beside it, where there is a core."""
    with aside(settings.probe_steps >= LONG) as begin:
        waited = begin("Controls", partial(_rows, base, corpus, settings, seed, CONTROLS), report)
        found, own = _rows(base, corpus, settings, seed, ("before",), report=report)
        controls, others = waited()
    units = {language: {**others["units"][language], **by_system} for language, by_system in own["units"].items()}
    return controls + found, {"geometry": {**others["geometry"], **own["geometry"]}, "units": units}


def _rows(
    base: Base, corpus: Corpus, settings: LedgerConfig, seed: int, names: Sequence[System], report: Report = silent
) -> tuple[list[Measurement], Summaries]:
    """Some rows; ``before`` brings chance. Languages come last: their vectors are means of what was heard by then."""
    systems: dict[System, FrameSource] = {
        name: RememberingSource(source) for name, source in systems_of(base, None, seed).items() if name in names
    }
    corpora = _by_language(corpus)
    compared, others = compared_pairs(corpora, settings)
    pairs = {language: spoken_pair(corpora[language], pair) for language, pair in compared.items()}
    choosing = {language: choosing_pair(corpora[language], pair, settings) for language, pair in others.items()}
    found = retrieval_rows(systems, base_posteriors(base) if "before" in names else {}, pairs, choosing, seed, report)
    found += text_rows(systems, probed_languages(corpora, settings), settings, seed, report)
    phones, units = phone_rows(systems, corpora, base.encoder.clock, settings, seed, report)
    found += [*phones, *language_rows(systems, corpora, settings, seed, report)]
    space, geometry = space_rows(systems, corpora, settings, seed, report)
    return found + space, {"geometry": geometry, "units": units}


def _write(
    out: Path,
    found: Sequence[Measurement],
    summaries: Mapping[str, Summaries],
    signature: Signature,
    model: str | Path,
    corpus: Corpus,
    suite: str,
) -> Evaluated:
    seeds = [int(seed) for seed in summaries]
    out.mkdir(parents=True, exist_ok=True)
    save_measurements(found, out / "measurements.parquet", signature)
    cells, warnings = scores(found), _warnings(found, seeds, corpus)
    result = {
        "format": "allophone-result-1",
        "suite": suite,
        "seeds": seeds,
        "signature": to_dict(signature),
        "scores": [to_dict(cell) for cell in cells],
        "summaries": summaries,
        "warnings": list(warnings),
    }
    (out / "result.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tables = out / "scores.md"
    tables.write_text(markdown_tables(found), encoding="utf-8")
    name = model.name if isinstance(model, Path) else model
    facts = (
        ("Model", f"{name} ({signature.model_hash})"),
        ("Corpus", f"{corpus.name} ({signature.data_hash})"),
        ("Suite", f"{suite} (settings {signature.settings})"),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Texts compared by", signature.normalizer),
    )
    page = EvaluationPage(
        title=f"{name}, scored frozen",
        facts=facts,
        scores=tuple(cells),
        warnings=warnings,
        command=f"allophone evaluate {model} --corpus {corpus.name} --suite {suite}",
    )
    return Evaluated(
        tables=tables,
        page=write_evaluation_page(page, out / "report.html"),
        scores=tuple(cells),
        measurements=tuple(found),
    )


def _warnings(found: Sequence[Measurement], seeds: Sequence[int], corpus: Corpus) -> tuple[str, ...]:
    """What a reader must know before believing the numbers."""
    unscored = sorted(set(corpus.languages) - {one.language for one in found})
    thin = sorted({one.language for one in found if len(one.items) < FEWEST})
    warnings = []
    if unscored:
        warnings.append(
            f"Not scored, for want of train or test utterances (`allophone corpus split`): {', '.join(unscored)}."
        )
    if thin:
        warnings.append(f"Fewer than {FEWEST} held-out items in some test, so it says little: {', '.join(thin)}.")
    if len(seeds) == 1:
        warnings.append("One seed: the ranges cover the choice of recordings, not luck in training the probes.")
    return tuple(warnings)
