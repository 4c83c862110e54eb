"""Texts that are nearly right: another number, another name, the opposite. Hard negatives for meaning.

Source of the idea: xsim++, Chen et al. 2023, arXiv:2306.12907 (numbers, entities, causality). Ours is small and without
models: digits of any script are changed; words that a corpus writes with a capital inside sentences are exchanged for
others of its language; words that negate are left out, in English also put in. A language that is not in the table of
negations, a script without case and a text without digits give fewer negatives, or none.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from allophone.errors import DataError
from allophone.seeding import numpy_generator

NEGATIONS: dict[str, frozenset[str]] = {
    "bul": frozenset(("не",)),
    "cat": frozenset(("no",)),
    "dan": frozenset(("ikke",)),
    "deu": frozenset(("nicht",)),
    "eng": frozenset(("not", "never")),
    "est": frozenset(("ei",)),
    "fra": frozenset(("ne", "pas")),
    "hin": frozenset(("नहीं",)),
    "hun": frozenset(("nem",)),
    "ind": frozenset(("tidak", "bukan")),
    "ita": frozenset(("non",)),
    "nld": frozenset(("niet",)),
    "nob": frozenset(("ikke",)),
    "pol": frozenset(("nie",)),
    "por": frozenset(("não",)),
    "ron": frozenset(("nu",)),
    "rus": frozenset(("не",)),
    "spa": frozenset(("no",)),
    "swe": frozenset(("inte",)),
    "tur": frozenset(("değil",)),
    "ukr": frozenset(("не",)),
    "vie": frozenset(("không",)),
}
"""Words of ISO 639-3 languages without which a sentence says the opposite."""
NEGATED_BEHIND = {
    "eng": frozenset("is are was were can could will would should must has have had does do did may might".split())
}
"""Words behind which a negation makes the opposite."""
_WORD = re.compile(r"[^\s\d_.,;:!?…¡¿«»“”„\"()\[\]。、，！？।—–-]+")
"""What stands between spaces, digits and punctuation; vowel signs are no letters for ``re``, so not by what it is."""
_NUMBER = re.compile(r"\d+")


def hard_negatives(
    texts: Sequence[str], languages: Sequence[str], *, most: int = 3, seed: int = 0
) -> dict[str, tuple[str, ...]]:
    """For each text those that are nearly right, none where nothing can be changed.

    What is made of a text depends on the seed, the text and the names of its language, not on the order of texts.

    Args:
        texts: Of a corpus.
        languages: The language of each, ``fra_Latn``.
        most: Most negatives of one text.
        seed: Of the choice of numbers and names.

    Raises:
        DataError: There are not as many languages as texts.

    Example:
        >>> hard_negatives(["It is late."], ["eng_Latn"])
        {'It is late.': ('It is not late.',)}
    """
    if len(texts) != len(languages):
        raise DataError(f"hard negatives: {len(texts)} texts in {len(languages)} languages; expected one each.")
    names = _names(texts, languages)
    found: dict[str, tuple[str, ...]] = {}
    for text, language in zip(texts, languages, strict=True):
        generator = numpy_generator(seed, "perturb", language, text)
        changed = (
            _other_number(text, generator),
            _opposite(text, language.split("_")[0]),
            _other_name(text, names[language], generator),
        )
        wrong = tuple(dict.fromkeys(one for one in changed if one is not None and one != text))[:most]
        if wrong:
            found[text] = wrong
    return found


def _other_number(text: str, generator: np.random.Generator) -> str | None:
    """One number with other digits, as many, in its own script."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    chosen = numbers[int(generator.integers(len(numbers)))]
    old = [unicodedata.decimal(digit) for digit in chosen[0]]
    new = [int(digit) for digit in generator.integers(10, size=len(old))]
    new[0] = (old[0] + int(generator.integers(1, 9 if len(old) > 1 else 10))) % 10  # the first is always another
    if len(old) > 1 and new[0] == 0:
        new[0] = 9 if old[0] != 9 else 8
    zeros = [ord(digit) - value for digit, value in zip(chosen[0], old, strict=True)]
    written = "".join(chr(zero + value) for zero, value in zip(zeros, new, strict=True))
    return text[: chosen.start()] + written + text[chosen.end() :]


def _opposite(text: str, code: str) -> str | None:
    """The text without its negation, or with one where the language has a rule for it."""
    negations = NEGATIONS.get(code, frozenset())
    words = list(_WORD.finditer(text))
    there = [word for word in words if word[0].casefold() in negations]
    if there:
        kept = text
        for word in reversed(there):
            kept = kept[: word.start()].rstrip() + kept[word.end() :]
        kept = kept.strip()
        return kept[:1].upper() + kept[1:] if text[:1].isupper() else kept
    places = [word.end() for word in words if word[0].casefold() in NEGATED_BEHIND.get(code, frozenset())]
    return f"{text[: places[0]]} not{text[places[0] :]}" if places else None


def _other_name(text: str, names: Sequence[str], generator: np.random.Generator) -> str | None:
    """One name exchanged for another."""
    known = set(names)
    there = [word for word in _WORD.finditer(text) if word[0] in known]
    if not there or len(known) < 2:
        return None
    chosen = there[int(generator.integers(len(there)))]
    others = [name for name in names if name != chosen[0]]
    return text[: chosen.start()] + others[int(generator.integers(len(others)))] + text[chosen.end() :]


def _names(texts: Sequence[str], languages: Sequence[str]) -> dict[str, list[str]]:
    """For each language, words written with a capital inside sentences and never without one."""
    capital, small = defaultdict(set), defaultdict(set)
    for text, language in zip(texts, languages, strict=True):
        for word in _WORD.finditer(text):
            if word[0][0].islower():
                small[language].add(word[0].casefold())
            elif len(word[0]) > 1 and word[0][0].isupper() and text[: word.start()].rstrip()[-1:].isalnum():
                capital[language].add(word[0])
    return {
        language: sorted(word for word in capital[language] if word.casefold() not in small[language])
        for language in set(languages)
    }
