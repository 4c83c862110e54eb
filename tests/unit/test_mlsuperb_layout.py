"""A corpus written in ML-SUPERB's folders: what the importer reads back, nested amounts, what is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from allophone.data import mlsuperb_layout
from allophone.data.corpus import Corpus
from allophone.data.export import export_corpus
from allophone.data.utterance import Utterance
from allophone.errors import DataError

COUNTS = {"train": 8, "dev": 3, "test": 4}


@pytest.fixture
def corpus(tmp_path: Path, speech) -> Corpus:
    """Two whole sets, one without dev, one with two test utterances, and an utterance without text."""
    rows = []
    for place, (source, tag) in enumerate(
        [("mls", "deu_Latn"), ("mls", "lit_Latn"), ("swc", "deu_Latn"), ("swc", "fra_Latn")]
    ):
        for split, count in COUNTS.items():
            if (place, split) == (2, "dev"):
                continue
            for number in range(2 if (place, split) == (3, "test") else count):
                name = f"{source}-{tag}-{split}-{number}"
                soundfile.write(tmp_path / f"{name}.wav", speech(0.3, seed=len(rows)).numpy(), 16_000)
                rows.append(
                    Utterance(
                        id=name,
                        path=f"{name}.wav",
                        duration_seconds=0.3,
                        sample_rate=16_000,
                        language=tag,
                        source=source,
                        split=split,
                        text=f"Wort\t{split} {number}.",
                    )
                )
    rows.append(Utterance(**{**_fields(rows[0]), "id": "silent", "text": None}))
    return Corpus(name="mine", folder=tmp_path, utterances=tuple(rows))


def _fields(row: Utterance) -> dict:
    return {name: getattr(row, name) for name in Utterance.__dataclass_fields__}


def test_a_source_with_a_space_can_be_read_back(corpus, tmp_path) -> None:
    spaced = corpus.with_utterances(tuple(replace(row, source=f"CoVoST 2/{row.source}") for row in corpus))
    mlsuperb_layout.write_mlsuperb(spaced, tmp_path / "out", fewest_test=4)
    assert {row.source for row in Corpus.open(tmp_path / "out")} == {"CoVoST-2-mls"}


def test_the_importer_reads_back_what_was_written(corpus, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(mlsuperb_layout.SECONDS, "10min_train", 1.0)  # three utterances of 0.3 s
    monkeypatch.setitem(mlsuperb_layout.SECONDS, "10min_test", 0.1)  # one, though it is longer
    mlsuperb_layout.write_mlsuperb(corpus, tmp_path / "out", fewest_test=4)
    again = Corpus.open(tmp_path / "out")
    own = {(row.source, row.language, row.split, row.text): row for row in corpus}
    assert {row.source for row in again} == {"mls"} and again.languages == ("deu_Latn", "lit_Latn")
    for row in again:
        before = own[row.source, row.language, row.split, " ".join(row.text.split(maxsplit=1)).replace(" ", "\t", 1)]
        assert (again.audio(row) - corpus.audio(before)).abs().max() < 1e-4
    for tag in again.languages:
        rows = again.where(language=tag)
        assert [sum(row.split == split for row in rows) for split in COUNTS] == [8, 3, 1]
        assert sum(bool(row.extra.get("train_10min")) for row in rows) == 3
        assert sum(bool(row.extra.get("train_1h")) for row in rows) == 8
    told = json.loads((tmp_path / "out" / "layout.json").read_text())
    assert told["utterances"]["mls/lit"] == {"10min_train": 3, "1h_train": 8, "10min_dev": 3, "10min_test": 1}
    assert list(told["left_out"].values()) == [1, 12 + 13, 6] and told["hash"] == corpus.hash


def test_what_cannot_be_written_is_refused(corpus, tmp_path) -> None:
    with pytest.raises(DataError, match=r"mine: none of 4 sets .* and 20 of test\. `allophone corpus split`"):
        export_corpus(corpus, tmp_path / "out", to="mlsuperb")
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="there is there already; name a folder that is not"):
        export_corpus(corpus, tmp_path / "there", to="mlsuperb")


def test_another_voice_is_tested_on_what_training_does_not_say(corpus, tmp_path) -> None:
    mine = [row for row in corpus if row.source == "mls" and row.text]
    german = [row for row in mine if row.language == "deu_Latn" and row.split == "train"]
    other = [
        Utterance(**{**_fields(row), "id": f"other-{number}", "source": "radio", "split": "test", "text": text})
        for number, (row, text) in enumerate(zip(german, ["wort train 0", "neu", "anders"], strict=False))
    ]
    other[2] = Utterance(**{**_fields(other[2]), "group": "shared"})
    mine[mine.index(german[4])] = Utterance(**{**_fields(german[4]), "group": "shared"})
    mlsuperb_layout.write_mlsuperb(corpus.with_utterances((*mine, *other)), tmp_path / "out", fewest_test=4)
    tested = [row.text for row in Corpus.open(tmp_path / "out").where(language="deu") if row.split == "test"]
    assert "neu" in tested and not {"wort train 0", "anders"} & set(tested) and len(tested) == 5
    told = json.loads((tmp_path / "out" / "layout.json").read_text())
    assert told["other_voices"] == {"radio/deu": 1}
