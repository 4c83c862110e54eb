"""Whether audio of a language without texts makes the few texts that there are go further.

Source: Seamless Language Expansion, arXiv:2406.14092, adds languages for their units; what it does for readers with few
labels was left open. Probes are those of the ledger, each trained :data:`REPEATS` times with draws of its own, because
the luck of one probe is as large as what is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from allophone.data.corpus import Corpus
from allophone.evaluate.claim import UNTRAINED, Contrast, Observation, Scale
from allophone.evaluate.forgetting import chance_retrieval, chance_text, measure_text
from allophone.evaluate.measurements import MEASURES, Measurement, System
from allophone.evaluate.protocol import FrameSource
from allophone.evaluate.sources import FilterbankSource
from allophone.models.build import Encoder
from allophone.recipes.claims.adding import adding, like, unchanged
from allophone.recipes.claims.reading import source_of
from allophone.recipes.claims.trial import Claim, Trial
from allophone.recipes.ledger import LedgerConfig, labelled_rows, spoken
from allophone.recipes.voices import choosing_pair, retrieval_rows, spoken_pair, voice_pair

LANGUAGES = {"Bulgarian added": "bul", "Greek added": "ell", "Italian added": "ita"}
"""Arm to the language that it adds; of Danish there are too few clips to tell a point."""
CHOOSING = "spa"
"""Language on whose two voices the layer of the retrieval is chosen."""
REPEATS = 3
"""Trainings of each probe."""
STACK = 4
"""10-ms frames in one of the filter bank."""


def _scale(measure: str) -> Scale:
    of = MEASURES[measure]
    return Scale(
        measure=measure,
        title=of.title,
        unit="points",
        factor=of.scale,
        higher_is_better=of.higher_is_better,
        explanation=of.explanation,
    )


def score(trial: Trial, encoder: Encoder | None) -> list[Observation]:
    """Character errors with all and with 150 clips, and the same prompt in another voice where there are two."""
    languages = [LANGUAGES[trial.arm]] if trial.arm in LANGUAGES else list(LANGUAGES.values())
    source = source_of(trial, encoder, like(trial.seed, trial.steps)[0], STACK)
    system: System = "before" if trial.arm == "before" else "after"
    found = []
    for language in languages:
        corpus = trial.corpus.where(language=language)
        found += [*_reading(trial, corpus, source, system), *_retrieval(trial, corpus, source, system)]
    return [
        Observation(
            arm=trial.arm,
            measure=one.measure,
            condition=one.language.split("_")[0],
            seed=trial.seed,
            items=one.items,
            numerators=one.numerators,
            denominators=one.denominators,
        )
        for one in found
    ]


def _settings(trial: Trial) -> LedgerConfig:
    effort = trial.effort
    return LedgerConfig(
        probe_steps=effort.probe_steps, most_test_clips=effort.test_clips, most_train_clips=effort.train_clips
    )


def _reading(trial: Trial, corpus: Corpus, source: FrameSource | None, system: System) -> Sequence[Measurement]:
    settings = _settings(trial)
    train, test = (spoken(corpus, rows) for rows in labelled_rows(corpus, settings))
    found = measure_text(
        system,
        source or FilterbankSource(STACK),
        train,
        test,
        language=corpus.languages[0],
        seed=trial.seed,
        few=settings.few,
        steps=1 if source is None else settings.probe_steps,
        repeats=1 if trial.arm in UNTRAINED else REPEATS,
    )
    return [chance_text(one, train, test) for one in found] if source is None else found


def _retrieval(trial: Trial, corpus: Corpus, source: FrameSource | None, system: System) -> Sequence[Measurement]:
    settings, other = _settings(trial), trial.corpus.where(language=CHOOSING)
    pair, choosing = voice_pair(corpus, settings, everything=False), voice_pair(other, settings, everything=True)
    if pair is None or choosing is None:
        return []
    voices = spoken_pair(corpus, pair)
    language = corpus.languages[0]
    found = retrieval_rows(
        {system: source or FilterbankSource(STACK)},
        {},
        {language: voices},
        {other.languages[0]: choosing_pair(other, choosing, settings)},
        trial.seed,
    )
    rows = [one for one in found if one.measure == "retrieval_dtw" and one.system == system]
    return [chance_retrieval(one, *voices) for one in rows] if source is None else rows


def _contrasts() -> list[Contrast]:
    measures = {"character_error_150": "150 clips", "character_error_all": "all clips"}
    found = [
        Contrast(name=f"{arm}, {of}", arm=arm, baseline="before", measure=measure, conditions=(language,))
        for measure, of in measures.items()
        for arm, language in LANGUAGES.items()
    ]
    retrieval = Contrast(
        name="Italian added, same prompt in another voice",
        arm="Italian added",
        baseline="before",
        measure="retrieval_dtw",
        conditions=("ita",),
    )
    return [*found, retrieval]


FEW_LABELS: Claim[Encoder] = Claim(
    name="few-labels",
    paper="Seamless Language Expansion, arXiv:2406.14092",
    says="Whether adding a language from audio alone helps a reader with few labeled clips was left open.",
    design="Bulgarian, Greek or Italian is added to the starter encoder by LoRA, as `allophone expand` does it. "
    f"Linear probes, each trained {REPEATS} times, read held-out clips of the voice that was added; Italian prompts of "
    "that voice are looked up in another one.",
    steps=1000,
    like=like,
    arms={"before": unchanged} | {arm: adding(language) for arm, language in LANGUAGES.items()},
    score=score,
    untrained=UNTRAINED,
    scales=tuple(_scale(name) for name in ("character_error_150", "character_error_all", "retrieval_dtw")),
    contrasts=tuple(_contrasts()),
)
