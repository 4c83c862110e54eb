"""Who is trained on: utterances with a text, whole ones, in the languages that are heard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_corpus import corpus

from allophone.audio.augment import AugmentConfig
from allophone.data.captioning import CaptionConfig
from allophone.data.collate import CollateConfig
from allophone.errors import DataError
from allophone.recipes.align import small
from allophone.run.alignment import heard_utterances
from allophone.run.config import DataConfig
from allophone.run.texts import heard_with_texts, texts_of_row, undisturbed, without

DATA = DataConfig(collate=CollateConfig(crop_seconds=1.0, equal_lengths=False), batch_seconds=4.0, min_seconds=0.3)


def test_long_utterances_and_those_without_a_text_are_left_out_and_counted(tmp_path: Path) -> None:
    spoken = corpus(tmp_path)
    first, second, *others = spoken
    assert first.split == second.split == "train" and first.language == "eng_Latn"
    changed = spoken.with_utterances((replace(first, duration_seconds=1.5), replace(second, text=None), *others))
    heard = heard_with_texts(changed, DATA)
    assert len(heard.corpus) == 58 and heard.languages is None
    assert heard.left_out == {"eng_Latn": 1, "fra_Latn": 1}
    translated = heard_with_texts(changed, DATA, ["spa_Latn"])
    assert len(translated.corpus) == 59  # its translation is still there
    with pytest.raises(DataError, match=r"none of 60 utterances of the training split has a text in deu_Latn"):
        heard_with_texts(changed, DATA, ["deu_Latn"])


def test_a_piece_of_a_recording_is_not_aligned_with_its_whole_text(tmp_path: Path) -> None:
    spoken = corpus(tmp_path)
    first, second, third, *others = spoken
    long, mute = replace(first, duration_seconds=1.5), replace(second, text=None, translations={}, group=None)
    changed = spoken.with_utterances((long, mute, replace(third, duration_seconds=0.2), *others))
    config = replace(small(("eng_Latn", "fra_Latn"), from_nothing=True), data=DATA)
    heard, left_out = heard_utterances(changed, config)
    assert long not in heard.utterances and len(heard) == 57
    assert left_out == {"shorter than 0.3 s": 1, "longer than 1 s": 1, "without a text": 1}
    spoken_languages = replace(config, captions=CaptionConfig(kinds=("language",)))
    assert long in heard_utterances(changed, spoken_languages)[0].utterances  # a piece is as French as the whole
    with pytest.raises(DataError, match=r"none of 60 utterances .* has a text in the languages .* and at most 0.5 s"):
        heard_utterances(spoken, replace(config, data=replace(DATA, collate=replace(DATA.collate, crop_seconds=0.5))))


def test_what_is_perturbed_sounds_different_each_time() -> None:
    assert undisturbed(DATA)
    assert not undisturbed(replace(DATA, collate=replace(DATA.collate, augment=AugmentConfig())))


def test_texts_by_language(tmp_path: Path) -> None:
    row = corpus(tmp_path).utterances[0]
    assert texts_of_row(row, None) == {"eng_Latn": "ari ari"}
    assert texts_of_row(row, ["spa_Latn", "deu_Latn", "eng_Latn"]) == {"spa_Latn": "numero 0 0", "eng_Latn": "ari ari"}


def test_recordings_in_a_language_are_left_out_and_its_texts_stay(tmp_path: Path) -> None:
    spoken = corpus(tmp_path)
    fewer = without(spoken, ["fra"])
    assert fewer.languages == ("eng_Latn",) and len(fewer) == 40
    assert without(spoken, []).utterances == spoken.utterances
    with pytest.raises(DataError, match="no recording in deu_Latn"):
        without(spoken, ["deu"])
