"""CoVoST 2, Europarl-ST and MuST-C / IWSLT in the layout in which they are handed out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from allophone.data.corpus import Corpus
from allophone.data.importers.detect import detect_format, read_entries
from allophone.errors import DataError


def sound(path: Path, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(path.name))
    soundfile.write(path, generator.normal(0, 0.1, round(16_000 * seconds)), 16_000)


def lines(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def covost(folder: Path) -> Path:
    """One clip into two languages, as the script parts them; another one in the table as it is downloaded."""
    for name in ("a.wav", "b.wav"):
        sound(folder / "clips" / name)
    head = "path\tsentence\ttranslation\tclient_id"
    lines(folder / "covost_v2.en_de.train.tsv", head, 'a.wav\tIt is "late".\tEs ist „spät“.\tone')
    lines(folder / "covost_v2.en_sv-SE.train.tsv", head, 'a.wav\tIt is "late".\tDet är sent.\tone')
    lines(folder / "covost_v2.fr_en.tsv", "path\ttranslation\tsplit", "b.wav\tGood day.\ttest")
    lines(folder / "validated.tsv", "client_id\tpath\tsentence\tage", "two\tb.wav\tBonjour.\t")
    return folder


def test_covost(tmp_path: Path) -> None:
    folder = covost(tmp_path / "cv")
    assert detect_format(folder) == "covost"
    first, second = Corpus.open(folder).utterances
    assert first.text == 'It is "late".' and first.speaker == "one" and first.split == "train"
    assert first.translations == {"deu_Latn": "Es ist „spät“.", "swe_Latn": "Det är sent."}
    assert (second.language, second.text, second.speaker, second.split) == ("fra_Latn", "Bonjour.", "two", "test")
    assert second.translations == {"eng_Latn": "Good day."} and second.source == "CoVoST 2"


def test_covost_needs_the_sentences(tmp_path: Path) -> None:
    folder = covost(tmp_path / "cv")
    lines(folder / "validated.tsv", "client_id\tpath\tsentence", "two\tc.wav\tBonjour.")
    with pytest.raises(DataError, match=r"'b\.wav' is not in validated\.tsv"):
        Corpus.open(folder)
    (folder / "validated.tsv").unlink()
    with pytest.raises(DataError, match=r"no validated\.tsv, which has the sentences"):
        Corpus.open(folder)
    lines(folder / "covost_v2.fr_en.tsv", "path\tsplit", "b.wav\ttest")
    with pytest.raises(DataError, match=r"no columns \['translation'\]"):
        Corpus.open(folder)


def test_covost_adds_clips_to_train_alone(tmp_path: Path) -> None:
    """As its own script: what it added to dev and test is in neither."""
    head, names = "path\ttranslation\tsplit", ("train", "train_covost", "dev", "dev_covost", "test_covost")
    lines(tmp_path / "covost_v2.fr_en.tsv", head, *(f"{name}.mp3\tYes.\t{name}" for name in names))
    lines(tmp_path / "validated.tsv", "client_id\tpath\tsentence", *(f"one\t{name}.mp3\tOui." for name in names))
    entries = read_entries(tmp_path, media=tmp_path / "media")[1]
    assert [entry.split for entry in entries] == ["train", "train", "dev", "dev_covost", "test_covost"]


def test_covost_reads_the_sentences_of_each_spoken_language(tmp_path: Path) -> None:
    for code, text in (("de", "Ja."), ("fr", "Oui.")):
        lines(tmp_path / f"covost_v2.{code}_en.tsv", "path\ttranslation\tsplit", f"{code}.wav\tYes.\ttrain")
        lines(tmp_path / code / "validated.tsv", "client_id\tpath\tsentence", f"one\t{code}.wav\t{text}")
        sound(tmp_path / code / "clips" / f"{code}.wav")
    assert [(row.language, row.text) for row in Corpus.open(tmp_path)] == [("deu_Latn", "Ja."), ("fra_Latn", "Oui.")]


def europarl(folder: Path) -> Path:
    sound(folder / "en" / "audios" / "en.20080901.22.1-086.wav", 5.0)
    for target, words in (("de", ("Ja.", "Nein.")), ("fr", ("Oui.", "Non."))):
        part = folder / "en" / target / "dev"
        lines(part / "segments.lst", "en.20080901.22.1-086 0.50 1.75", "en.20080901.22.1-086 2.00 4.00")
        lines(part / "segments.en", "Yes.", "No.")
        lines(part / f"segments.{target}", *words)
        lines(part / "speakers.lst", "member-7")
    return folder


def test_europarl(tmp_path: Path) -> None:
    folder = europarl(tmp_path / "v1.1")
    assert detect_format(folder) == "europarl-st"
    first, second = Corpus.open(folder).utterances
    assert (first.offset_seconds, first.duration_seconds, first.text) == (0.5, 1.25, "Yes.")
    assert first.translations == {"deu_Latn": "Ja.", "fra_Latn": "Oui."}
    assert (second.speaker, second.split, second.language) == ("member-7", "dev", "eng_Latn")


def test_europarl_whose_files_disagree_is_refused(tmp_path: Path) -> None:
    folder = europarl(tmp_path / "v1.1")
    lines(folder / "en" / "de" / "dev" / "segments.de", "Ja.")
    with pytest.raises(DataError, match=r"segments\.de: 1 lines, segments\.lst has 2"):
        Corpus.open(folder)
    europarl(folder)
    lines(folder / "en" / "fr" / "dev" / "segments.en", "Yes.", "Perhaps.")
    with pytest.raises(DataError, match="in another split or with another text"):
        Corpus.open(folder)
    europarl(folder)
    lines(folder / "en" / "de" / "dev" / "segments.lst", "en.20080901.22.1-086 0.50", "en.20080901.22.1-086 2.00 4.00")
    with pytest.raises(DataError, match="expected 'NAME START END'"):
        Corpus.open(folder)


def tamasheq(folder: Path) -> Path:
    for split in ("train", "valid"):
        sound(folder / split / "wav" / "one.wav")
        lines(folder / split / "txt" / f"{split}.fra", "Le soleil se lève.")
        line = "- {duration: 0.9, offset: 0.0, speaker_id: spk1, wav: one}"
        lines(folder / split / "txt" / f"{split}.yaml", line)
    return folder


def test_iwslt_low_resource(tmp_path: Path) -> None:
    folder = tamasheq(tmp_path / "taq_fra_clean")
    assert detect_format(folder) == "must-c"
    train, dev = Corpus.open(folder).utterances
    assert (train.language, train.text, train.split, dev.split) == ("taq_Latn", None, "train", "dev")
    assert train.translations == {"fra_Latn": "Le soleil se lève."} and train.speaker == "spk1"
    assert train.duration_seconds == pytest.approx(0.9)


def test_mustc_has_transcripts_and_a_folder_that_names_the_languages(tmp_path: Path) -> None:
    part = tmp_path / "en-de" / "data" / "dev"
    sound(part / "wav" / "ted_1.wav", 4.0)
    lines(
        part / "txt" / "dev.yaml",
        "- {duration: 1.5, offset: 0.25, rW: 9, uW: 0, speaker_id: spk.1, wav: ted_1.wav}",
        "- {duration: 1.0, offset: 2.00, rW: 4, uW: 0, speaker_id: spk.1, wav: ted_1.wav}",
    )
    lines(part / "txt" / "dev.en", "Hello.", "Thanks.")
    lines(part / "txt" / "dev.de", "Hallo.", "Danke.")
    first, second = read_entries(tmp_path / "en-de", media=tmp_path / "media")[1]
    assert (first.language, first.text, first.translations) == ("eng_Latn", "Hello.", {"deu_Latn": "Hallo."})
    assert (second.offset_seconds, second.split) == (2.0, "dev")
    lines(part / "txt" / "dev.en", "Hel\u2028lo.", "Tha\x85n\x0bk\x0cs.\r")  # ends of lines for str.splitlines
    first, second = read_entries(tmp_path / "en-de", media=tmp_path / "media")[1]
    assert (first.text, second.text) == ("Hel\u2028lo.", "Tha\x85n\x0bk\x0cs.")
    (part / "txt" / "dev.en").write_bytes("Hé.\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"dev\.en: not UTF-8 .*byte 1"):
        read_entries(tmp_path / "en-de", media=tmp_path / "media")
    lines(part / "txt" / "dev.en", "Hello.", "Thanks.")
    lines(part / "txt" / "dev.yaml", "- {offset: 0.25, wav: ted_1.wav}", "- {}")
    with pytest.raises(DataError, match="expected duration, offset and wav"):
        read_entries(tmp_path / "en-de", media=tmp_path / "media")
    (tmp_path / "en-de").rename(tmp_path / "talks")
    with pytest.raises(DataError, match="nothing says which language is spoken"):
        read_entries(tmp_path / "talks", media=tmp_path / "media")


def test_the_parts_of_mustc_that_papers_report(tmp_path: Path) -> None:
    for name in ("train", "dev", "tst-COMMON", "tst-HE"):
        part = tmp_path / "en-de" / "data" / name
        sound(part / "wav" / "ted_1.wav")
        lines(part / "txt" / f"{name}.yaml", "- {duration: 0.5, offset: 0.25, speaker_id: spk.1, wav: ted_1.wav}")
        for code in ("en", "de"):
            lines(part / "txt" / f"{name}.{code}", "Hello.")
    splits = {row.id.split("/")[0]: row.split for row in Corpus.open(tmp_path / "en-de")}
    assert splits == {"train": "train", "dev": "dev", "tst-COMMON": "test", "tst-HE": "tst-HE"}
