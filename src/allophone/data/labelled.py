"""A corpus with a class for each utterance, parted so that a probe cannot recognize what it has heard before.

Which things are kept apart depends on the class. Speakers: the same speakers in all parts, no content (group, text)
in two. Languages: neither speakers nor content in two. Other labels: no speaker in two, and no group where a class has
several. Splits that a corpus brings are taken, less what shares content with training; it is counted. Where it brings
official folds (a column ``fold``) and no splits, one of them is tested. Splits and folds that keep speakers apart are
of no use for telling speakers; others are drawn then. A row with several labels (FSD50K's, joined by commas) is of no
one class; it is left out and counted.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from allophone.data.corpus import Corpus
from allophone.data.folds import official_folds, with_fold
from allophone.data.splits import Link, split_corpus
from allophone.data.utterance import Utterance
from allophone.errors import DataError

Label = Literal["speaker", "language", "label"]
"""Column that holds the class."""
PARTS = ("train", "dev", "test")
SHARED_CONTENT, SHARED_TEXT = "content of training", "text of another part"
"""Reasons to leave utterances out."""
_SEVERAL = re.compile(r",\S")
"""Between labels of one clip; names of classes may have a comma and a space."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledParts:
    """Three parts of a corpus with the same classes."""

    train: Corpus
    dev: Corpus
    test: Corpus
    names: tuple[str, ...]
    """Classes by number, sorted."""
    classes: dict[str, tuple[int, ...]]
    """Numbers of the classes of each utterance, by id."""
    left_out: dict[str, int]
    """Utterances that are in no part, by reason."""
    notes: tuple[str, ...]
    """What a reader of scores must know of the parts."""

    def numbers(self, corpus: Corpus) -> list[int]:
        """First class of each utterance of a part."""
        return [self.classes[row.id][0] for row in corpus]


def label_parts(
    corpus: Corpus, label: Label, *, min_train: int = 8, share_speakers: bool = False, fold: int = 1, seed: int = 0
) -> LabelledParts:
    """Part a corpus for tuning and probing.

    Args:
        corpus: With the column; with splits or without.
        label: The column.
        min_train: Classes with fewer training utterances, or without one in dev and test, are left out.
        share_speakers: Where splits are drawn, let speakers be in several parts; for corpora of few voices.
        fold: That is tested, of a corpus with official folds.
        seed: Of splits that are drawn.

    Raises:
        DataError: Nothing can be kept apart, there is no such fold, or fewer than two classes are left.
    """
    rows = [row for row in corpus if getattr(row, label) is not None]
    left_out = {f"no {label}": len(corpus) - len(rows)}
    notes: list[str] = []
    if label == "label" and (several := [row for row in rows if _SEVERAL.search(row.label or "")]):
        left_out["several labels"] = len(several)
        notes.append(f"{len(several)} utterances have several labels, such as '{several[0].label}', and are left out.")
        rows = [row for row in rows if not _SEVERAL.search(row.label or "")]
    if not rows:
        raise DataError(
            f"{corpus.name}: no utterance has a {label}{' alone. ' if notes else '. '}{' '.join(notes)} Import it with "
            "one, or choose another label."
        )
    known = corpus.with_utterances(tuple(rows))
    links = _links(rows, label, share_speakers)
    parted, said = _given(known, label, fold, seed)
    notes += said
    if parted is None:
        parted = _drawn(known, label, links, seed)
        notes += _drawn_notes(rows, links)
    # Once before content is compared, so that voices which are only in test take nothing away from the others.
    parted, _, too_small = _common_classes(parted, label, min_train, left_out)
    parted, left_out[SHARED_CONTENT] = _without_shared_groups(parted, links)
    parted, left_out[SHARED_TEXT] = _without_shared_texts(parted, label)
    parted, names, now_too_small = _common_classes(parted, label, min_train, left_out)
    left_out["class too small"] = too_small + now_too_small
    notes += _shared_speakers(parted, label)
    classes: dict[str, tuple[int, ...]] = {row.id: (names.index(getattr(row, label)),) for row in parted}
    train, dev, test = (parted.where(split=part) for part in PARTS)
    return LabelledParts(
        train=train, dev=dev, test=test, names=names, classes=classes, left_out=left_out, notes=tuple(notes)
    )


def _given(corpus: Corpus, label: Label, fold: int, seed: int) -> tuple[Corpus | None, list[str]]:
    """Parts that are the corpus' own splits or folds, and what to say of them; None where splits are to be drawn."""
    if {"train", "test"} <= {row.split for row in corpus}:
        parted, note = corpus, "Splits are those of the corpus."
    elif folds := official_folds(corpus):
        parted = with_fold(corpus, fold)
        note = f"Official fold {fold} of {len(folds)} is tested, the next one chooses; a score is that of all."
    else:
        return None, []
    if label == "speaker":
        train, test = ({row.speaker for row in parted if row.split == part} for part in ("train", "test"))
        if not train & test:
            own = "splits" if parted is corpus else "folds"
            return None, [
                f"The corpus' own {own} keep speakers apart, so none of training could be tested: they are not used."
            ]
    return _with_dev(parted, label, seed), [note]


def _links(rows: Sequence[Utterance], label: Label, share_speakers: bool) -> tuple[Link, ...]:
    speakers: tuple[Link, ...] = () if share_speakers else ("speaker",)
    if label == "speaker":
        return ("group", "text")
    if label == "language":
        return (*speakers, "group", "text")
    groups: dict[str, set[str | None]] = defaultdict(set)
    for row in rows:
        groups[row.label or ""].add(row.group)
    several = min(len(members) for members in groups.values()) >= len(PARTS)
    links: tuple[Link, ...] = (*speakers, "group") if several else speakers
    if not links:
        raise DataError(
            "Nothing would be kept apart: there is one group a class, and speakers are shared. Give splits."
        )
    return links


def _drawn(corpus: Corpus, label: Label, links: tuple[Link, ...], seed: int, *, test: float = 0.2) -> Corpus:
    """Splits whose shares hold for every class; where one cannot be in all parts, for every language."""
    try:
        named = tuple(replace(row, language=str(getattr(row, label))) for row in corpus)
        drawn = split_corpus(corpus.with_utterances(named), dev=0.15, test=test, by=links, seed=seed)
    except DataError:
        return split_corpus(corpus, dev=0.15, test=test, by=links, seed=seed)
    splits = {row.id: row.split for row in drawn}
    return corpus.with_utterances(tuple(replace(row, split=splits[row.id]) for row in corpus))


def _drawn_notes(rows: Sequence[Utterance], links: tuple[Link, ...]) -> list[str]:
    """What drawn splits keep apart, and of how many utterances it is not known."""
    unknown = {link: sum(getattr(row, link) is None for row in rows) for link in links}
    kept_apart: list[str] = [link for link in links if unknown[link] < len(rows)]
    notes = [f"Splits were drawn so that none shares {' or '.join(kept_apart or ['recording'])} with another."]
    if unknown.get("speaker"):
        notes.append(
            f"No speaker is known of {unknown['speaker']} of {len(rows)} utterances: a voice may be in several parts."
        )
    return notes


def _with_dev(corpus: Corpus, label: Label, seed: int) -> Corpus:
    """The corpus' own splits; where it has no dev, some content of its training part, of every class."""
    if any(row.split == "dev" for row in corpus):
        return corpus
    training = corpus.where(split="train")
    links: tuple[Link, ...] = ("group",) if any(row.group for row in training) else ("text",)
    drawn = {row.id: row.split for row in _drawn(training, label, links, seed, test=0.0)}
    return corpus.with_utterances(tuple(replace(row, split=drawn.get(row.id, row.split)) for row in corpus))


def _without_shared_groups(corpus: Corpus, links: tuple[Link, ...]) -> tuple[Corpus, int]:
    """Without test utterances whose group is in train, and dev ones whose group is in train or test.

    A corpus' own splits may keep a second voice for test that says what the first says in training.
    """
    if "group" not in links:
        return corpus, 0
    groups = {part: {row.group for row in corpus if row.split == part and row.group} for part in PARTS}
    forbidden = {"test": groups["train"], "dev": groups["train"] | groups["test"]}
    kept = tuple(row for row in corpus if row.group not in forbidden.get(row.split or "", set()))
    return corpus.with_utterances(kept), len(corpus) - len(kept)


def _without_shared_texts(corpus: Corpus, label: Label) -> tuple[Corpus, int]:
    """Without training utterances whose text is in dev or test, and dev ones whose text is in test.

    Labels other than speaker and language may be what is said, or be acted on the same few sentences.
    """
    if label == "label":
        return corpus, 0
    texts: dict[str, set[str]] = {part: set() for part in PARTS}
    for row in corpus:
        if row.text and row.split in texts:
            texts[row.split].add(row.text.casefold().strip(" .!?"))
    forbidden = {"train": texts["dev"] | texts["test"], "dev": texts["test"]}
    kept = tuple(
        row
        for row in corpus
        if not (row.text and row.text.casefold().strip(" .!?") in forbidden.get(row.split or "", set()))
    )
    return corpus.with_utterances(kept), len(corpus) - len(kept)


def _common_classes(
    corpus: Corpus, label: Label, min_train: int, left_out: Mapping[str, int]
) -> tuple[Corpus, tuple[str, ...], int]:
    """Without classes that are not in all parts, or too small; the classes, and how many utterances that were.

    Raises:
        DataError: Fewer than two are left; ``left_out`` is what other reasons have taken before.
    """
    counts = {part: Counter(getattr(row, label) for row in corpus if row.split == part) for part in PARTS}
    names = tuple(
        sorted(
            name
            for name, many in counts["train"].items()
            if many >= min_train and counts["dev"][name] and counts["test"][name]
        )
    )
    if len(names) < 2:
        before = ", ".join(f"{count} ({reason})" for reason, count in left_out.items() if count)
        advice = ["Lower min_train"] + ["let parts share speakers (share_speakers)"] * (label != "speaker")
        if left_out.get(SHARED_CONTENT) or left_out.get(SHARED_TEXT):
            advice.append("remove the columns split and fold, so that parts are drawn that do not say the same")
        raise DataError(
            f"{corpus.name}: {len(names)} values of {label} have {min_train} training utterances and some in dev and "
            f"test; tuning tells at least two apart. Utterances left out before: {before or 'none'}. "
            f"{', or '.join(advice)}."
        )
    kept = tuple(row for row in corpus if getattr(row, label) in names and row.split in PARTS)
    return corpus.with_utterances(kept), names, len(corpus) - len(kept)


def _shared_speakers(corpus: Corpus, label: Label) -> list[str]:
    """A note where a voice of the test part was heard in training, which then may be what is recognized."""
    if label == "speaker":
        return []
    heard = {row.speaker for row in corpus if row.split == "train" and row.speaker}
    test = [row for row in corpus if row.split == "test"]
    shared = sum(row.speaker in heard for row in test)
    if not shared:
        return []
    return [f"{shared} of {len(test)} test utterances are of speakers heard in training: a voice may tell the class."]
