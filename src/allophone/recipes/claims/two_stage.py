"""Two-stage against one-stage pretraining under ML-SUPERB's protocol, at two amounts of labelled audio.

Source: WavLabLM, arXiv:2309.15317: the second, balanced stage helps on the benchmark's ten-minute tasks and not on
those of one hour. The corpus has minutes where the benchmark has hours, so that both amounts are scaled by the same
factor: two minutes of each language stand for ten, twelve for an hour (less where a language has less).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from allophone.data.utterance import Utterance
from allophone.evaluate.claim import UNTRAINED, Contrast, Observation, Scale
from allophone.evaluate.mlsuperb_answers import Answer, errors_of
from allophone.evaluate.mlsuperb_probe import SuperbProbeConfig, superb_probe
from allophone.models.build import Encoder
from allophone.recipes.claims.adding import first_minutes
from allophone.recipes.claims.pretraining import HEARD, KEPT_OUT, balanced, small, two_stage
from allophone.recipes.claims.reading import source_of
from allophone.recipes.claims.trial import Claim, Trial
from allophone.recipes.ledger import draw_rows, main_voices
from allophone.recipes.mlsuperb import chance_answers, hidden_states, probe_clips
from allophone.recipes.stages import named_balance
from allophone.text.published import ml_superb_1

AMOUNTS = {"10 min": 2.0, "1 h": 12.0}
"""The benchmark's amounts to ours, minutes of each language."""
FAMILIES = {
    "Romance": ("fra", "spa", "ron", "cat", "ita"),
    "Slavic": ("rus", "bel", "bul"),
    "Germanic": ("eng", "dan"),
    "Hellenic": ("ell",),
}
LANGUAGES = (*HEARD, *KEPT_OUT)
"""All that have texts; the last four were never heard in pretraining."""
CHARACTERS = Scale(
    measure="superb_character_error",
    title="Character error, ML-SUPERB's joint task",
    unit="points",
    factor=100.0,
    higher_is_better=False,
    explanation="One small reader of all languages, on the frozen encoder, names the language and writes down what is "
    "said. Share of letters that are wrong in sentences it never saw.",
)
NAMED = Scale(
    measure="superb_language",
    title="Languages named, ML-SUPERB's joint task",
    unit="points",
    factor=100.0,
    higher_is_better=True,
    explanation="How often the same reader names the right language.",
)


def _score(trial: Trial, encoder: Encoder | None) -> list[Observation]:
    source = source_of(trial, encoder, small(trial.seed, trial.steps)[0], stack=4)
    rows = {amount: labelled_rows(trial, minutes) for amount, minutes in AMOUNTS.items()}
    states = {}
    if source is not None:
        every = {row.id: row for parts in rows.values() for part in parts for row in part}
        states = hidden_states(source, trial.corpus, list(every.values()), trial.report)
    found: list[Observation] = []
    for amount, parts in rows.items():
        if source is None:
            answers: Sequence[Answer] = chance_answers("joint", parts[0], parts[2], trial.seed)
        else:
            config = SuperbProbeConfig.fast("joint", trial.seed)
            config = replace(config, iterations=max(1, trial.effort.probe_steps // config.epochs))
            clips = [probe_clips(part, states) for part in parts]
            answers = superb_probe("joint", *clips, frame_rate=source.frame_rate, config=config).answers
        for language in LANGUAGES:
            found += _observed(
                trial, _condition(language, amount), [one for one in answers if one.language == language]
            )
    return found


def labelled_rows(trial: Trial, minutes: float) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
    """Training utterances of so many minutes a language, dev and test; of main voices that have texts."""
    found: tuple[list[Utterance], list[Utterance], list[Utterance]] = ([], [], [])
    effort = trial.effort
    for language in LANGUAGES:
        voices = main_voices(trial.corpus.where(language=language))
        named = [row for row in voices if ml_superb_1(row.text or "")]
        voices = first_minutes(voices.with_utterances(tuple(named)), minutes, trial.seed)
        sizes = {"train": effort.train_clips, "dev": max(1, effort.test_clips // 6), "test": effort.test_clips}
        for part, (split, most) in zip(found, sizes.items(), strict=True):
            part += draw_rows([row for row in voices if row.split == split], most)
    return found


def _observed(trial: Trial, condition: str, answers: Sequence[Answer]) -> list[Observation]:
    items = tuple(one.id for one in answers)
    errors, lengths = np.array([errors_of(one, "ml-superb-1") for one in answers], dtype=np.float64).T
    hits = np.array([one.guess == one.language for one in answers], dtype=np.float64)
    counts = {CHARACTERS.measure: (errors, lengths), NAMED.measure: (hits, np.ones(len(hits)))}
    return [
        Observation(
            arm=trial.arm,
            measure=measure,
            condition=condition,
            seed=trial.seed,
            items=items,
            numerators=numerators,
            denominators=denominators,
        )
        for measure, (numerators, denominators) in counts.items()
    ]


def _condition(language: str, amount: str) -> str:
    return f"{language}, {amount}"


def _contrasts() -> tuple[Contrast, ...]:
    """The claim's own first: characters at the small amount; then the large one, families, and languages named."""
    groups = {"all languages": LANGUAGES, "heard": HEARD, "never heard": KEPT_OUT, **FAMILIES}
    return tuple(
        Contrast(
            name=f"two stages against one, {amount}, {group}: {what}",
            arm="two stages",
            baseline="one stage",
            measure=scale.measure,
            conditions=tuple(_condition(language, amount) for language in languages),
        )
        for what, scale in (("characters", CHARACTERS), ("languages named", NAMED))
        for group, languages in groups.items()
        for amount in AMOUNTS
        if scale is CHARACTERS or group in ("all languages", "heard", "never heard")
    )


TWO_STAGE: Claim[Encoder] = Claim(
    name="two-stage",
    paper="WavLabLM, arXiv:2309.15317",
    says="A second, balanced stage of pretraining helps on ML-SUPERB where a language has ten minutes of labelled "
    "audio, and not where it has an hour.",
    design="The first iteration of the starter recipe on seven languages of the starter corpus, as they are, and with "
    "a quarter of as many updates on the same hours of each. The probe is ML-SUPERB's (joint task, fast preset) on "
    "eleven languages, four of them never heard in pretraining; two minutes of each stand for the benchmark's ten, "
    "twelve for its hour. Contents of the test are not in training; voices are.",
    steps=700,
    like=small,
    arms={
        "one stage": balanced(lambda trial: named_balance("none")),
        "two stages": balanced(two_stage(1)),
    },
    score=_score,
    untrained=UNTRAINED,
    scales=(CHARACTERS, NAMED),
    contrasts=_contrasts(),
)
