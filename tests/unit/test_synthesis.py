"""Synthetic parallel speech: phrases that say the same, splits that share nothing, and the same corpus every time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from allophone.audio.espeak import Espeak
from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.data.splits import find_leaks
from allophone.data.synthesis import TEST_VOICES, split_of, synthesize
from allophone.errors import ConfigError, DataError
from allophone.text.phrases import KINDS, LOCALES, number_words, parallel_phrases

pytest.importorskip("babel", reason="needs the extra synthesis")
pytest.importorskip("num2words", reason="needs the extra synthesis")
pytest.importorskip("espeakng_loader", reason="needs the extra synthesis")


def test_phrases_are_parallel_different_and_the_same_every_time() -> None:
    phrases = parallel_phrases(60, ["eng", "fra", "rus"], seed=1)
    assert phrases == parallel_phrases(60, ["rus", "eng", "fra"], seed=1)
    assert {phrase.kind for phrase in phrases} == set(KINDS)
    for language in ("eng_Latn", "fra_Latn", "rus_Cyrl"):
        texts = [phrase.texts[language].casefold() for phrase in phrases]
        assert len(set(texts)) == len(texts) and all(texts)
    assert parallel_phrases(60, ["eng"], seed=2) != parallel_phrases(60, ["eng"], seed=1)


def test_every_language_has_every_kind() -> None:
    assert len(LOCALES) >= 30
    for phrase in parallel_phrases(len(KINDS), list(LOCALES)):
        assert phrase.texts.keys() == LOCALES.keys()


def test_a_currency_and_a_place_are_said_once() -> None:
    phrases = parallel_phrases(120, ["eng", "cat"])
    amounts = [one.texts for one in phrases if one.kind == "amount"]
    assert amounts and all(re.fullmatch(r"[\d,]+ [^\d,.]+", texts["eng_Latn"]) for texts in amounts)
    for texts in amounts:
        words = texts["eng_Latn"].split()[1:]
        assert len(set(words)) == len(words), texts
    for one in phrases:
        if one.kind == "distance":
            origin, goal = one.texts["eng_Latn"].split(":")[0].split(" – ")
            assert origin != goal


def test_numbers_in_words_where_they_are_known() -> None:
    assert number_words(21, "fr") == "vingt et un"
    assert number_words(21, "hi") == "21"  # num2words has no Hindi


def test_a_corpus_is_labelled_and_its_splits_share_nothing(tmp_path: Path) -> None:
    corpus = synthesize(tmp_path / "a", languages=["deu", "spa"], phrases=30, voices=2)
    assert len(corpus) == 120 and all(row.synthetic and row.source == "espeak-ng" for row in corpus)
    assert {row.split for row in corpus} == {"train", "dev", "test"}
    assert find_leaks(corpus, by=("group", "text")) == {}
    heard, tested = (
        {(row.speaker or "").rpartition("-")[2] for row in corpus if (row.split == "test") == test} for test in (0, 1)
    )
    assert tested == set(TEST_VOICES) and not heard & tested
    first = corpus.utterances[0]
    assert first.translations.keys() == {"spa_Latn"} and first.label in KINDS
    assert corpus.audio(first).abs().max() > 0.05
    fewer = synthesize(tmp_path / "b", languages=["spa", "deu"], phrases=5, voices=2)
    assert {(row.id, row.text, row.speaker, row.split) for row in fewer} < {
        (row.id, row.text, row.speaker, row.split) for row in corpus
    }
    assert Corpus.open(tmp_path / "a").hash == corpus.hash
    with pytest.raises(DataError, match="there is a corpus already"):
        synthesize(tmp_path / "a", languages=["deu"], phrases=2)


def test_shares_of_the_splits() -> None:
    splits = [split_of(f"content {number}") for number in range(2000)]
    assert 0.17 < splits.count("test") / 2000 < 0.23 and 0.08 < splits.count("dev") / 2000 < 0.12


def test_what_cannot_be_said_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No phrases in taq_Latn"):
        parallel_phrases(3, ["taq"])
    with pytest.raises(ConfigError, match="From 1 to 2 voices"):
        synthesize(tmp_path, languages=["deu"], phrases=2, voices=3)
    espeak = Espeak()
    with pytest.raises(ConfigError, match="no voice 'xx'"):
        espeak.speak("a", "xx")
    with pytest.raises(DataError, match="says nothing for '…'"):
        espeak.speak("…", "de")


def test_by_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"corpus synthesize --languages eng,fra --phrases 6 --out {tmp_path}/phrases".split()) == 0
    assert "12 synthetic recordings" in capsys.readouterr().out
