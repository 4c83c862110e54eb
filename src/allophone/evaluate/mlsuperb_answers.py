"""Answers to the test utterances of ML-SUPERB: their errors under each normalizer, and what is too little to go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allophone.errors import DataError
from allophone.metrics.error_rate import edit_distance
from allophone.metrics.intervals import Interval
from allophone.text.languages import parse_language
from allophone.text.published import Normalizer, normalize_as

PHONE_LANGUAGES = frozenset(("cmn", "jpn"))
"""Languages that the monolingual task writes in phones, scored by phone, not by character."""
FEWEST = 20
"""Test utterances of a language below which its score is told with a warning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a model made of one test utterance."""

    id: str
    language: str
    """Spoken, as the benchmark has it: ISO 639-3."""
    reference: str = ""
    """Said, without a language token; phones separated by spaces in the monolingual cmn and jpn."""
    hypothesis: str = ""
    """Read, without a language token."""
    guess: str | None = None
    """Language named by the model; None = it named none, which is wrong."""
    dataset: str = ""
    """Source corpus; version 1 trains one monolingual probe a language and source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A number with two intervals: that of other utterances, and that of other languages."""

    name: str
    utterances: Interval
    """Utterances drawn again within their sets (in the challenge's measures: within languages)."""
    languages: Interval
    """Whole languages drawn again: how far the number would move on another choice of languages."""

    @property
    def value(self) -> float:
        """In percent, or points for ``SUPERB_s``."""
        return self.utterances.value


def errors_of(answer: Answer, normalizer: Normalizer, by_phone: bool = False) -> tuple[int, int]:
    """Errors and reference length of one utterance; a space is a character."""
    texts = [normalize_as(normalizer, text, answer.language) for text in (answer.reference, answer.hypothesis)]
    sides = [text.split() for text in texts] if by_phone else texts
    return edit_distance(*sides), len(sides[0])


def thin_languages(answers: Sequence[Answer], what: str = "") -> tuple[str, ...]:
    """A warning that names the languages with fewer than 20 test utterances; none where there are none."""
    ids: dict[str, set[str]] = {}
    for one in answers:
        ids.setdefault(one.language, set()).add(one.id)
    thin = [f"{language} ({len(names)})" for language, names in sorted(ids.items()) if len(names) < FEWEST]
    if not thin:
        return ()
    kind = f" {what}" if what else ""
    return (f"Fewer than {FEWEST} test utterances{kind}, so their scores say little: {', '.join(thin)}.",)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScriptRates:
    """Character error of the languages of one script, under several normalizers."""

    script: str
    languages: tuple[str, ...]
    utterances: int
    rates: Mapping[Normalizer, float]
    """Percent, errors over characters of all its utterances; NaN where no character is left."""


def rates_by_script(
    answers: Sequence[Answer], normalizers: Sequence[Normalizer] = ("none", "ml-superb-2", "allophone")
) -> list[ScriptRates]:
    """What each normalizer makes of the errors in each script, raw (``none``) first.

    A gap between columns is a choice of normalizer and no skill. The script is the usual one of the language; those of
    unknown languages stand under ``Zyyy``, without a rate under ``allophone``.
    """
    scripts: dict[str, list[Answer]] = {}
    for one in answers:
        scripts.setdefault(_script(one.language), []).append(one)
    found = []
    for script, members in sorted(scripts.items()):
        rates: dict[Normalizer, float] = {}
        for normalizer in normalizers:
            rates[normalizer] = float("nan")
            if script != "Zyyy" or normalizer != "allophone":
                errors, lengths = np.array([errors_of(one, normalizer) for one in members]).sum(axis=0)
                rates[normalizer] = 100.0 * float(errors) / float(lengths) if lengths else float("nan")
        languages = tuple(sorted({one.language for one in members}))
        found.append(ScriptRates(script=script, languages=languages, utterances=len(members), rates=rates))
    return found


def _script(language: str) -> str:
    try:
        return parse_language(language).script
    except DataError:
        return "Zyyy"
