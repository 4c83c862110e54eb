"""The corpus and units verbs from one to the other, on a folder of four short recordings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from torch import Tensor

from allophone.cli.console import COMMAND_FILE
from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.frames import SAMPLE_RATE
from allophone.nn.codebook import Codebook


@pytest.fixture
def recordings(tmp_path: Path, speech: Callable[..., Tensor]) -> Path:
    """Four wav files of four speakers, as a table with texts."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    rows = ["file_name,language,speaker,text"]
    for number in range(4):
        soundfile.write(folder / f"{number}.wav", speech(1.0, seed=number).numpy(), SAMPLE_RATE)
        rows.append(f"{number}.wav,swa,speaker-{number},habari {number}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def corpus(recordings: Path, tmp_path: Path) -> Path:
    """The same, imported."""
    assert main(["corpus", "import", str(recordings), "--out", str(tmp_path / "corpus")]) == 0
    return tmp_path / "corpus"


def test_import_says_what_it_read_and_where_it_wrote(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recordings / "4.wav").write_bytes(b"")
    table = recordings / "metadata.csv"
    table.write_text(table.read_text() + "4.wav,swa,speaker-4,\n")
    out = tmp_path / "corpus"
    assert main(["corpus", "import", str(recordings), "--out", str(out)]) == 1
    assert "0 bytes" in capsys.readouterr().err
    assert main(["corpus", "import", str(recordings), "--out", str(out), "--max-loss", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "4 utterances" in said
    assert "swh_Latn  4 s" in said
    assert "set aside: 1 recordings" in said
    assert said.endswith(f"wrote {out}\n")
    assert (out / "corpus.parquet").is_file()


def test_show_lists_languages_and_rows(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus", "show", str(corpus), "--language", "sw", "--rows", "2"]) == 0
    said = capsys.readouterr().out
    assert "4 utterances, 4 speakers" in said
    assert said.count("habari") == 2


def test_split_says_how_large_the_parts_are(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "split"
    line = ["corpus", "split", str(corpus), "--out", str(out), "--test", "0.25", "--dev", "0.25", "--by", "speaker"]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "train  2 utterances" in said
    assert "dev  1 utterances" in said
    assert "test  1 utterances" in said
    assert main(["corpus", "show", str(out)]) == 0
    assert "splits: dev, test, train" in capsys.readouterr().out


def test_pieces_of_a_long_recording_stay_on_one_side_and_texts_can_be_kept_apart(
    tmp_path: Path, speech: Callable[..., Tensor]
) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    for number in range(4):
        soundfile.write(folder / f"{number}.wav", speech(35.0, seed=number).numpy(), SAMPLE_RATE)
    corpus, split = tmp_path / "corpus", tmp_path / "split"
    assert main(["corpus", "import", str(folder), "--language", "swa", "--out", str(corpus)]) == 0
    for by in (["speaker", "group"], ["text"]):
        line = ["corpus", "split", str(corpus), "--test", "0.25", "--dev", "0.25", "--out", str(split), "--by", *by]
        assert main(line) == 0
        rows = Corpus.open(split).utterances
        sides = {(row.id.split("-")[0], row.split) for row in rows}
        assert len(rows) == 8 and len(sides) == 4 and {side for _, side in sides} == {"train", "dev", "test"}


def test_audit_writes_its_page(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "audit.html"
    assert main(["corpus", "audit", str(corpus), "--out", str(page)]) == 0
    assert f"wrote {page}" in capsys.readouterr().out
    assert "<html" in page.read_text()


@pytest.mark.parametrize("kind", ["tsv", "nemo", "lhotse", "audiofolder"])
def test_export_can_be_read_again(kind: str, corpus: Path, tmp_path: Path) -> None:
    suffix = {"tsv": ".tsv", "nemo": ".json", "lhotse": ".jsonl", "audiofolder": ""}[kind]
    out = tmp_path / f"exported{suffix}"
    assert main(["corpus", "export", str(corpus), "--to", kind, "--out", str(out)]) == 0
    assert main(["corpus", "show", str(out), "--language", "swa"]) == 0


def test_units_are_fitted_encoded_and_judged(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book, units = tmp_path / "codebook", tmp_path / "units.parquet"
    fit = ["units", "fit", "--corpus", str(corpus), "--num-units", "8", "--out", str(book)]
    encode = ["units", "encode", "--corpus", str(corpus), "--codebook", str(book), "--out", str(units)]
    assert main(fit) == 0
    assert Codebook.load(book).info.num_units == 8
    assert json.loads((book / COMMAND_FILE).read_text()) == {"arguments": fit}
    assert main(encode) == 0
    assert f"wrote {units}" in capsys.readouterr().out
    assert main(["units", "report", str(units)]) == 0
    assert "8 units at 100 Hz, 4 utterances" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_said_in_one_line(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["units", "fit", "--corpus", str(corpus), "--model", "no/such", "--layer", "1", "--out", "x"]
    assert main(line) == 1
    said = capsys.readouterr().err
    assert "no/such" in said
    assert "Traceback" not in said
