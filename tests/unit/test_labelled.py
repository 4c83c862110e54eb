"""Parts for tuning: same classes in all, no content in two, given splits kept, and what is left out said."""

from __future__ import annotations

from collections.abc import Callable
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


def test_splits_that_keep_speakers_apart_are_not_used_to_tell_speakers() -> None:
    made = corpus(9, 20)
    parted = made.with_utterances(
        tuple(replace(row, split=("train", "dev", "test")[int(row.speaker[-1]) % 3]) for row in made)  # type: ignore[index]
    )
    parts = label_parts(parted, "speaker")
    assert len(parts.names) == 9 and not contents(parts.train) & contents(parts.test)
    assert "keep speakers apart" in parts.notes[0] and "none shares group or text" in parts.notes[1]


def in_folds(made: Corpus, of: Callable[[Utterance], int]) -> Corpus:
    return made.with_utterances(tuple(replace(row, extra={"fold": of(row)}, group=None) for row in made))


def test_folds_of_one_speaker_each_are_not_used_to_tell_speakers() -> None:
    """EmoDB: every speaker is a fold and says the same sentences."""
    parts = label_parts(in_folds(corpus(4), lambda row: int(row.id.split("-")[1])), "speaker")
    assert len(parts.names) == 4 and "own folds keep speakers apart" in parts.notes[0]
    assert not {row.text for row in parts.train} & {row.text for row in parts.test}


def test_folds_that_say_the_same_leave_nothing_and_the_error_says_so() -> None:
    made = corpus(3, 60)
    same = made.with_utterances(tuple(replace(row, text=f"sentence {int(row.id.split('-')[2]) % 20}") for row in made))
    folds = in_folds(same, lambda row: int(row.id.split("-")[2]) // 20 + 1)
    with pytest.raises(DataError, match=r"120 \(text of another part\).* remove the columns split and fold") as caught:
        label_parts(folds, "speaker")
    assert "share_speakers" not in str(caught.value)


def test_clips_of_several_labels_are_left_out_and_counted() -> None:
    def several(row: Utterance) -> Utterance:
        number = int(row.id.split("-")[2])
        return replace(row, label=f"kind {number % 4},Sound" if number < 10 else f"pet, kind {number % 4}")

    made = corpus(3, 40)
    some = made.with_utterances(tuple(several(row) for row in made))
    parts = label_parts(some, "label", share_speakers=True)
    assert parts.names == tuple(f"pet, kind {kind}" for kind in range(4)) and parts.left_out["several labels"] == 30
    assert parts.notes[0] == "30 utterances have several labels, such as 'kind 0,Sound', and are left out."
    every = made.with_utterances(tuple(replace(row, label="Bark,Dog") for row in made))
    with pytest.raises(DataError, match=r"no utterance has a label alone\. 120 utterances have several"):
        label_parts(every, "label")


def test_labels_keep_groups_apart() -> None:
    parts = label_parts(corpus(3, 40), "label", share_speakers=True)
    assert parts.names == tuple(f"kind {kind}" for kind in range(4))
    assert not contents(parts.train) & contents(parts.test)


def test_notes_say_what_was_kept_apart_and_what_is_not_known() -> None:
    def nameless(row: Utterance, known: bool) -> Utterance:
        number = int(row.id.split("-")[-1])
        return replace(row, speaker=row.speaker if known else None, group=None, path=f"{number // 2}.wav")

    made = corpus(12, 20)
    none = made.with_utterances(tuple(nameless(row, known=False) for row in made))
    parts = label_parts(none, "label", min_train=1)
    assert parts.notes == (
        "Splits were drawn so that none shares recording with another.",
        "No speaker is known of 240 of 240 utterances: a voice may be in several parts.",
    )
    files = [{row.path for row in part} for part in (parts.train, parts.dev, parts.test)]
    assert not files[0] & files[2] and not files[0] & files[1]
    some = made.with_utterances(tuple(nameless(row, known="-1" in row.id[8:11]) for row in made))
    assert "none shares speaker with another" in label_parts(some, "label", min_train=1).notes[0]


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
