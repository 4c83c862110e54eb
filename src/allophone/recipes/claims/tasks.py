"""Five things that an encoder can be tuned to tell apart, made of the starter corpus and a corpus of sounds.

Parts are as far apart as the recordings allow; ``apart`` says for each task what test never shared with training.
Digits said by many voices (``-name``) are dev where a voice is needed that neither training nor test has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from allophone.data.corpus import Corpus
from allophone.data.labelled import Label, LabelledParts, label_parts
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError
from allophone.seeding import derive

SECOND_VOICES = (
    "menardi-ita-1",
    "armelle-fra-1",
    "avatar-spa-1",
    "festvox-rus-nsh",
    "tuxpaint-eng-1",
    "tuxpaint-eng-gb",
)
"""Voices that the starter encoder never heard, or hardly; each language has another that it did."""
LANGUAGES = ("eng", "fra", "ita", "rus", "spa", "cat", "ell")
"""Those with three voices: one for each part."""
Splitter = Callable[[Utterance], str | None]
"""The part of an utterance; None leaves it out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One thing to tell apart."""

    name: str
    label: Label
    apart: str
    """What test does not share with training, in plain words."""
    made: Callable[[Corpus], Corpus]
    """From the starter corpus, or that of sounds, to one with splits and labels."""
    min_train: int = 2
    """Training utterances that a class needs."""
    of_sounds: bool = False
    """Whether it is made of the corpus of sounds."""


def _speaker(corpus: Corpus) -> Corpus:
    return corpus


def _keyword(corpus: Corpus) -> Corpus:
    """Prompts of a telephone exchange: what is said is the class, whoever says it."""
    parts = {"menardi-ita-1": "dev", "armelle-fra-1": "test", "avatar-spa-1": "test"}
    return _labelled(corpus, "asterisk/", lambda row: parts.get(row.speaker or "", "train"))


def _word(corpus: Corpus) -> Corpus:
    """Names of things in nine languages; the thing is the class, two languages are heard in test alone."""
    parts = {"cat_Latn": "test", "bel_Cyrl": "test", "ron_Latn": "dev"}
    named = _labelled(corpus, "tuxpaint/", lambda row: parts.get(row.language, "train"))
    many = Counter(row.label for row in named)
    return named.with_utterances(tuple(row for row in named if many[row.label] >= 9))


def _language(corpus: Corpus) -> Corpus:
    """Languages of three voices; content of dev and test is taken out of training."""

    def split(row: Utterance) -> str | None:
        speaker = row.speaker or ""
        if row.language[:3] not in LANGUAGES:
            return None
        if speaker.endswith("-name"):
            return "dev"
        return "test" if speaker in SECOND_VOICES or speaker.startswith("ktuberling") else "train"

    parted = [(row, split(row)) for row in corpus]
    digits = {row.group for row, part in parted if part == "dev"}
    heard = {row.group for row, part in parted if part == "train" and row.split == "train"} - digits
    kept = [
        replace(row, split=part)
        for row, part in parted
        if part == "dev"
        or (part == "train" and row.group in heard)
        or (part == "test" and row.group not in heard | digits)
    ]
    return corpus.with_utterances(tuple(kept))


def _sound(corpus: Corpus) -> Corpus:
    """Sounds by their labels; where they have makers (speakers), other makers in each part."""
    return corpus.with_utterances(tuple(replace(row, split=None) for row in corpus if row.label))


def _labelled(corpus: Corpus, prefix: str, split: Splitter) -> Corpus:
    """What is said of some groups, as label."""
    rows = (row for row in corpus if row.group and row.group.startswith(prefix))
    return corpus.with_utterances(tuple(replace(row, label=row.group, split=split(row)) for row in rows))


TASKS = (
    Task(name="speaker", label="speaker", apart="what is said", made=_speaker, min_train=8),
    Task(name="keyword", label="label", apart="the voice", made=_keyword),
    Task(name="language", label="language", apart="voice and content", made=_language, min_train=8),
    Task(name="sound", label="label", apart="the maker of the sounds", made=_sound, of_sounds=True),
    Task(name="word across languages", label="label", apart="voice and language", made=_word),
)


def task_parts(task: Task, corpus: Corpus, sounds: Corpus | None, classes: int | None) -> LabelledParts:
    """Train, dev and test of a task.

    Args:
        task: What is told apart.
        corpus: The starter corpus, or one like it.
        sounds: Sounds with labels.
        classes: Most classes, drawn the same every time; None = all.

    Raises:
        ConfigError: It is made of sounds, and there are none.
        DataError: The corpus has too few classes for it.
    """
    if task.of_sounds and sounds is None:
        raise ConfigError(
            f"The task '{task.name}' needs sounds: name a corpus of them, with labels (allophone corpus import "
            "--sounds), by --sounds."
        )
    made = task.made(sounds if task.of_sounds and sounds is not None else corpus)
    parts = label_parts(made, task.label, min_train=task.min_train, seed=0)
    if classes is None or classes >= len(parts.names):
        return parts
    chosen = set(sorted(parts.names, key=lambda name: derive(0, "class", task.name, name))[:classes])
    whole = [row for part in (parts.train, parts.dev, parts.test) for row in part if getattr(row, task.label) in chosen]
    return label_parts(made.with_utterances(tuple(whole)), task.label, min_train=1, seed=0)
