"""ML-SUPERB's own folders, written here in their true layout with tiny recordings."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from allophone.data.corpus import Corpus
from allophone.data.importers.detect import detect_format
from allophone.errors import DataError

LAYOUT = {
    ("commonvoice", "deu"): (
        "cv_deu",
        {"10min_train": [0, 1], "1h_train": [0, 1, 2], "10min_dev": [3], "10min_test": [4]},
    ),
    ("fleurs", "deu"): ("fleurs_deu", {"10min_train": [0], "1h_train": [0], "10min_dev": [1], "10min_test": [2]}),
    ("fleurs", "lit"): ("fleurs_lit", {"10min_train": [0], "1h_train": [0], "10min_dev": [1], "10min_test": [2]}),
    ("commonvoice", "org_jpn"): ("cv_jpn", {"10min_train": [0], "1h_train": [0], "10min_dev": [1], "10min_test": [2]}),
}


@pytest.fixture
def version1(tmp_path: Path, speech) -> Path:
    """``SOURCE/LANGUAGE/{wav/*.wav,transcript_*.txt}`` with a third word in each line, as handed out."""
    for (source, code), (prefix, lists) in LAYOUT.items():
        folder = tmp_path / "eighth" / source / code
        (folder / "wav").mkdir(parents=True)
        for number in sorted({n for numbers in lists.values() for n in numbers}):
            wave = speech(0.3 + number / 10, seed=number).numpy()
            soundfile.write(folder / "wav" / f"{prefix}_{number:06}.wav", wave, 16_000)
        for name, numbers in lists.items():
            lines = [f"{prefix}_{n:06} {code}\tWort {n}, ja." for n in numbers]
            (folder / f"transcript_{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "eighth"


def test_version_1_and_2(version1: Path) -> None:
    assert detect_format(version1) == "mlsuperb"
    corpus = Corpus.open(version1)
    assert len(corpus) == 14 and corpus.languages == ("deu_Latn", "jpn_Jpan", "lit_Latn")
    rows = {row.id: row for row in corpus}
    one = rows["cv_deu_000002"]
    assert (one.split, one.source, one.text, one.speaker) == ("train", "commonvoice", "Wort 2, ja.", None)
    assert one.extra["train_1h"] and not one.extra.get("train_10min") and not one.extra["few_shot"]
    assert rows["cv_deu_000000"].extra["train_10min"] and rows["cv_deu_000000"].extra["train_1h"]
    assert rows["cv_jpn_000002"].extra["code"] == "org_jpn"
    assert rows["fleurs_lit_000000"].extra["few_shot"] and rows["cv_jpn_000002"].split == "test"
    assert {row.split for row in corpus} == {"train", "dev", "test"}
    assert corpus.audio(one).shape == (8000,)


def test_bad_version_1_folders_name_the_line(version1: Path) -> None:
    transcript = version1 / "fleurs" / "deu" / "transcript_10min_test.txt"
    good = transcript.read_text()
    transcript.write_text(good + "fleurs_deu_000009 deu\n")
    with pytest.raises(DataError, match=r"transcript_10min_test.txt, line 2: 'fleurs_deu_000009 deu'; expected 'ID"):
        Corpus.open(version1)
    transcript.write_text(good + "fleurs_deu_000000 deu Wort 0, ja.\n")
    with pytest.raises(DataError, match=r"line \d+: 'fleurs_deu_000000' is also in .*another split"):
        Corpus.open(version1)
    transcript.write_text(good)
    (version1 / "fleurs" / "deu" / "transcript_2h_test.txt").write_text(good)
    with pytest.raises(DataError, match=r"expected a name such as transcript_10min_train\.txt"):
        Corpus.open(version1)


@pytest.fixture
def challenge(tmp_path: Path, speech) -> Path:
    """``data/{train,dev,dev_dialect}`` beside ``data/raw_audio``, as the challenge's recipe leaves them."""
    (tmp_path / "data" / "raw_audio").mkdir(parents=True)
    texts = {"train": "[deu] Guten Tag", "dev": "[lit] labas", "dev_dialect": "[hin] नमस्ते"}
    for number, (name, text) in enumerate(texts.items()):
        soundfile.write(tmp_path / f"data/raw_audio/u{number}.wav", speech(0.4, seed=number).numpy(), 16_000)
        folder = tmp_path / "data" / name
        folder.mkdir()
        (folder / "wav.scp").write_text(f"u{number} data/raw_audio/u{number}.wav\n")
        (folder / "text").write_text(f"u{number} {text}\n", encoding="utf-8")
        (folder / "utt2spk").write_text(f"u{number} u{number}\n")
    return tmp_path / "data"


def test_challenge(challenge: Path) -> None:
    assert detect_format(challenge) == "mlsuperb challenge"
    rows = {row.id: row for row in Corpus.open(challenge)}
    assert [(row.language, row.split, row.text, row.speaker) for row in rows.values()] == [
        ("deu_Latn", "train", "Guten Tag", None),
        ("lit_Latn", "dev", "labas", None),
        ("hin_Deva", "dev", "नमस्ते", None),
    ]
    assert [row.extra["dialect"] for row in rows.values()] == [False, False, True]
    assert [row.extra["few_shot"] for row in rows.values()] == [False, True, False]
    (challenge / "dev" / "text").write_text("u1 labas\n")
    with pytest.raises(DataError, match=r"text 'labas' does not begin with a language such as '\[fra\]'"):
        Corpus.open(challenge)
