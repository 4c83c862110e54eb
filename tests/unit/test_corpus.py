"""data/corpus and data/utterance: a corpus survives the disk, and its hash is of what it holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from torch import Tensor

from allophone.data.corpus import Corpus
from allophone.data.importing import import_corpus
from allophone.data.utterance import Utterance
from allophone.errors import DataError

Speech = Callable[..., Tensor]


@pytest.fixture
def corpus(tmp_path: Path, speech: Speech) -> Corpus:
    """Two languages, three files, one utterance that is a part of a file."""
    (tmp_path / "audio").mkdir()
    for number in range(3):
        soundfile.write(tmp_path / f"audio/{number}.flac", speech(2, seed=number).numpy(), 16_000)
    rows = (
        Utterance(
            id="a", path="audio/0.flac", duration_seconds=2.0, sample_rate=16_000, language="fra_Latn", speaker="s1",
            text="l'été", group="g", translations={"eng_Latn": "summer"}, split="train", licence="CC0-1.0",
            extra={"age": 30},
        ),
        Utterance(
            id="b", path="audio/1.flac", duration_seconds=2.0, sample_rate=16_000, language="srp_Latn", split="test"
        ),
        Utterance(
            id="c", path="audio/2.flac", offset_seconds=0.5, duration_seconds=1.0, sample_rate=16_000,
            language="srp_Cyrl", split="train",
        ),
    )  # fmt: skip
    return Corpus(tmp_path, rows, name="small", info={"made_by": "a test"})


def test_saved_and_opened_is_the_same(corpus: Corpus, tmp_path: Path) -> None:
    corpus.save(tmp_path)
    opened = Corpus.open(tmp_path)
    assert opened.utterances == corpus.utterances
    assert opened.name == "small" and opened.info["made_by"] == "a test" and opened.hash == corpus.hash
    card = json.loads((tmp_path / "corpus.json").read_text())
    assert (
        card["hash"] == corpus.hash and card["licences"] == ["CC0-1.0"] and set(card["hours"]) == set(corpus.languages)
    )


def test_saved_elsewhere_it_still_finds_its_files(corpus: Corpus, tmp_path: Path) -> None:
    elsewhere = corpus.save(tmp_path / "other")
    assert Path(elsewhere.utterances[0].path).is_absolute()
    assert torch.equal(
        Corpus.open(tmp_path / "other").audio(elsewhere.utterances[0]), corpus.audio(corpus.utterances[0])
    )
    assert elsewhere.hash == corpus.hash


def test_hash_follows_content_not_order_or_place(corpus: Corpus, tmp_path: Path) -> None:
    rows = corpus.utterances
    assert corpus.with_utterances(rows[::-1]).hash == corpus.hash
    assert replace(corpus, folder=tmp_path / "x").hash == corpus.hash
    for change in ({"text": "autre"}, {"split": "dev"}, {"offset_seconds": 0.1}, {"translations": {}}):
        assert corpus.with_utterances((replace(rows[0], **change), *rows[1:])).hash != corpus.hash


def test_audio_is_the_part_that_the_row_names(corpus: Corpus, speech: Speech) -> None:
    part = corpus.audio(corpus.utterances[2])
    torch.testing.assert_close(part, speech(2, seed=2)[8_000:24_000], atol=1e-4, rtol=0)


def test_where(corpus: Corpus) -> None:
    def ids(**choice: object) -> list[str]:
        return [row.id for row in corpus.where(**choice)]  # type: ignore[arg-type]

    assert ids(language="sr") == ids(language="srp") == ["b", "c"]
    assert ids(language="srp_Latn") == ids(language="sr-Latn") == ["b"]
    assert ids(language=["fr", "sr-Cyrl"]) == ["a", "c"]
    assert ids(language="srp", split="train") == ["c"]
    assert ids(speaker="s1") == ["a"] and ids(speaker={"s1", "s2"}) == ["a"] and ids(split="dev") == []
    with pytest.raises(DataError, match="Unknown language 'serbain'"):
        corpus.where(language="serbain")


def test_hours_add_up(corpus: Corpus) -> None:
    assert corpus.hours() == pytest.approx({"fra_Latn": 2 / 3600, "srp_Cyrl": 1 / 3600, "srp_Latn": 2 / 3600})
    assert "3 utterances" in repr(corpus)


def test_two_rows_with_one_id_are_named(corpus: Corpus) -> None:
    with pytest.raises(DataError, match=r"two utterances have the id 'a': audio/0\.flac.*audio/1\.flac"):
        corpus.with_utterances((corpus.utterances[0], replace(corpus.utterances[1], id="a")))


def test_translations_may_be_a_struct_or_json_and_columns_may_be_missing(tmp_path: Path) -> None:
    base = {
        "id": ["a"],
        "path": ["a.wav"],
        "duration_seconds": [1.0],
        "sample_rate": [16_000],
        "language": ["eng_Latn"],
    }
    for translations in ([{"fra_Latn": "x", "deu_Latn": None}], ['{"fra_Latn": "x"}']):
        pq.write_table(pa.table({**base, "translations": translations, "text": [""]}), tmp_path / "corpus.parquet")
        row = Corpus.open(tmp_path).utterances[0]
        assert row.translations == {"fra_Latn": "x"} and row.text is None and row.offset_seconds == 0.0


def test_broken_corpus_folders_say_what_is_wrong(tmp_path: Path, corpus: Corpus) -> None:
    table = tmp_path / "corpus.parquet"
    table.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="not a Parquet file that can be read"):
        Corpus.open(tmp_path)
    pq.write_table(pa.table({"id": ["a"], "path": ["x"]}), table)
    with pytest.raises(DataError, match=r"no column \['duration_seconds', 'sample_rate', 'language'\]"):
        Corpus.open(tmp_path)
    corpus.save(tmp_path)
    rows = pq.read_table(table).to_pylist()
    rows[1]["language"] = ""
    pq.write_table(pa.Table.from_pylist(rows), table)
    with pytest.raises(DataError, match=r"row 1 \(id 'b'\): \['language'\] is empty"):
        Corpus.open(tmp_path)
    corpus.save(tmp_path)
    with pytest.raises(DataError, match=r"use \.where\(language='fra'\)"):
        Corpus.open(tmp_path, language="fra")
    (tmp_path / "corpus.json").write_text("{")
    with pytest.raises(DataError, match=r"corpus\.json: not JSON"):
        Corpus.open(tmp_path)


def test_an_import_does_not_write_over_a_corpus(corpus: Corpus, tmp_path: Path) -> None:
    corpus.save(tmp_path)
    with pytest.raises(DataError, match="there is a corpus already"):
        import_corpus(tmp_path / "audio", out=tmp_path, language="fra")
