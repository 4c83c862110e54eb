"""Which scores an expansion is judged by, on which recordings, before and after."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from allophone.audio.augment import limit_bandwidth
from allophone.audio.features import FILTER_BANK_CLOCK
from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.evaluate.forgetting import (
    CHOOSING_PROMPTS,
    PosteriorSource,
    Spoken,
    chance_masked_loss,
    chance_text,
    measure_languages,
    measure_masked_loss,
    measure_text,
)
from allophone.evaluate.measurements import Measurement, System
from allophone.evaluate.protocol import FrameSource
from allophone.evaluate.sources import EncoderSource, FilterbankSource
from allophone.frames import SAMPLE_RATE
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.models.build import Encoder
from allophone.run.base import Base
from allophone.run.expansion import Expanded, random_encoder
from allophone.run.progress import Report, silent
from allophone.run.targets import aligned_units, waveforms
from allophone.seeding import numpy_generator
from allophone.units.encode import encode_units
from allophone.units.extract import FrameCache


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerConfig:
    """How much is measured; fewer clips and steps for the quick look."""

    probe_steps: int = 1600
    """Updates of each linear probe."""
    probe_repeats: int = 1
    """Trainings of each text probe, each with a draw of its own, whose errors are added up."""
    few: tuple[int | None, ...] = (None, 150)
    """Labelled clips; None = all."""
    most_test_clips: int = 150
    """Held-out utterances of one language, drawn by id."""
    most_train_clips: int = 600
    """Labelled utterances of one language."""
    kept_text: bool = True
    """Whether kept languages get a text probe too."""
    min_labelled_clips: int = 20
    """Fewest transcribed training clips of a language for a text probe; below, its cells stay empty."""
    min_pair_prompts: int = 20
    """Fewest prompts that two voices must share to be compared."""
    choosing_prompts: int = CHOOSING_PROMPTS
    """Most prompts of two other voices on which a layer is picked."""
    drift: bool = True
    """Whether forgetting is taken apart into drifted units and lost ones."""
    most_prompts: int | None = None
    """Prompts of two voices; None = all that they share."""
    most_pairs: int | None = None
    """Languages whose two voices are compared, those with most shared prompts; None = all."""
    most_probed: int | None = None
    """Languages with a text probe, those with most labelled training clips; None = all."""
    most_phone_clips: int = 130
    """Clips with phone labels; half of them to fit units on."""
    min_phone_clips: int = 12
    """Fewest of them in a language."""
    phone_units: int = 100
    """Units that are compared with phones."""


def spoken(corpus: Corpus, rows: Iterable[Utterance], *, sample_rate: int = SAMPLE_RATE) -> Spoken:
    """Decode utterances, with no more bandwidth than recordings at ``sample_rate`` have."""
    rows = list(rows)
    return Spoken(
        ids=tuple(row.id for row in rows),
        waveforms=tuple(limit_bandwidth(corpus.audio(row), sample_rate) for row in rows),
        texts=tuple(row.text for row in rows),
        groups=tuple(row.group for row in rows),
        speakers=tuple(row.speaker for row in rows),
    )


MIN_READ_CLIPS = 5
"""Fewest held-out utterances with text for a text probe."""
HELD_OUT = ("dev", "test")


def draw_rows(rows: list[Utterance], most: int) -> list[Utterance]:
    """At most ``most`` utterances, always the same ones."""
    ordered = sorted(rows, key=lambda row: row.id)
    return [ordered[index] for index in sorted(numpy_generator(0, "ledger").permutation(len(ordered))[:most])]


def main_voices(corpus: Corpus) -> Corpus:
    """What one trains and tests on: all voices but second ones, which are kept for retrieval alone.

    A second voice has no training utterance and, mostly, says prompts that a trained voice says too, or is of a source
    (another studio) that training has nothing of. Other held-out speakers are none: in most corpora they are others
    than those of training. Neither is anybody in a split that would be left empty.
    """
    training = [row for row in corpus if row.split == "train"]
    trained, sources = {row.speaker for row in training}, {row.source for row in training} | {None}
    said = {row.group for row in corpus if row.speaker in trained} - {None}
    others: dict[str | None, list[bool]] = {}
    for row in corpus:
        if row.split in HELD_OUT and row.speaker not in trained:
            others.setdefault(row.speaker, []).append(row.group in said or row.source not in sources)
    second = {speaker for speaker, apart in others.items() if 2 * sum(apart) > len(apart)}
    first = [row for row in corpus if row.speaker in trained or (row.split in HELD_OUT and row.speaker not in second)]
    kept, there = {row.id for row in first}, {row.split for row in first}
    empty = set(HELD_OUT) - there
    return corpus.with_utterances(tuple(row for row in corpus if row.id in kept or row.split in empty))


def systems_of(base: Base, adapted: Encoder | None, seed: int) -> dict[System, FrameSource]:
    """The rows of every table that have frames; ``after`` only where there is an adapted encoder."""
    random = random_encoder(base.encoder, seed)
    stack = round(base.encoder.clock.hop / FILTER_BANK_CLOCK.hop)
    systems: dict[System, FrameSource] = {
        "filter bank": FilterbankSource(stack),
        "random encoder": EncoderSource("random encoder", random),
        "before": EncoderSource("before", base.encoder),
    }
    return systems if adapted is None else {**systems, "after": EncoderSource("after", adapted)}


def base_posteriors(base: Base) -> dict[System, FrameSource]:
    """The base's own unit posteriors, as the row ``before``; empty where it came without codebook or heads."""
    method = base.method()
    return {} if method is None else {"before": PosteriorSource("before", method)}


def masked_rows(
    base: Base,
    expanded: Expanded,
    corpora: dict[str, Corpus],
    config: LedgerConfig,
    seed: int,
    *,
    cache: FrameCache | None = None,
    report: Report = silent,
) -> list[Measurement]:
    """Masked-prediction loss under the new units and under the base's, for every language, of its main voices.

    ``cache`` holds frames of the base at the layer of its codebook.
    """
    found: list[Measurement] = []
    clock, collate = base.encoder.clock, expanded.config.data.collate
    own: dict[System, MaskedPrediction] = {
        "random encoder": expanded.random,
        "head only": expanded.control,
        "after": expanded.expansion.method,
    }
    base_method = base.method()
    told = report("Masked prediction")
    for number, (language, corpus) in enumerate(corpora.items()):
        held_out = spoken(corpus, draw_rows([row for row in corpus if row.split == "test"], config.most_test_clips))
        training = [row.id for row in corpus if row.split == "train"]
        labels = expanded.config.targets.labels_per_frame
        units = aligned_units(expanded.units, corpus.utterances, clock, labels)
        for system, method in own.items():
            found.append(
                measure_masked_loss(
                    system,
                    method,
                    held_out,
                    units,
                    clock,
                    collate,
                    measure="masked_loss_own_units",
                    language=language,
                    seed=seed,
                )
            )
        found.append(chance_masked_loss(found[-1], units, training, expanded.codebook.info.num_units))
        if base_method is not None:
            found += _base_units_rows(base, base_method, expanded, corpus, held_out, training, language, seed, cache)
        told(number + 1, len(corpora), {})
    return found


def _base_units_rows(
    base: Base,
    method: MaskedPrediction,
    expanded: Expanded,
    corpus: Corpus,
    held_out: Spoken,
    training: list[str],
    language: str,
    seed: int,
    cache: FrameCache | None,
) -> list[Measurement]:
    """The base's own units and head, around its encoder and around the adapted one."""
    assert base.codebook is not None
    clock = base.encoder.clock
    of_voice = base.codebook.info.normalization == "voice"
    encoded = encode_units(
        waveforms(corpus, corpus.utterances),
        base.codebook,
        encoder=base.encoder,
        speakers={row.id: row.speaker for row in corpus} if of_voice else None,
        cache=cache,
    )
    units = aligned_units(encoded, corpus.utterances, clock, method.config.labels_per_frame)
    grafted = MaskedPrediction(expanded.expansion.encoder, method.config)
    grafted.final_proj, grafted.label_embeddings = method.final_proj, method.label_embeddings
    pairs: list[tuple[System, MaskedPrediction]] = [("before", method), ("after", grafted)]
    found = [
        measure_masked_loss(
            system,
            one,
            held_out,
            units,
            clock,
            expanded.config.data.collate,
            measure="masked_loss_base_units",
            language=language,
            seed=seed,
        )
        for system, one in pairs
    ]
    return [*found, chance_masked_loss(found[0], units, training, base.codebook.info.num_units)]


def text_rows(
    systems: dict[System, FrameSource],
    corpora: dict[str, Corpus],
    config: LedgerConfig,
    seed: int,
    report: Report = silent,
) -> list[Measurement]:
    """Character error of linear probes on each language that has texts."""
    found: list[Measurement] = []
    told, total = report("Linear probes"), max(1, len(corpora) * len(systems))
    for number, (language, corpus) in enumerate(corpora.items()):
        train, test = (spoken(corpus, rows) for rows in labelled_rows(corpus, config))
        if len(train) < config.min_labelled_clips or len(test) < MIN_READ_CLIPS:
            continue
        for index, (system, source) in enumerate(systems.items()):
            found += measure_text(
                system,
                source,
                train,
                test,
                language=language,
                seed=seed,
                few=config.few,
                steps=config.probe_steps,
                repeats=config.probe_repeats,
            )
            told(number * len(systems) + index + 1, total, {})
        found += [chance_text(one, train, test) for one in found if one.system == "before" and one.language == language]
    return found


def labelled_rows(corpus: Corpus, config: LedgerConfig) -> tuple[list[Utterance], list[Utterance]]:
    """Transcribed training and held-out utterances that a text probe uses."""
    with_text = [row for row in main_voices(corpus) if row.text]
    sizes = {"train": config.most_train_clips, "test": config.most_test_clips}
    train, test = (draw_rows([row for row in with_text if row.split == split], most) for split, most in sizes.items())
    return train, test


def probed_languages(corpora: dict[str, Corpus], config: LedgerConfig) -> dict[str, Corpus]:
    """The languages that get a text probe: those that can have one, at most ``most_probed``, best labelled ones."""
    labelled: dict[str, int] = {}
    for language, corpus in corpora.items():
        train, test = labelled_rows(corpus, config)
        if len(train) >= config.min_labelled_clips and len(test) >= MIN_READ_CLIPS:
            labelled[language] = len(labelled_rows(corpus, replace(config, most_train_clips=len(corpus)))[0])
    chosen = sorted(labelled, key=lambda language: (-labelled[language], language))[: config.most_probed]
    return {language: corpora[language] for language in labelled if language in chosen}


def language_rows(
    systems: dict[System, FrameSource],
    corpora: dict[str, Corpus],
    config: LedgerConfig,
    seed: int,
    report: Report = silent,
) -> list[Measurement]:
    """Which of these languages is spoken, on held-out content of the main voices, from a middle layer.

    Chance is a guess among the languages that were trained, which are all that can be answered.
    """
    sides = [
        {language: spoken(corpora[language], rows) for language, rows in side.items()}
        for side in named_rows(corpora, config)
    ]
    if len(sides[1]) < 2:
        return []
    found: list[Measurement] = []
    told = report("Language identification")
    for index, (system, source) in enumerate(systems.items()):
        layer = source.layers // 2
        found += measure_languages(system, source, layer, sides[0], sides[1], seed=seed)
        told(index + 1, len(systems), {})
    return found + [
        replace(one, system="chance", numerators=one.denominators / len(sides[0]))
        for one in found
        if one.system == "before"
    ]


def named_rows(corpora: dict[str, Corpus], config: LedgerConfig) -> list[dict[str, list[Utterance]]]:
    """Training and held-out utterances that language identification uses.

    A language without training utterances is in neither: it could not be the answer. One may be without held-out ones.
    """
    sides: list[dict[str, list[Utterance]]] = []
    for split, most in (("train", config.most_test_clips), ("test", config.most_test_clips // 2)):
        rows = {
            language: draw_rows([row for row in main_voices(corpus) if row.split == split], most)
            for language, corpus in corpora.items()
            if not sides or language in sides[0]
        }
        sides.append({language: members for language, members in rows.items() if members})
    return sides
