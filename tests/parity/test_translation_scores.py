"""BLEU, chrF2++, WER and CER against the command lines of sacrebleu and jiwer on the same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from allophone.errors import ConfigError, DataError
from allophone.evaluate.result import Signature
from allophone.evaluate.translation import transcript_results, translation_results
from allophone.metrics import translation
from allophone.metrics.error_rate import character_error_counts, word_error_counts
from allophone.metrics.translation import bleu, bleu_counts, chrf, chrf_counts, tokenizer_for

pytestmark = pytest.mark.parity
pytest.importorskip("sacrebleu")

PAIRS = {
    "eng_Latn": [
        ("The cat (black) sat on the mat.", "A black cat was sitting on the mat."),
        ('He didn\'t say: "yes"!', 'He did not say "yes"!'),
        ("", "Nothing was said."),
        ("It costs 3,000.50 dollars today.", "It costs 3,000.50 dollars today, they say."),
        ("Yes", "No"),
    ],
    "cmn_Hans": [("今天天气很好。", "今天的天气非常好。"), ("我有3本书", "我有三本书。"), ("他没有来", "他没有来。")],
    "tha_Thai": [("วันนี้อากาศดี", "วันนี้อากาศดีมาก"), ("เขาไม่มา", "เขาไม่ได้มา")],
}


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=True, env={**os.environ}
    )
    return done.stdout


def split(language: str) -> tuple[list[str], list[str]]:
    return [pair[0] for pair in PAIRS[language]], [pair[1] for pair in PAIRS[language]]


@pytest.mark.parametrize("language", PAIRS)
def test_equal_to_the_command_line_of_sacrebleu(language: str, tmp_path: Path) -> None:
    hypotheses, references = split(language)
    (tmp_path / "hyp").write_text("".join(f"{text}\n" for text in hypotheses), encoding="utf-8")
    (tmp_path / "ref").write_text("".join(f"{text}\n" for text in references), encoding="utf-8")
    printed = run(
        "sacrebleu", str(tmp_path / "ref"), "-i", str(tmp_path / "hyp"), "-m", "bleu", "chrf",
        "--chrf-word-order", "2", "--tokenize", tokenizer_for(language), "--width", "10",
    )  # fmt: skip
    expected = {score["name"]: score for score in json.loads(printed)}
    for name, found in (("BLEU", bleu(hypotheses, references, language)), ("chrF2++", chrf(hypotheses, references))):
        assert found.value == pytest.approx(expected[name]["score"], abs=1e-9)
        assert found.signature == expected[name]["signature"]


@pytest.mark.parametrize("language", PAIRS)
def test_counts_of_each_text_make_the_score_of_all(language: str) -> None:
    hypotheses, references = split(language)
    rng = np.random.default_rng(0)
    words, characters = bleu_counts(hypotheses, references, language), chrf_counts(hypotheses, references)
    for rows in (np.arange(len(references)), rng.integers(len(references), size=7), np.array([0])):
        some = [hypotheses[row] for row in rows], [references[row] for row in rows]
        assert words.score(rows) == pytest.approx(bleu(*some, language).value, abs=1e-9)
        assert characters.score(rows) == pytest.approx(chrf(*some).value, abs=1e-9)
    assert chrf_counts(["", "a"], ["b", "c"]).score(np.array([0, 1])) == chrf(["", "a"], ["b", "c"]).value == 0.0


def test_equal_to_the_command_line_of_jiwer(tmp_path: Path) -> None:
    pairs = [pair for pair in PAIRS["eng_Latn"] if all(len(text) > 1 for text in pair)]  # it drops shorter lines
    hypotheses, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    (tmp_path / "hyp").write_text("".join(f"{text}\n" for text in hypotheses), encoding="utf-8")
    (tmp_path / "ref").write_text("".join(f"{text}\n" for text in references), encoding="utf-8")
    files = ("-r", str(tmp_path / "ref"), "-h", str(tmp_path / "hyp"))
    assert word_error_counts(references, hypotheses).rate == pytest.approx(float(run("jiwer.cli", *files)))
    assert character_error_counts(references, hypotheses).rate == pytest.approx(float(run("jiwer.cli", *files, "-c")))


SIGNATURE = Signature(data_hash="d", model_hash="m", normalizer="none", seed=0)


def test_results_have_intervals_and_say_how_they_were_made() -> None:
    hypotheses, references = split("eng_Latn")
    found = translation_results(hypotheses, references, "eng_Latn", SIGNATURE, groups=[0, 0, 1, 2, 2], resamples=50)
    assert [result.name for result in found] == ["BLEU", "chrF2++"]
    for result, value in zip(
        found, (bleu(hypotheses, references, "eng_Latn"), chrf(hypotheses, references)), strict=True
    ):
        assert result.value == pytest.approx(value.value) and result.low <= result.value <= result.high
        assert result.signature.normalizer == value.signature and "version" in value.signature and result.n == 3
    assert "tok:13a" in found[0].signature.normalizer and "nw:2" in found[1].signature.normalizer


def test_raw_and_normalized_stand_side_by_side() -> None:
    found = {r.name: r for r in transcript_results(["Bonjour toi !"], ["bonjour, toi"], "fra_Latn", SIGNATURE)}
    assert found["CER normalized"].value == found["WER normalized"].value == 0.0
    assert found["WER raw"].value == pytest.approx(100 * 2 / 2)  # "Bonjour" and "!" for "bonjour,", "toi" is right
    assert found["CER raw"].value > 0 and found["CER raw"].signature.normalizer == "none"
    assert not found["CER raw"].signature.comparable(found["CER normalized"].signature)


def test_what_cannot_be_scored_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [tokenizer_for(tag) for tag in ("jpn_Jpan", "kor_Hang", "khm_Khmr", "rus_Cyrl")] == [
        "ja-mecab",
        "ko-mecab",
        "char",
        "13a",
    ]
    with pytest.raises(DataError, match="1 references for 2 hypotheses"):
        bleu(["a", "b"], ["a"], "eng_Latn")
    with pytest.raises(DataError, match="0 references for 0"):
        chrf_counts([], [])
    monkeypatch.setitem(sys.modules, "mecab_ko", None)
    with pytest.raises(ConfigError, match=r"pip install 'allophone\[ko\]'"):
        bleu(["가"], ["가"], "kor_Hang")
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ConfigError, match=r"pip install 'allophone\[translate\]'"):
        translation.chrf(["a"], ["a"])
