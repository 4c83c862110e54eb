"""What is measured after an expansion: two about equal halves, in two processes where the caller has a second one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from allophone.data.corpus import Corpus
from allophone.evaluate.drift import Drift
from allophone.evaluate.forgetting import PosteriorSource
from allophone.evaluate.measurements import Measurement, System
from allophone.evaluate.protocol import FrameSource
from allophone.evaluate.report_content import Table
from allophone.recipes.drift import drift_rows
from allophone.recipes.language_pack import HandedOver
from allophone.recipes.ledger import (
    LedgerConfig,
    base_posteriors,
    language_rows,
    masked_rows,
    systems_of,
    text_rows,
)
from allophone.recipes.phones import phone_table
from allophone.recipes.voices import SpokenPair, choosing_pair, retrieval_rows, spoken_pair, voice_pair
from allophone.run.aside import Begin, later
from allophone.run.base import Base
from allophone.run.expansion import Expanded
from allophone.run.expansion_config import ExpandConfig
from allophone.run.progress import Report, silent
from allophone.units.extract import FrameCache


def measure(
    base: Base,
    expanded: Expanded,
    made: HandedOver,
    whole: Mapping[str, Corpus],
    trained: Mapping[str, Corpus],
    config: ExpandConfig,
    ledger: LedgerConfig,
    known: Sequence[Measurement],
    caches: tuple[FrameCache, FrameCache | None],
    begin: Begin = later,
    report: Report = silent,
) -> tuple[list[Measurement], list[Table], list[Drift]]:
    """Everything that the ledger and the page tell.

    Args:
        base: The model before.
        expanded: What the runs left.
        made: The model after.
        whole: All of each language, the new one first.
        trained: What training and masked prediction use of each, in the same order.
        config: How the model was adapted.
        ledger: How much is measured.
        known: Measurements of the systems that do not change; they are not made again.
        caches: Frames of the base, for masked prediction and for what became of its units.
        begin: Begins the half that the other does not wait for.
        report: Told how far each stage is.

    Returns:
        Measurements, tables of units against phones, and what became of the kept languages' units.
    """
    encoder, codebook, seed = made.encoder, made.codebook, config.seed
    systems, posteriors = systems_of(base, encoder, seed), unit_posteriors(base, expanded)
    new, *kept = whole
    heard, languages = {tag: trained[tag] for tag in kept}, dict(whole)
    unknown: dict[System, FrameSource] = {"after": systems["after"]} if known else systems
    if known:
        posteriors.pop("before", None)
    predicted = partial(masked_rows, base, expanded, dict(trained), ledger, seed, cache=caches[0])
    read = partial(probe_rows, unknown, languages, (new,), ledger, seed)
    waited = [begin("Masked prediction", predicted, report), begin("Linear probes", read, report)]
    named = language_rows(systems, languages, ledger, seed, report)
    compared = compare_voices(unknown, posteriors, languages, ledger, seed, report)
    phones = [phone_table(one, base, encoder, codebook, seed=seed, report=report) for one in whole.values()]
    drift = drift_rows(base, encoder, codebook, heard, whole, ledger, seed, cache=caches[1], report=report)
    masked, text = (result() for result in waited)
    found = [*masked, *(one for one in known if one.language in whole), *compared, *text, *named]
    return found, [table for table in phones if table is not None], drift


def unit_posteriors(base: Base, expanded: Expanded) -> dict[System, FrameSource]:
    """Rows with unit posteriors."""
    found: dict[System, FrameSource] = {
        "random encoder": PosteriorSource("random encoder", expanded.random),
        "head only": PosteriorSource("head only", expanded.control),
        "after": PosteriorSource("after", expanded.expansion.method),
    }
    return found | base_posteriors(base)


def measure_frames(
    systems: dict[System, FrameSource],
    posteriors: dict[System, FrameSource],
    languages: dict[str, Corpus],
    probed: Collection[str],
    config: LedgerConfig,
    seed: int,
    report: Report,
) -> list[Measurement]:
    """Retrieval and text of some systems.

    Args:
        systems: Rows with frames.
        posteriors: Rows with unit posteriors.
        languages: Corpus of each language.
        probed: Languages whose text is probed; the others' only where ``config`` wants kept languages read too.
        config: How much.
        seed: Of probes and the random encoder.
        report: Told how far each stage is.
    """
    found = compare_voices(systems, posteriors, languages, config, seed, report)
    return found + probe_rows(systems, languages, probed, config, seed, report)


def compare_voices(
    systems: dict[System, FrameSource],
    posteriors: dict[System, FrameSource],
    languages: dict[str, Corpus],
    config: LedgerConfig,
    seed: int,
    report: Report,
) -> list[Measurement]:
    """The part of :func:`measure_frames` that is retrieval."""
    pairs: dict[str, SpokenPair] = {}
    choosing: dict[str, SpokenPair] = {}
    for language, corpus in languages.items():
        pair, every = (voice_pair(corpus, config, everything=everything) for everything in (False, True))
        if pair is not None:
            pairs[language] = spoken_pair(corpus, pair)
        if every is not None:
            choosing[language] = choosing_pair(corpus, every, config)
    return retrieval_rows(systems, posteriors, pairs, choosing, seed, report)


def probe_rows(
    systems: dict[System, FrameSource],
    languages: dict[str, Corpus],
    probed: Collection[str],
    config: LedgerConfig,
    seed: int,
    report: Report = silent,
) -> list[Measurement]:
    """The part of :func:`measure_frames` that is text."""
    read = {name: corpus for name, corpus in languages.items() if config.kept_text or name in probed}
    return text_rows(systems, read, config, seed, report)
