"""Parts for tuning: same classes in all, no content in two, given splits kept, and what is left out said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from allophone.data.corpus import Corpus
from allophone.data.labelled import label_parts
from allophone.data.utterance import Utterance
from allophone.errors import DataError


def corpus(speakers: int = 3, prompts: int = 20, languages: tuple[str, ...] = ("fra_Latn",)) -> Corpus:
    rows = [
        Utterance(
            id=f"{language}-{speaker}-{prompt}",
            path="a.wav",
            duration_seconds=1.0,
            sample_rate=16_000,
            language=language,
            speaker=f"{language}-{speaker}",
            group=f"p{prompt}",
            text=f"{language} {prompt}",
            label=f"kind {prompt % 4}",
        )
        for language in languages
        for speaker in range(speakers)
        for prompt in range(prompts)
    ]
    return Corpus(folder=Path("/"), utterances=tuple(rows), name="made")


def contents(part: Corpus) -> set[str | None]:
    return {row.group for row in part}


def test_speakers_are_the_same_and_content_is_not() -> None:
    parts = label_parts(corpus(), "speaker", seed=1)
    assert parts.names == ("fra_Latn-0", "fra_Latn-1", "fra_Latn-2")
    for part in (parts.train, parts.dev, parts.test):
        assert {row.speaker for row in part} == set(parts.names)
    assert not contents(parts.train) & contents(parts.test) and not contents(parts.train) & contents(parts.dev)
    assert parts.classes["fra_Latn-1-7"] == (1,) and set(parts.numbers(parts.test)) == {0, 1, 2}
    assert "none shares group or text" in parts.notes[0]


def test_languages_share_neither_voices_nor_content() -> None:
    made = corpus(6, 8, ("fra_Latn", "spa_Latn"))
    apart = made.with_utterances(tuple(replace(row, group=f"{row.speaker} {row.group}", text=None) for row in made))
    parts = label_parts(apart, "language")
    voices = [{row.speaker for row in part} for part in (parts.train, parts.dev, parts.test)]
    assert parts.names == ("fra_Latn", "spa_Latn") and not voices[0] & voices[2] and not voices[0] & voices[1]
    assert len(parts.notes) == 1
    with pytest.raises(DataError, match="cannot be parted"):
        label_parts(made, "language")  # every voice says every prompt
    shared = label_parts(made, "language", share_speakers=True)
    assert not contents(shared.train) & contents(shared.test)
    assert any("may tell the class" in note for note in shared.notes)


def test_labels_keep_groups_apart() -> None:
    parts = label_parts(corpus(3, 40), "label", share_speakers=True)
    assert parts.names == tuple(f"kind {kind}" for kind in range(4))
    assert not contents(parts.train) & contents(parts.test)


def test_splits_of_the_corpus_are_kept_and_checked() -> None:
    def given(row: Utterance) -> str:
        return "test" if int(row.id.split("-")[-1]) < 5 else "train"

    made = corpus()
    made = made.with_utterances(tuple(replace(row, split=given(row)) for row in made))
    parts = label_parts(made, "speaker")
    assert {row.id for row in parts.test} == {row.id for row in made if row.split == "test"}
    assert len(parts.dev) and not contents(parts.dev) & contents(parts.train)
    leaking = made.with_utterances((replace(made.utterances[0], split="train"), *made.utterances[1:]))
    parts = label_parts(leaking, "speaker")
    assert parts.left_out["content of training"] >= 1 and not contents(parts.train) & contents(parts.test)


def test_what_is_left_out_is_counted() -> None:
    def changed(row: Utterance) -> Utterance:
        prompt = int(row.id.split("-")[-1])
        split = ("test", "dev", "train")[min(prompt // 4, 2)]
        row = replace(row, split=split, group=f"{row.group} {row.speaker}")
        if row.speaker == "fra_Latn-2" and split == "train":
            row = replace(row, speaker=None)
        return replace(row, text="Oui." if prompt in (0, 10) else row.text)

    made = corpus()
    parts = label_parts(made.with_utterances(tuple(map(changed, made))), "speaker")
    assert parts.names == ("fra_Latn-0", "fra_Latn-1")
    expected = {"no speaker": 12, "content of training": 0, "text of another part": 2, "class too small": 8}
    assert parts.left_out == expected
    assert all(row.text != "Oui." for row in parts.train) and any(row.text == "Oui." for row in parts.test)
    with pytest.raises(DataError, match="0 values of speaker have 100 training"):
        label_parts(made, "speaker", min_train=100)
    nobody = made.with_utterances(tuple(replace(row, label=None) for row in made))
    with pytest.raises(DataError, match="no utterance has a label"):
        label_parts(nobody, "label")


def test_official_folds_are_kept_whole() -> None:
    made = corpus(speakers=3, prompts=20)
    rows = [replace(row, split="train", extra={"fold": 1 + int(row.id.split("-")[1])}) for row in made]
    folded = made.with_utterances(tuple(replace(row, group=row.id, text=None) for row in rows))
    first, third = (label_parts(folded, "label", min_train=2, fold=fold) for fold in (None, "3"))
    assert {row.extra["fold"] for row in first.test} == {1} and {row.extra["fold"] for row in third.test} == {3}
    assert len(first.test) == len(third.test) == 20
    assert {row.extra["fold"] for row in third.train} | {row.extra["fold"] for row in third.dev} == {1, 2}
    assert "official fold 3 of 1, 2, 3" in third.notes[0] and "official fold 1 of" in first.notes[0]
    with pytest.raises(DataError, match=r"no fold '7'; found \['1', '2', '3'\]"):
        label_parts(folded, "label", fold="7")
    with pytest.raises(DataError, match="no column fold"):
        label_parts(made, "label", fold="1")
