"""Captions for the utterances of a corpus: what is known of each as facts, and one caption for each draw of it.

What an utterance says is known in every wording that the utterances of its group have, their own texts and their
translations, each wording in its language a fact by itself. So a text is true of the whole group that it was drawn for,
and of whoever else says the same in the same words, but two groups that share a word of many meanings stay apart. What
is drawn depends on (seed, epoch, utterance id, repeat) alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from allophone.batch import Captions
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError
from allophone.seeding import numpy_generator
from allophone.text.captions import (
    KINDS,
    Caption,
    Fact,
    Kind,
    caption_languages,
    class_fact,
    draw_caption,
    language_fact,
)

TRAITS = ("gender", "age")
"""Extra columns of a corpus that hold traits of the speaker, as classes of ``captions.tsv``."""

PUNCTUATION = " .,;:!?…¡¿«»“”„\"'()。、，！？"


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionConfig:
    """What captions tell."""

    kinds: tuple[Kind, ...] = ("content",)
    """Kinds of facts that captions are drawn from, each with equal chances where an utterance has several."""
    label_kind: Kind | None = None
    """What the column ``label`` holds (emotion, sound, keyword or speaker); None = it is not used."""
    languages: tuple[str, ...] | None = None
    """Languages of captions (``fra_Latn``); None = every one that a fact can be told in."""
    own_language: float = 0.0
    """Share of captions in the language that is spoken, where it can tell something; the others are in any."""

    paraphrase: bool = True
    """Whether a fact is told by any template of its row; False = always by the first, what is said as it stands."""

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ConfigError(f"Captions need at least one kind of {list(KINDS)}; got {list(self.kinds)}.")
        if self.label_kind in ("content", "language"):
            raise ConfigError(f"label_kind '{self.label_kind}' is a column of its own; it never stands in `label`.")
        if not 0.0 <= self.own_language <= 1.0:
            raise ConfigError(f"own_language is a share, from 0 to 1; got {self.own_language}.")


class Captioner:
    """Draws captions for utterances of one corpus.

    Args:
        utterances: All that captions will be asked for.
        config: What they tell.

    Raises:
        DataError: Nothing that captions may tell is known of an utterance, or a label is not in the table.
    """

    def __init__(self, utterances: Sequence[Utterance], config: CaptionConfig) -> None:
        self._languages = config.languages
        self._own_language = config.own_language
        self._paraphrase = config.paraphrase
        self._facts = known_facts(utterances, config)
        self._numbers: dict[str, list[int]] = {}
        mute = [row.id for row in utterances if not any(self._can_tell(fact) for fact in self._facts[row.id])]
        if mute:
            raise DataError(
                f"{len(mute)} of {len(utterances)} utterances have nothing that a caption could tell, the first is "
                f"{mute[0]!r} (kinds {list(config.kinds)}, languages {config.languages or 'all'}). Leave them out, or "
                f"allow more kinds or languages."
            )

    def draw(self, utterances: Sequence[Utterance], repeats: Sequence[int], seed: int, epoch: int) -> Captions:
        """One caption for each utterance of a batch.

        Args:
            utterances: The batch.
            repeats: How often the epoch drew each before.
            seed: Of the run.
            epoch: Number of the epoch.

        Returns:
            Texts with the numbers of the facts that they state, and of all facts known of each utterance.
        """
        drawn = [self._draw(row, seed, epoch, repeat) for row, repeat in zip(utterances, repeats, strict=True)]
        captions = [caption for caption in drawn if caption is not None]
        facts = [self._known(row.id) for row in utterances]
        width = max(map(len, facts))
        return Captions(
            texts=tuple(caption.text for caption in captions),
            stated=torch.tensor([caption.fact.number for caption in captions]),
            known=torch.tensor([row + [-1] * (width - len(row)) for row in facts]),
        ).validate()

    def _can_tell(self, fact: Fact) -> bool:
        return can_tell(fact, self._languages)

    def _known(self, utterance_id: str) -> list[int]:
        if utterance_id not in self._numbers:
            self._numbers[utterance_id] = [fact.number for fact in self._facts[utterance_id]]
        return self._numbers[utterance_id]

    def _draw(self, utterance: Utterance, seed: int, epoch: int, repeat: int) -> Caption | None:
        generator = numpy_generator(seed, "caption", epoch, utterance.id, repeat)
        facts, languages = self._facts[utterance.id], self._languages
        if self._own_language and (languages is None or utterance.language in languages):
            if generator.random() < self._own_language:
                found = draw_caption(facts, generator, (utterance.language,), paraphrase=self._paraphrase)
                if found is not None:
                    return found
        return draw_caption(facts, generator, languages, paraphrase=self._paraphrase)


def known_facts(utterances: Sequence[Utterance], config: CaptionConfig) -> dict[str, tuple[Fact, ...]]:
    """Utterance id to everything that captions may tell of it; nothing for some."""
    contents = content_facts(utterances, config.languages) if "content" in config.kinds else {}
    return {row.id: (*contents.get(row.id, ()), *trait_facts(row, config)) for row in utterances}


def tellable(utterances: Sequence[Utterance], config: CaptionConfig) -> tuple[Utterance, ...]:
    """The utterances of which a caption can tell something."""
    facts = known_facts(utterances, config)
    return tuple(row for row in utterances if any(can_tell(fact, config.languages) for fact in facts[row.id]))


def can_tell(fact: Fact, languages: Sequence[str] | None) -> bool:
    """Whether a fact can be told in one of some languages (None = all)."""
    return any(languages is None or language in languages for language in caption_languages(fact))


def trait_facts(utterance: Utterance, config: CaptionConfig) -> tuple[Fact, ...]:
    """What is known of an utterance beside its words, of the kinds that captions may tell.

    Raises:
        DataError: A label or trait is not in the table of captions.
    """
    found = []
    if "language" in config.kinds and utterance.language[:3] not in ("und", "zxx"):
        found.append(language_fact(utterance.language))
    if config.label_kind is not None and config.label_kind in config.kinds and utterance.label:
        found.append(_class_fact(config.label_kind, utterance.label, utterance))
    for trait in TRAITS if "speaker" in config.kinds else ():
        if utterance.extra.get(trait):
            found.append(_class_fact("speaker", str(utterance.extra[trait]), utterance))
    return tuple(found)


def content_facts(
    utterances: Iterable[Utterance], languages: Sequence[str] | None = None
) -> dict[str, tuple[Fact, ...]]:
    """Utterance id to what it says: every wording that its group has, in some languages (None = all).

    Wordings are the same in one language where they differ in case, space or outer punctuation only.
    """
    wordings: dict[str, set[tuple[str, str]]] = {}
    rows = list(utterances)
    for row in rows:
        wordings.setdefault(_group(row), set()).update(_wordings(row).items())
    shared = {}
    for group, pairs in wordings.items():
        told = sorted(pair for pair in pairs if languages is None or pair[0] in languages)
        facts = {f"{language}/{_folded(text)}": ((language, text),) for language, text in told}
        shared[group] = tuple(Fact("content", value, wording) for value, wording in facts.items())
    return {row.id: shared[_group(row)] for row in rows}


def _group(utterance: Utterance) -> str:
    return f"group {utterance.group}" if utterance.group else f"id {utterance.id}"


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).strip(PUNCTUATION)


def _class_fact(kind: Kind, value: str, utterance: Utterance) -> Fact:
    try:
        return class_fact(kind, value)
    except DataError as error:
        raise DataError(f"Utterance {utterance.id!r}: {error}") from error


def _wordings(utterance: Utterance) -> dict[str, str]:
    own = {utterance.language: utterance.text} if utterance.text else {}
    return {**utterance.translations, **own}
