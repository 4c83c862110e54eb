"""What is known of a recording, as sentences in many languages: label or metadata to captions by templates.

The table (``captions.tsv``) holds the templates and what classes are called in them; a class that a language has no
name for gets no caption in that language, never a foreign word. CLARA (arXiv:2310.11830) has one English template for
each corpus; an ensemble of templates is Radford et al. 2021, arXiv:2103.00020, section 3.1.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Literal, TypeVar, get_args

import numpy as np

from allophone.errors import DataError, suggest
from allophone.seeding import derive
from allophone.text.languages import parse_language

T = TypeVar("T")
Kind = Literal["content", "emotion", "keyword", "language", "sound", "speaker"]
KINDS: tuple[Kind, ...] = get_args(Kind)
QUOTED = ("content", "keyword")
"""Kinds whose words are spoken in the recording; they can stand without a template, in any language."""
ALIASES = {
    "emotion": {
        "anger": "angry",
        "disgust": "disgusted",
        "fear": "fearful",
        "happiness": "happy",
        "joy": "happy",
        "sadness": "sad",
        "surprise": "surprised",
    },
    "speaker": {"f": "female", "woman": "female", "m": "male", "man": "male", "elderly": "old"},
}
"""Other spellings of classes."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is true of a recording, whatever the language that it is told in."""

    kind: Kind
    value: str
    """The class (``happy``, ``female``, ``dog``), the word, the language's code, or what is said, in one language."""
    wordings: tuple[tuple[str, str], ...] = ()
    """Language and what the value is called in it; these come before the table's names."""

    @property
    def number(self) -> int:
        """Equal for equal kind and value, in every run and process: 0 to 2**63 - 1."""
        return derive(0, "fact", self.kind, self.value)


@dataclass(frozen=True, slots=True)
class Caption:
    """A fact told in a language."""

    text: str
    language: str
    fact: Fact


@dataclass(frozen=True, slots=True)
class _Row:
    templates: tuple[str, ...]
    names: dict[str, str]
    as_it_is: bool
    """Whether a value without a name stands for itself."""


def class_fact(kind: Kind, value: str) -> Fact:
    """A fact of a class: an emotion, a trait of the speaker, a sound or a keyword.

    Args:
        kind: Which.
        value: The class as a corpus labels it; other spellings of emotions and traits are read too.

    Raises:
        DataError: No caption exists for it, in any language.

    Example:
        >>> class_fact("emotion", "Anger").value
        'angry'
    """
    cleaned = " ".join(value.replace("_", " ").split())
    if kind != "keyword":
        cleaned = ALIASES.get(kind, {}).get(cleaned.lower(), cleaned.lower())
    fact = Fact(kind, cleaned)
    if not cleaned or not caption_languages(fact):
        known = {name for (_, of), row in _table().items() if of == kind for name in row.names}
        raise DataError(f"No caption for {kind} {value!r}. {suggest(cleaned, known)} Or add a name to captions.tsv.")
    return fact


def language_fact(tag: str) -> Fact:
    """The fact that a language is spoken; told in that language itself, and in English.

    Raises:
        DataError: The language is unknown.
    """
    spoken = parse_language(tag)
    return Fact("language", spoken.code, (("eng_Latn", spoken.name),))


def caption_texts(fact: Fact, language: str) -> tuple[str, ...]:
    """Every way to tell a fact in a language; none where the table cannot.

    Args:
        fact: What to tell.
        language: As in ``Utterance.language``: ``fra_Latn``.

    Example:
        >>> caption_texts(Fact("emotion", "happy"), "fra_Latn")[0]
        'une voix joyeuse'
    """
    wordings = dict(fact.wordings)
    row = _table().get((language, fact.kind))
    if row is None:
        row = _Row(("{}",), {}, as_it_is=False)
        if fact.kind not in QUOTED:
            return ()
    name = wordings.get(language) or row.names.get(fact.value) or (fact.value if row.as_it_is else "")
    return tuple(template.replace("{}", name) for template in row.templates) if name else ()


def caption_languages(fact: Fact) -> tuple[str, ...]:
    """Languages that a fact can be told in, sorted."""
    worded = {name for name, _ in fact.wordings if fact.kind in QUOTED or (name, fact.kind) in _table()}
    return tuple(sorted(worded | _naming(fact.kind, fact.value)))


def draw_caption(
    facts: Sequence[Fact],
    generator: np.random.Generator,
    languages: Sequence[str] | None = None,
    *,
    paraphrase: bool = True,
) -> Caption | None:
    """One caption: a kind of fact, a language, a fact and a template, each with equal chances among those possible.

    Args:
        facts: Of one recording.
        generator: Keyed by what the caption is for; see :func:`~allophone.seeding.numpy_generator`.
        languages: Those that may be drawn; None = all.
        paraphrase: Draw a template; otherwise the first of the row is taken, which for what is said is the text alone.

    Returns:
        None where no fact can be told in any of the languages.
    """
    ways: dict[Kind, dict[str, list[Fact]]] = {}
    for fact in facts:
        for language in caption_languages(fact):
            if languages is None or language in languages:
                ways.setdefault(fact.kind, {}).setdefault(language, []).append(fact)
    if not ways:
        return None
    kind = _one_of(sorted(ways), generator)
    language = _one_of(sorted(ways[kind]), generator)
    fact = _one_of(ways[kind][language], generator)
    texts = caption_texts(fact, language)
    return Caption(_one_of(texts, generator) if paraphrase else texts[0], language, fact)


def _one_of(options: Sequence[T], generator: np.random.Generator) -> T:
    return options[int(generator.integers(len(options)))]


@lru_cache(maxsize=4096)
def _naming(kind: Kind, value: str) -> frozenset[str]:
    """Languages whose row has a name for a value, or takes it as it is."""
    rows = ((language, row) for (language, of), row in _table().items() if of == kind)
    return frozenset(language for language, row in rows if row.as_it_is or value in row.names)


@cache
def _table() -> dict[tuple[str, str], _Row]:
    """(language, kind) to its row."""
    text = resources.files("allophone.text").joinpath("captions.tsv").read_text(encoding="utf-8")
    rows = {}
    for line in [line for line in text.splitlines() if not line.startswith("#")][1:]:
        language, kind, templates, names = line.split("\t")
        pairs = [name for name in names.split(";") if name not in ("", "*")]
        named = dict(pair.split("=", 1) for pair in pairs)
        rows[language, kind] = _Row(tuple(templates.split("|")), named, as_it_is=names.endswith("*"))
    return rows
