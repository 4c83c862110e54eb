"""The vector index: exact where small, filtered, incremental, and whole after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

pytest.importorskip("lancedb", reason="needs the extra 'search'")

from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.errors import CheckpointError, DataError, ShapeError
from allophone.recipes import search
from allophone.search.index import Entry, IndexInfo, VectorIndex, _wait

INFO = IndexInfo(model="runs/align/model", model_hash="abc", dim=16)
LANGUAGES = ("fra_Latn", "eng_Latn", "srp_Cyrl", "srp_Latn")


def rows(count: int, first: int = 0) -> tuple[list[Entry], NDArray[np.float32]]:
    entries = [
        Entry(
            key=f"c/{number}",
            id=str(number),
            corpus="c",
            path=f"/audio/it's {number}.wav",
            offset_seconds=1.5,
            duration_seconds=2.0,
            language=LANGUAGES[number % 4],
            speaker=f"o'{number % 3}",
            source=None if number % 2 else "radio",
            text=f"text {number}",
            sha256=f"hash {number}",
        )
        for number in range(first, first + count)
    ]
    vectors = np.stack([np.random.default_rng(number).standard_normal(16) for number in range(first, first + count)])
    return entries, vectors.astype(np.float32)


def filled(folder: Path, count: int = 200) -> tuple[VectorIndex, NDArray[np.float32]]:
    index = VectorIndex.create(folder, INFO)
    entries, vectors = rows(count)
    index.add(entries, vectors)
    return index, vectors


def test_it_finds_what_a_comparison_with_all_finds(tmp_path: Path) -> None:
    _, vectors = filled(tmp_path)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for query in vectors[:5] + 0.1:
        cosines = unit @ (query / np.linalg.norm(query))
        best = np.argsort(-cosines)[:7]
        found = VectorIndex.open(tmp_path).search(query, 7)
        assert [hit.entry.key for hit in found] == [f"c/{place}" for place in best]
        assert [hit.score for hit in found] == pytest.approx(cosines[best].tolist(), abs=1e-5)
    assert found[0].entry == rows(200)[0][int(best[0])]


def test_answers_are_narrowed(tmp_path: Path) -> None:
    index, vectors = filled(tmp_path)

    def languages(tag: str) -> set[str]:
        return {hit.entry.language for hit in index.search(vectors[0], 100, language=tag)}

    assert languages("fra") == languages("fr") == {"fra_Latn"} and languages("srp_Cyrl") == {"srp_Cyrl"}
    assert languages("srp") == {"srp_Cyrl", "srp_Latn"}
    found = index.search(vectors[0], 300, speaker="o'1", source="radio")
    assert len(found) == 33 and {hit.entry.speaker for hit in found} == {"o'1"}
    assert index.search(vectors[0], source="nobody") == []
    with pytest.raises(DataError, match="klingonese"):
        index.search(vectors[0], language="klingonese")


def test_rows_are_added_without_building_anew(tmp_path: Path) -> None:
    index, vectors = filled(tmp_path)
    index.refresh(exact_rows=100)
    assert index.late_rows() == 0
    entries, more = rows(10, first=200)
    index.add(entries, more)
    index.refresh(exact_rows=100)
    assert index.late_rows() == 10 and len(index) == 210  # too few to be put into cells, but found
    assert index.search(more[3], 1)[0].entry.key == "c/203"
    index.add(*rows(60, first=210))
    index.refresh(exact_rows=100, late_rows=20)
    assert index.late_rows() == 0 and index.search(more[3], 1)[0].entry.key == "c/203"
    assert [hit.entry.key for hit in index.search(vectors[5], 5)] == [
        hit.entry.key for hit in index.search(vectors[5], 5, exact=True)
    ]


def test_cells_stay_small_when_rows_are_added(tmp_path: Path) -> None:
    """Lance joins cells that are smaller than it was told; then every query looks at every row."""

    def cells() -> int:
        query = index._table.vector_search(vectors[0]).distance_type("cosine").limit(1).nprobes(10_000)
        (found,) = re.findall(r"partitions_ranked=(\d+)", _wait(query.select(["_distance"]).analyze_plan()))
        return int(found)

    index, vectors = filled(tmp_path, 2_000)
    index.build(cell_rows=100)
    assert cells() == 20
    for first in (2_000, 2_200):
        index.add(*rows(200, first=first))
        index.refresh(late_rows=0)
        assert index.late_rows() == 0 and cells() >= 18


def test_a_recording_that_was_replaced_is_there_once(tmp_path: Path) -> None:
    index, vectors = filled(tmp_path, 20)
    entries, _ = rows(1, first=7)
    index.add(entries, vectors[8:9], replaces=True)
    assert len(index) == 20 and index.known()["c/7"] == entries[0]
    assert {hit.entry.key for hit in index.search(vectors[8], 2)} == {"c/7", "c/8"}


class Loudness:
    """A speech embedder of two values."""

    dim = 2
    clock = SimpleNamespace(count=lambda samples: samples // 320)

    def embed(self, waveforms: Sequence[Tensor]) -> Tensor:
        return torch.stack([torch.stack([wave.std(), wave.abs().max()]) for wave in waveforms])


def recordings(folder: Path, **seconds: float) -> Corpus:
    """A corpus ``made`` of noise; a name ending in ``_625`` stands for an id such as ``a@6.25``."""
    folder.mkdir(exist_ok=True)
    found = []
    for name, length in seconds.items():
        samples = np.random.default_rng(int(length)).normal(0, 0.1, int(length * 16_000))
        soundfile.write(folder / f"{name}.wav", samples, 16_000)
        found.append(
            Utterance(
                id=name.replace("_625", "@6.25"),
                path=f"{name}.wav",
                duration_seconds=length,
                sample_rate=16_000,
                language="fra_Latn",
                sha256=f"{name} of {length:g} s",
            )
        )
    return Corpus(folder, tuple(found), name="made")


def test_a_recording_that_was_replaced_by_a_shorter_one_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    towers = search.Towers(speech=Loudness(), aligned=None, name="x", hash="h")  # type: ignore[arg-type]
    monkeypatch.setattr(search, "open_towers", lambda model: towers)
    folder, out = tmp_path / "recordings", tmp_path / "index"
    found = search.index_corpus("x", recordings(folder, a=28.0, a_625=2.0, b=2.0), out)
    stretches = {f"made/a@{begin}" for begin in ("0.00", "6.50", "13.00")}
    assert set(VectorIndex.open(out).known()) == {*stretches, "made/a@6.25", "made/b"} and found.added == 5
    found = search.index_corpus("x", recordings(folder, a=3.0, a_625=2.0, b=2.0), out)
    assert set(VectorIndex.open(out).known()) == {"made/a", "made/a@6.25", "made/b"}
    assert (found.rows, found.added) == (3, 1)
    found = search.index_corpus("x", recordings(folder, a=28.0, a_625=2.0, b=2.0), out)
    assert set(VectorIndex.open(out).known()) == {*stretches, "made/a@6.25", "made/b"}
    with pytest.raises(DataError, match="got another recording"):
        search.index_corpus("x", recordings(tmp_path / "others", a=4.0), out)


def test_what_a_corpus_tells_otherwise_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corrected text, language or speaker; nothing is embedded again, and answers are narrowed by what holds now."""
    embedded: list[int] = []

    class Counting(Loudness):
        def embed(self, waveforms: Sequence[Tensor]) -> Tensor:
            embedded.append(len(waveforms))
            return super().embed(waveforms)

    towers = search.Towers(speech=Counting(), aligned=None, name="x", hash="h")  # type: ignore[arg-type]
    monkeypatch.setattr(search, "open_towers", lambda model: towers)
    corpus, out = recordings(tmp_path / "recordings", a=28.0, b=2.0, c=3.0), tmp_path / "index"
    search.index_corpus("x", corpus, out)
    before = VectorIndex.open(out)
    vectors, heard = dict(zip(*_columns(before), strict=True)), sum(embedded)
    first, second, third = corpus.utterances
    told = replace(first, text="it's right", language="srp_Cyrl", speaker="somebody")
    found = search.index_corpus("x", corpus.with_utterances((told, replace(second, source="radio"), third)), out)
    assert (found.rows, found.added, found.described) == (5, 0, 4) and sum(embedded) == heard
    index = VectorIndex.open(out)
    assert dict(zip(*_columns(index), strict=True)) == vectors
    asked = np.ones(2, dtype=np.float32)
    hits = index.search(asked, 9, language="srp", speaker="somebody")
    assert len(hits) == 3 and {hit.entry.text for hit in hits} == {"it's right"}
    assert [hit.entry.id for hit in index.search(asked, 9, source="radio")] == ["b"]
    assert [hit.entry.id for hit in index.search(asked, 9, language="fra", source="radio")] == ["b"]
    assert search.index_corpus("x", corpus, out).described == 4  # and back


def _columns(index: VectorIndex) -> tuple[list[str], list[list[float]]]:
    """Keys, and their vectors."""
    table = _wait(index._table.query().select(["key", "vector"]).to_arrow())
    return table["key"].to_pylist(), table["vector"].to_pylist()


def test_vectors_of_another_model_and_bad_rows_are_refused(tmp_path: Path) -> None:
    index, vectors = filled(tmp_path, 5)
    with pytest.raises(CheckpointError, match=r"holds vectors of model abc .* got model other"):
        VectorIndex.create(tmp_path, IndexInfo(model="m", model_hash="other", dim=16))
    with pytest.raises(ShapeError, match=r"query has shape \(3,\); expected \(16,\)"):
        index.search(vectors[0, :3])
    entries, more = rows(2, first=5)
    with pytest.raises(ShapeError, match="expected one each of 16 values"):
        index.add(entries, more[:1])
    with pytest.raises(DataError, match="'c/6' is zero or not finite"):
        index.add(entries, more * [[1], [0]])
    with pytest.raises(DataError, match="two of 2 entries"):
        index.add([entries[0]] * 2, more)
    with pytest.raises(DataError, match="Make one with `allophone index`"):
        VectorIndex.open(tmp_path / "nothing")
    (tmp_path / "index.json").write_text(json.dumps({"format": "x"}))
    with pytest.raises(DataError, match="format is 'x'"):
        VectorIndex.open(tmp_path)
    assert len(index) == 5


WRITER = """
import sys
from pathlib import Path
from test_index import INFO, rows
from allophone.search.index import VectorIndex
index = VectorIndex.create(Path(sys.argv[1]), INFO)
print("open", flush=True)
for number in range(10_000):
    index.add(*rows(40, first=40 * number))
    if number % 5 == 4:
        index.refresh(exact_rows=100)
    print(number, flush=True)
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_writer_leaves_whole_batches(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "index"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert writer.stdout is not None
    done = -1
    for line in writer.stdout:
        done = int(line) if line.strip() != "open" else -1
        if done >= 3 + 2 * seed:
            break
    time.sleep(float(np.random.default_rng(seed).uniform(0, 0.05)))
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    index = VectorIndex.open(folder)
    count = len(index)
    assert count % 40 == 0 and count >= 40 * (done + 1)
    assert index.known().keys() == {f"c/{number}" for number in range(count)}
    entries, vectors = rows(40, first=count)
    index.add(entries, vectors)
    index.refresh(exact_rows=100)
    assert index.search(vectors[0], 1)[0].entry.key == f"c/{count}" and len(index) == count + 40
