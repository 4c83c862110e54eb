"""The starter corpus that ships with the project: complete, leak-safe, small."""

import hashlib
import json
import random
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from allophone.data.corpus import Corpus
from allophone.models.text_teacher import load_teacher_table

STARTER = Path(__file__).parents[2] / "starter"
CORPUS = STARTER / "src/allophone_starter/corpus"
SECOND_VOICES = {
    "asterisk-prompt-it-menardi": "menardi-ita-1",
    "asterisk-prompt-fr-armelle": "armelle-fra-1",
    "asterisk-prompt-es-co": "avatar-spa-1",
    "festvox-ru": "festvox-rus-nsh",
}
pytestmark = pytest.mark.skipif(not (CORPUS / "corpus.parquet").exists(), reason="the starter corpus is not built")


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return pq.read_table(CORPUS / "corpus.parquet")


@pytest.fixture(scope="module")
def rows(table: pa.Table) -> list[dict]:
    return table.drop_columns(["translations"]).to_pylist()


@pytest.fixture(scope="module")
def build_scripts(monkeypatch_module: pytest.MonkeyPatch) -> None:
    monkeypatch_module.syspath_prepend(str(STARTER / "build"))


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    for name in ("splits", "records", "languages"):
        sys.modules.pop(name, None)


def test_schema(table: pa.Table) -> None:
    expected = {
        "id": pa.string(),
        "path": pa.string(),
        "offset_seconds": pa.float64(),
        "duration_seconds": pa.float64(),
        "sample_rate": pa.int32(),
        "language": pa.string(),
        "speaker": pa.string(),
        "text": pa.string(),
        "label": pa.string(),
        "group": pa.string(),
        "translations": pa.map_(pa.string(), pa.string()),
        "split": pa.string(),
        "source": pa.string(),
        "licence": pa.string(),
        "synthetic": pa.bool_(),
        "sha256": pa.string(),
    }
    for name, kind in expected.items():
        assert table.schema.field(name).type == kind, name


def test_rows_are_sane(rows: list[dict]) -> None:
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["split"] for row in rows} == {"train", "dev", "test"}
    assert {row["sample_rate"] for row in rows} == {16_000}
    assert not any(row["synthetic"] for row in rows)
    assert all(0.1 < row["duration_seconds"] < 120 for row in rows)
    assert all(row["text"] is None or row["text"].strip() for row in rows)


def test_every_file_exists_once_and_nothing_else_lies_there(rows: list[dict]) -> None:
    on_disk = {path.relative_to(CORPUS).as_posix() for path in (CORPUS / "audio").rglob("*") if path.is_file()}
    assert on_disk == {row["path"] for row in rows}


def test_sums_of_a_sample(rows: list[dict]) -> None:
    for row in random.Random(0).sample(rows, 200):
        assert hashlib.sha256((CORPUS / row["path"]).read_bytes()).hexdigest() == row["sha256"], row["id"]


def test_audio_of_a_sample_decodes_to_its_duration(rows: list[dict]) -> None:
    soundfile = pytest.importorskip("soundfile")
    for row in random.Random(1).sample(rows, 50):
        waveform, rate = soundfile.read(CORPUS / row["path"], dtype="float32")
        assert rate == 16_000 and waveform.ndim == 1
        assert len(waveform) / rate == pytest.approx(row["duration_seconds"], abs=1e-3), row["id"]
        assert abs(waveform).max() > 0.001, row["id"]


def test_json_agrees_with_the_table(rows: list[dict]) -> None:
    summary = json.loads((CORPUS / "corpus.json").read_text(encoding="utf-8"))
    lines = sorted(f"{row['id']}\t{row['sha256']}\t{row['text'] or ''}\t{row['split']}" for row in rows)
    assert summary["format"] == "allophone-corpus-1"
    assert summary["hash"] == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert summary["utterances"] == len(rows)
    assert summary["licences"] == sorted({row["licence"] for row in rows})


def test_a_group_has_one_split_in_all_languages(rows: list[dict]) -> None:
    splits = defaultdict(set)
    for row in rows:
        if row["source"] not in SECOND_VOICES:
            splits[row["group"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_equal_text_never_straddles_splits(rows: list[dict], build_scripts: None) -> None:
    from splits import normalized

    splits = defaultdict(set)
    for row in rows:
        if row["text"] and row["source"] not in SECOND_VOICES:
            splits[row["group"].split("/")[0], row["language"], normalized(row["text"])].add(row["split"])
    assert [key for key, found in splits.items() if len(found) > 1] == []


def test_second_voices_are_for_testing_only(rows: list[dict]) -> None:
    for source, speaker in SECOND_VOICES.items():
        found = [row for row in rows if row["source"] == source]
        assert found, source
        assert {(row["split"], row["speaker"]) for row in found} == {("test", speaker)}
    training = {row["speaker"] for row in rows if row["split"] != "test"}
    assert not training & set(SECOND_VOICES.values())


def test_italian_voices_share_prompts(rows: list[dict]) -> None:
    spoken = defaultdict(set)
    for row in rows:
        if row["language"] == "ita_Latn" and row["source"].startswith("asterisk"):
            spoken[row["speaker"]].add(row["group"])
    assert len(spoken["asterisk-ita-carlo"] & spoken["menardi-ita-1"]) >= 508


def test_tuxpaint_texts_are_in_many_languages(table: pa.Table) -> None:
    columns = table.select(["source", "translations"]).to_pylist()
    counts = [len(dict(row["translations"])) for row in columns if row["source"] == "tuxpaint"]
    assert min(counts) >= 20


def test_phone_labels_fit_their_recordings(rows: list[dict]) -> None:
    duration = {row["id"]: row["duration_seconds"] for row in rows if row["source"] == "festvox-ru"}
    labelled = pq.read_table(CORPUS / "phones.parquet").to_pylist()
    assert {row["id"] for row in labelled} == set(duration)
    for row in labelled:
        edges = [(phone["start_seconds"], phone["end_seconds"]) for phone in row["phones"]]
        assert all(start < end for start, end in edges)
        assert all(first[1] == pytest.approx(second[0], abs=1e-3) for first, second in pairwise(edges))
        assert edges[-1][1] <= duration[row["id"]] + 1e-3


def test_suspects_have_no_text(rows: list[dict]) -> None:
    lines = (STARTER / "build/suspect.csv").read_text(encoding="utf-8").splitlines()
    suspects = {line.split(",")[0] for line in lines[1:]}
    assert not [row["id"] for row in rows if row["id"] in suspects and row["text"]]


def test_size_and_licences() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) <= 40_000_000
    names = {path.name for path in (CORPUS / "licences").iterdir()}
    assert {"CREDITS.md", "GPL-2.0.txt", "GPL-3.0.txt", "festvox-ru.copyright.txt"} <= names


def test_teacher_vectors_are_those_of_the_corpus(table: pa.Table) -> None:
    folder = STARTER / "src/allophone_starter/teacher"
    teacher = load_teacher_table(folder)
    rows = table.select(["language", "text", "translations"]).to_pylist()
    spoken = {row["language"] for row in rows if row["text"]}
    said = {row["text"] for row in rows if row["text"]}
    said |= {text for row in rows for language, text in row["translations"] if language in spoken}
    assert teacher.dim == 384 and not teacher.missing(sorted(said)) and len(teacher.keys) > len(said)
    digest = hashlib.sha256((folder / "teacher.safetensors").read_bytes()).hexdigest()
    assert digest in (folder / "README.md").read_text(encoding="utf-8")
    assert Corpus.open(CORPUS).hash in (folder / "README.md").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in CORPUS.parent.rglob("*") if path.is_file()) <= 60_000_000


def test_split_is_a_function_of_the_component(build_scripts: None) -> None:
    from splits import components, split_by_group, split_of_key

    texts = {
        "a/1": {("eng_Latn", "A dog."), ("fra_Latn", "Un chien.")},
        "a/2": {("eng_Latn", "a  DOG!")},
        "a/3": {("fra_Latn", "un chien")},
        "a/4": {("eng_Latn", "un chien")},
        "b/1": {("eng_Latn", "A dog.")},
    }
    assert components(texts) == {"a/1": "a/1", "a/2": "a/1", "a/3": "a/1", "a/4": "a/4", "b/1": "b/1"}
    assert split_by_group(texts)["a/3"] == split_of_key("a/1")
    shares = [split_of_key(f"x/{number}") for number in range(4000)]
    assert abs(shares.count("train") / 4000 - 0.70) < 0.03
    assert abs(shares.count("test") / 4000 - 0.20) < 0.03
