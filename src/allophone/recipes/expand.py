"""Adding a language, from a folder of recordings to a language pack, a ledger and a page that tells what happened."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from allophone.config import config_hash, to_dict
from allophone.data.corpus import Corpus, merge
from allophone.data.splits import split_corpus
from allophone.errors import DataError
from allophone.evaluate.drift import Drift
from allophone.evaluate.gate import Gate, losses, refusal, require_protected
from allophone.evaluate.measurements import Measurement, changes, save_measurements, scores
from allophone.evaluate.report import terminal_summary, write_report
from allophone.models.conversion import model_hash
from allophone.recipes.drift import drift_json, drift_tables
from allophone.recipes.expand_measure import measure
from allophone.recipes.expand_report import report_content
from allophone.recipes.language_pack import hand_over, save_pack
from allophone.recipes.ledger import LedgerConfig, draw_rows, main_voices
from allophone.recipes.own_units import require_old_units
from allophone.run.aside import aside
from allophone.run.base import Base
from allophone.run.execute import fit_threads
from allophone.run.expansion import expand_encoder
from allophone.run.expansion_config import ExpandConfig, worth_a_process
from allophone.run.progress import Report, counted, silent
from allophone.run.starter import STARTER, open_base, starter_corpus
from allophone.run.targets import subset
from allophone.text.languages import parse_language
from allophone.text.normalize import normalize
from allophone.units.extract import FrameCache

KEEP = ("spa", "fra", "rus")
"""Languages that are kept when nothing is said and the base is the starter."""
FAST = LedgerConfig(
    probe_steps=400, few=(None,), most_test_clips=24, most_train_clips=100, kept_text=False, drift=False
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpandResult:
    """What an expansion leaves in its folder."""

    out: Path
    report: Path
    """The page."""
    pack: Path
    """Language pack: PEFT adapter, codebook, heads."""
    model: Path
    """The adapted encoder with the adapter merged in, as a Hugging Face folder."""
    measurements: tuple[Measurement, ...]
    summary: str
    """The page in ten lines, for a terminal."""
    seconds: float
    """Time of this call."""


def expand(
    base: str | Path | tuple[Base, Path | str],
    corpus: Corpus | Path | str,
    *,
    language: str,
    out: Path,
    keep: Sequence[str] = (),
    config: ExpandConfig | None = None,
    ledger: LedgerConfig | None = None,
    known: Sequence[Measurement] = (),
    cache: FrameCache | None = None,
    gate: Gate | None = None,
    report: Report = silent,
) -> ExpandResult | None:
    """Add a language to a model.

    Args:
        base: ``starter``, a model folder or a hub id; or what ``open_base`` gave for one.
        corpus: Recordings: a corpus, or anything that ``Corpus.open`` reads.
        language: The new language, in any tag.
        out: Run folder; the same call again goes on where it stopped.
        keep: Languages that must not get worse; looked for in ``corpus`` and in the starter corpus. Empty = Spanish,
            French and Russian when the base is the starter.
        config: How the model is adapted.
        ledger: How much is measured.
        known: Measurements of the systems that do not change (filter bank, random encoder, before), with this seed.
        cache: Frames of the base at the layer of its codebook, to share between expansions of one base.
        gate: The most that a kept language may lose; None = a pack is written whatever it costs.
        report: Told how far each stage is.

    Returns:
        None when a signal stopped it.

    Raises:
        ConfigError: There is a ``gate`` and no language to keep.
        GateError: A kept language loses more than ``gate`` allows; all but the pack is written.
        AllophoneError: The language is unknown or not in the corpus, recordings or model cannot be read, ...
    """
    started = time.monotonic()
    config, ledger = config or ExpandConfig(), ledger or LedgerConfig()
    parse_language(language)  # refuse an unknown one before recordings are read
    opened = open_recordings(corpus, language, report)
    new = with_splits(opened.where(language=language), config.seed)
    model, where = base if isinstance(base, tuple) else open_base(base)
    require_old_units(model, config)
    fit_threads(model.encoder)
    tag, kept = new.languages[0], kept_corpora(opened, keep or (KEEP if str(base) == STARTER else ()), new)
    require_protected(gate, kept)
    main, shared = main_voices(new), cache or FrameCache()
    hours = replayed_hours(config, main, len(kept))
    heard = {language: portion(one, config, ledger, hours) for language, one in kept.items()}
    together = merged(tuple(heard.values()))
    own_layer = model.codebook is not None and config.layer in (None, model.codebook.info.layer)
    own = shared if own_layer else None
    whole, trained = {tag: new, **kept}, {tag: main, **heard}
    caches = (shared, own)
    with aside(worth_a_process(config), measure.__module__) as begin:
        expanded = expand_encoder(model, main, together, config, out, cache=own, begin=begin, report=report)
        made = None if expanded is None else hand_over(model, expanded, where, new, together, config, out, report)
        if expanded is None or made is None:
            return None
        found, phones, drift = measure(
            model, expanded, made, whole, trained, config, ledger, known, caches, begin, report
        )
    save_measurements(found, out / "measurements.parquet")
    refused = [] if gate is None else losses(changes(found), tuple(kept), gate)
    pack = None if refused else out / "pack"
    content = report_content(where, model, expanded, made.encoder, made.codebook, new, kept, found, out, pack, config)
    tables = (*drift_tables(drift), *phones)
    warnings = (*content.warnings, *gate_warnings(refused))
    page = write_report(replace(content, extra_tables=tables, warnings=warnings), out / "report.html")
    seconds = time.monotonic() - started
    write_result(out, found, drift, config, new, model, seconds)
    if gate is not None and refused:
        raise refusal(refused, gate, str(out))
    return ExpandResult(
        out=out,
        report=page,
        pack=save_pack(expanded, made, model, out / "pack", tag),
        model=out / "model",
        measurements=tuple(found),
        summary=terminal_summary(content),
        seconds=seconds,
    )


def open_recordings(corpus: Corpus | Path | str, language: str, report: Report) -> Corpus:
    """The corpus itself, or one made from a folder or manifest; ``language`` serves where the source names none."""
    if isinstance(corpus, Corpus):
        return corpus
    told = counted(report("Reading recordings"))
    if (Path(corpus) / "corpus.parquet").is_file():
        return Corpus.open(corpus)
    return Corpus.open(corpus, language=language, progress=told)


def with_splits(corpus: Corpus, seed: int) -> Corpus:
    """The corpus with a leak-safe split; one that has a training and a test split keeps it.

    Where nothing says what is said, every recording counts as content of its own.

    Raises:
        DataError: There is no utterance.
    """
    if len(corpus) == 0:
        raise DataError(
            "No utterance is in the new language. Give the language that the corpus has, or pass a plain folder of "
            "recordings with --language."
        )
    present = {row.split for row in corpus}
    if {"train", "test"} <= present:
        return corpus
    texts = tuple(
        row if row.group or not row.text else replace(row, group="text:" + normalize(row.text, row.language))
        for row in corpus
    )
    return split_corpus(corpus.with_utterances(texts), dev=0.0, test=0.25, by=("group",), seed=seed)


def kept_corpora(opened: Corpus, keep: Sequence[str], new: Corpus) -> dict[str, Corpus]:
    """Audio of each language to keep, from the given corpus or, where it has none, from the starter corpus.

    Raises:
        DataError: Neither has recordings of a language.
    """
    found: dict[str, Corpus] = {}
    own_languages = set(new.languages)
    for language in keep:
        one = opened.where(language=language)
        if len(one) == 0:
            one = starter_corpus().where(language=language)
        if len(one) == 0:
            raise DataError(
                f"No recordings of {language!r} to keep: neither the given corpus nor the starter corpus has any. "
                "Add some to the corpus, or leave the language out of --keep."
            )
        one = one if {"train", "test"} <= {row.split for row in one} else with_splits(one, 0)
        if not set(one.languages) & own_languages:
            found[one.languages[0]] = one
    return found


def heard_hours(corpus: Corpus, language: str, keep: Sequence[str], config: ExpandConfig) -> float:
    """Hours that an expansion trains on or labels, about: the new language, and some of each kept one."""
    kept = (sum(corpus.where(language=one).hours().values()) for one in keep)
    new = sum(corpus.where(language=language).hours().values())
    each = config.kept_hours if config.replay is None else config.replay * new / max(1, len(keep))
    return new + sum(min(hours, 1.5 * each) for hours in kept)


def replayed_hours(config: ExpandConfig, new: Corpus, languages: int) -> float:
    """Most training audio of each of so many kept languages, by ``kept_hours`` or by the ratio to the new one's."""
    if config.replay is None or languages == 0:
        return config.kept_hours
    return config.replay * sum(new.where(split="train").hours().values()) / languages


def merged(corpora: Sequence[Corpus]) -> Corpus | None:
    """All of them as one; None where there is none."""
    together = None
    for one in corpora:
        together = one if together is None else merge(together, one)
    return together


def portion(corpus: Corpus, config: ExpandConfig, ledger: LedgerConfig, hours: float | None = None) -> Corpus:
    """What training and masked prediction use of a kept language: some training audio and the held-out utterances.

    ``hours`` is the most of the former; None = as ``config`` says.
    """
    main = main_voices(corpus)
    training = [row for row in main if row.split == "train"]
    test = [row for row in main if row.split == "test"]
    rows = [
        *subset(training, config.kept_hours if hours is None else hours, 0),
        *draw_rows(test, ledger.most_test_clips),
    ]
    return corpus.with_utterances(tuple(rows))


def gate_warnings(refused: Sequence[str]) -> tuple[str, ...]:
    """What the page says of a pack that is not handed over."""
    return (
        (f"No language pack was written, because of the limit that was set: {'; '.join(refused)}.",) if refused else ()
    )


def write_result(
    out: Path,
    found: Sequence[Measurement],
    drift: Sequence[Drift],
    config: ExpandConfig,
    new: Corpus,
    base: Base,
    seconds: float,
) -> None:
    """``result.json``: scores and changes with their signature."""
    result = {
        "format": "allophone-result-1",
        "language": new.languages[0],
        "signature": {
            "model": model_hash(base.encoder),
            "corpus": new.hash,
            "settings": config_hash(config),
            "seed": config.seed,
            "normalizer": "allophone.text.normalize",
        },
        "config": to_dict(config),
        "seconds": round(seconds, 1),
        "scores": [to_dict(score) for score in scores(found)],
        "changes": [to_dict(change) for change in changes(found)],
        "drift": drift_json(drift),
    }
    (out / "result.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
