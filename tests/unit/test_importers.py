"""data/importers: the same five recordings come out of every format with the same ids, texts and samples."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from torch import Tensor

from allophone.data.corpus import Corpus
from allophone.data.decoding import pieces
from allophone.data.export import export_corpus
from allophone.data.folds import official_folds
from allophone.data.importers.detect import detect_format
from allophone.data.importing import import_corpus
from allophone.errors import ConfigError, DataError

Speech = Callable[..., Tensor]
TEXTS = ["un", "l'été", 'dit "oui"', "quatre, cinq", "șase"]


@pytest.fixture
def clips(tmp_path: Path, speech: Speech) -> Path:
    """``clips/0.wav`` to ``4.wav``: 0.5 to 0.9 s."""
    (tmp_path / "clips").mkdir()
    for number in range(5):
        soundfile.write(tmp_path / f"clips/{number}.wav", speech(0.5 + number / 10, seed=number).numpy(), 16_000)
    return tmp_path / "clips"


def check(corpus: Corpus, clips: Path, *, texts: bool = True, language: str = "ron_Latn") -> None:
    """All five recordings are there, whole, with their texts."""
    assert [round(row.duration_seconds, 3) for row in corpus] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert {row.language for row in corpus} == {language}
    assert [row.text for row in corpus] == (TEXTS if texts else [None] * 5)
    for number, row in enumerate(corpus):
        expected, _ = soundfile.read(clips / f"{number}.wav", dtype="float32")
        np.testing.assert_allclose(corpus.audio(row).numpy(), expected, atol=1e-4)


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_plain_folder_with_language_from_the_argument_and_texts_beside(clips: Path) -> None:
    for number, text in enumerate(TEXTS):
        (clips / f"{number}.txt").write_text(text + "\n", encoding="utf-8")
    assert detect_format(clips) == "folder"
    corpus = Corpus.open(clips, language="ro")
    check(corpus, clips)
    assert [row.id for row in corpus] == ["0", "1", "2", "3", "4"]


def test_plain_folder_with_languages_and_splits_as_folders(clips: Path, tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    for number, folder in enumerate(["fr", "swh_Latn", "train/ell", "zh-TW/test", "fr/speaker"]):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (clips / f"{number}.wav").rename(root / folder / f"{number}.wav")
    found = {(row.id, row.language, row.split) for row in Corpus.open(root)}
    assert found == {
        ("fr/0", "fra_Latn", None),
        ("swh_Latn/1", "swh_Latn", None),
        ("train/ell/2", "ell_Grek", "train"),
        ("zh-TW/test/3", "cmn_Hant", "test"),
        ("fr/speaker/4", "fra_Latn", None),
    }


def test_folder_without_a_language_says_how_to_give_one(clips: Path, tmp_path: Path) -> None:
    clips.rename(tmp_path / "corpus")
    (tmp_path / "corpus" / "wav").mkdir()  # wav is also a language, but a folder of that name is not meant so
    (tmp_path / "corpus" / "0.wav").rename(tmp_path / "corpus" / "wav" / "0.wav")
    with pytest.raises(DataError, match=r"The language of 5 recordings is not known.*--language fra"):
        Corpus.open(tmp_path / "corpus")
    assert len(Corpus.open(tmp_path / "corpus", language="und").where(language="und")) == 5


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no sound files.*it is empty"):
        Corpus.open(tmp_path, language="fra")
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(DataError, match=r"no sound files.*\.md"):
        Corpus.open(tmp_path, language="fra")
    with pytest.raises(DataError, match="no such file or folder"):
        Corpus.open(tmp_path / "gone")
    with pytest.raises(DataError, match="Cannot open a int as a corpus"):
        Corpus.open(3)
    with pytest.raises(DataError, match="neither a sound file nor a manifest"):
        Corpus.open(tmp_path / "readme.md")


def test_two_files_with_one_id_are_both_named(clips: Path) -> None:
    (clips / "0.wav").rename(clips / "0.wav.tmp")
    samples, rate = soundfile.read(clips / "0.wav.tmp")
    soundfile.write(clips / "1.flac", samples, rate)
    with pytest.raises(DataError, match=r"the id '1': .*1\.flac .* and .*1\.wav"):
        Corpus.open(clips, language="fra")


def rows_of(clips: Path) -> list[dict[str, object]]:
    return [
        {
            "file_name": f"{number}.wav",
            "sentence": text,
            "locale": "ro",
            "client_id": f"s{number % 2}",
            "age": 30 + number,
        }
        for number, text in enumerate(TEXTS)
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_audio_folder(clips: Path, kind: str) -> None:
    rows, path = rows_of(clips), clips / f"metadata.{kind}"
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        write_lines(path, [json.dumps(row) for row in rows])
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert detect_format(clips) == "audiofolder"
    corpus = Corpus.open(clips)
    check(corpus, clips)
    assert [row.speaker for row in corpus] == ["s0", "s1", "s0", "s1", "s0"]
    assert [int(row.extra["age"]) for row in corpus] == [30, 31, 32, 33, 34]


def test_common_voice_layout_splits_by_file_name(clips: Path, tmp_path: Path) -> None:
    rows = [f"s{number}\t{number}.wav\t{text}\tro" for number, text in enumerate(TEXTS)]
    write_lines(tmp_path / "dev.tsv", ["client_id\tpath\tsentence\tlocale", *rows[:2]])
    write_lines(tmp_path / "train.tsv", ["client_id\tpath\tsentence\tlocale", *rows[2:]])
    assert detect_format(tmp_path) == "split tables"
    corpus = Corpus.open(tmp_path)
    check(corpus, clips)
    assert [row.split for row in corpus] == ["dev", "dev", "train", "train", "train"]


def test_tables_with_offsets_and_ends(clips: Path, tmp_path: Path) -> None:
    lines = ["audio,lang,start,end,text", "0.wav,ro,0.1,0.3,a", "0.wav,ro,0.3,0.5,b"]
    corpus = Corpus.open(write_lines(tmp_path / "manifest.csv", lines))
    assert [(row.id, row.offset_seconds, round(row.duration_seconds, 6)) for row in corpus] == [
        ("clips/0@0.1", 0.1, 0.2),
        ("clips/0@0.3", 0.3, 0.2),
    ]
    whole, _ = soundfile.read(clips / "0.wav", dtype="float32")
    np.testing.assert_allclose(corpus.audio(corpus.utterances[1]).numpy(), whole[4_800:8_000], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("m.csv", ["sound,text", "0.wav,a"], r"no column with the path of the sound file; found \['sound', 'text'\]"),
        ("m.csv", ["path,text", "0.wav,a,b"], "line 2: more values than the 2 columns"),
        ("m.tsv", ["path\ttext", "0.wav"], "line 2: fewer values than the 2 columns"),
        ("m.csv", ["path,lang", "0.wav,xyzzy"], "line 2: Unknown language 'xyzzy'"),
        ("m.csv", ["path,lang,duration", "0.wav,fr,long"], "line 2: duration is 'long'; expected seconds"),
        ("m.jsonl", ['{"path": "0.wav"', ""], "line 1: not JSON"),
        ("m.jsonl", ["[1]"], "line 1: a list; expected one object a line"),
        ("m.jsonl", ['{"text": "a"}'], "line 1: no path of a sound file"),
        ("m.jsonl", ['{"path": "0.wav", "translations": "x"}'], "expected an object {language: text}"),
        ("m.csv", ["path,text"], "no rows"),
        ("metadata.parquet", ["not parquet"], "cannot be read as its ending says"),
    ],
)
def test_bad_tables_name_the_line(clips: Path, name: str, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Corpus.open(write_lines(clips / name, lines))


def test_a_manifest_may_name_files_that_are_gone_or_too_short(clips: Path, tmp_path: Path) -> None:
    lines = ["path,lang,duration", "0.wav,ro,", "nowhere.wav,ro,", "1.wav,ro,5.0"]
    report = import_corpus(write_lines(tmp_path / "m.csv", lines), out=tmp_path / "out", max_loss=1.0)
    assert [row.id for row in report.corpus] == ["clips/0"]
    missing, short = (item.reason for item in report.quarantined)
    assert missing.startswith("no such file")
    assert short.startswith("ends at 0.600 s, but") and "line 4 names the part from 0.000 s to 5.000 s" in short


def test_fairseq(clips: Path, tmp_path: Path) -> None:
    samples = [soundfile.info(clips / f"{number}.wav").frames for number in range(5)]
    lines = [str(clips), *(f"{number}.wav\t{samples[number]}" for number in range(5))]
    manifest = write_lines(tmp_path / "valid.tsv", lines)
    assert detect_format(manifest) == "fairseq"
    corpus = Corpus.open(manifest, language="ron")
    check(corpus, clips, texts=False)
    assert {row.split for row in corpus} == {"dev"}
    write_lines(tmp_path / "valid.ltr", [" ".join(text.replace(" ", "|")) + " |" for text in TEXTS])
    check(Corpus.open(manifest, language="ron"), clips)
    write_lines(tmp_path / "valid.wrd", TEXTS[:4])
    with pytest.raises(DataError, match=r"valid\.wrd: 4 lines, but valid\.tsv lists 5 files"):
        Corpus.open(manifest, language="ron")
    (tmp_path / "valid.wrd").unlink()
    write_lines(manifest, [*lines[:5], "4.wav\t99999"])
    with pytest.raises(DataError, match=r"ron_Latn 1 of 5 \(20\.0%\)(?s:.*)has 14400 samples, but .*line 6 says 99999"):
        Corpus.open(manifest, language="ron")
    write_lines(manifest, [*lines[:2], "1.wav"])
    with pytest.raises(DataError, match=r"line 3.*expected a path, a tab and the number of samples"):
        Corpus.open(manifest, language="ron")


@pytest.fixture
def kaldi(clips: Path, tmp_path: Path) -> Path:
    """A data folder with two recordings of which segments make five utterances, written as Kaldi's recipes have it."""
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    write_lines(folder / "wav.scp", ["rec1 clips/0.wav", f"rec2 {clips / '4.wav'}"])
    write_lines(folder / "segments", ["u1 rec1 0.0 0.2", "u2 rec1 0.2 0.5", "u3 rec2 0.10 -1"])
    write_lines(folder / "text", ["u1 un doi", "u2", "u3 trei"])
    write_lines(folder / "utt2spk", ["u1 s1", "u2 s1", "u3 s2"])
    write_lines(folder / "utt2lang", ["u1 ro", "u2 ro", "u3 fr"])
    return folder


def test_kaldi(kaldi: Path) -> None:
    assert detect_format(kaldi) == "kaldi"
    rows = Corpus.open(kaldi).utterances
    assert [(row.id, row.speaker, row.text, row.language) for row in rows] == [
        ("u1", "s1", "un doi", "ron_Latn"),
        ("u2", "s1", None, "ron_Latn"),
        ("u3", "s2", "trei", "fra_Latn"),
    ]
    assert [round(row.duration_seconds, 3) for row in rows] == [0.2, 0.3, 0.8]
    (kaldi / "segments").unlink()
    for name in ("text", "utt2spk", "utt2lang"):
        (kaldi / name).unlink()
    assert [row.id for row in Corpus.open(kaldi, language="ro")] == ["rec1", "rec2"]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("wav.scp", "rec3 sph2pipe -f wav x.sph |", r"recording 'rec3': a pipe.*never run.*Write the recordings once"),
        ("wav.scp", "rec3 raw.ark:17", "part of an archive"),
        ("wav.scp", "rec3", "no path"),
        ("wav.scp", "rec1 again.wav", "'rec1' a second time"),
        ("segments", "u4 rec9 0 1", "recording 'rec9' is not in wav.scp"),
        ("segments", "u4 rec1 0", "expected 'recording start end' in seconds"),
        ("text", "u9 nu", r"text: 1 utterances that segments does not have, first 'u9'.*fix_data_dir"),
        ("utt2lang", "u9 ro", "utt2lang: 1 utterances"),
    ],
)
def test_bad_kaldi_folders_name_the_line(kaldi: Path, name: str, line: str, message: str) -> None:
    with (kaldi / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        Corpus.open(kaldi)


def test_nemo(clips: Path, tmp_path: Path) -> None:
    rows = [
        {
            "audio_filepath": f"clips/{number}.wav",
            "duration": 0.5 + number / 10,
            "text": text,
            "lang": "ro",
            "speaker": 7,
        }
        for number, text in enumerate(TEXTS)
    ]
    manifest = write_lines(tmp_path / "train_manifest.json", [json.dumps(row) for row in rows])
    assert detect_format(manifest) == "nemo"
    corpus = Corpus.open(manifest)
    check(corpus, clips)
    assert {row.speaker for row in corpus} == {"7"}
    rows[0].update(source_lang="ro", target_lang="en", text="one")
    row = Corpus.open(write_lines(manifest, [json.dumps(rows[0])])).utterances[0]
    assert row.translations == {"eng_Latn": "one"} and row.text is None and row.language == "ron_Latn"
    with pytest.raises(DataError, match="tarred audio"):
        Corpus.open(write_lines(manifest, [json.dumps({**rows[0], "shard_id": 0})]))


def test_lhotse_cuts_as_lhotse_writes_them(clips: Path, tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    cuts = []
    for number, text in enumerate(TEXTS):
        recording = lhotse.Recording.from_file(clips / f"{number}.wav", recording_id=f"r{number}")
        spoken = lhotse.SupervisionSegment(
            id=f"s{number}", recording_id=recording.id, start=0, duration=recording.duration, text=text, language="ro",
            speaker="v", custom={"mood": "calm"},
        )  # fmt: skip
        cuts.append(recording.to_cut().with_id(f"u{number}"))
        cuts[-1].supervisions = [spoken]
    for name in ("cuts.jsonl", "cuts.jsonl.gz"):
        lhotse.CutSet.from_cuts(cuts).to_file(tmp_path / name)
        assert detect_format(tmp_path / name) == "lhotse"
        corpus = Corpus.open(tmp_path / name)
        check(corpus, clips)
        assert corpus.utterances[0].id == "u0" and corpus.utterances[0].extra == {"mood": "calm"}
    part = cuts[4].truncate(offset=0.25, duration=0.5)
    lhotse.CutSet.from_cuts([part.with_id("part")]).to_file(tmp_path / "part.jsonl")
    row = Corpus.open(tmp_path / "part.jsonl").utterances[0]
    assert (row.offset_seconds, row.duration_seconds) == (0.25, 0.5)


def lhotse_cut(clips: Path, **changes: object) -> dict[str, object]:
    recording = {
        "id": "r", "sources": [{"type": "file", "channels": [0], "source": str(clips / "0.wav")}],
        "sampling_rate": 16_000, "num_samples": 8_000, "duration": 0.5,
    }  # fmt: skip
    cut = {"id": "c", "start": 0.0, "duration": 0.5, "channel": 0, "recording": recording, "type": "MonoCut"}
    for key, value in changes.items():
        (recording if key in recording or key == "transforms" else cut)[key] = value
    return cut


def test_lhotse_supervisions_inside_a_cut_are_utterances(clips: Path, tmp_path: Path) -> None:
    spoken = [{"id": "s1", "start": 0.0, "duration": 0.2, "text": "a"}, {"id": "s2", "start": 0.2, "duration": 0.3}]
    path = write_lines(tmp_path / "cuts.jsonl", [json.dumps(lhotse_cut(clips, supervisions=spoken))])
    rows = Corpus.open(path, language="ro").utterances
    assert [(row.id, row.offset_seconds, row.text) for row in rows] == [("s1", 0.0, "a"), ("s2", 0.2, None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": [{"type": "command", "channels": [0], "source": "rm -rf x"}]}, "'command' source.*never run"),
        ({"sources": [{"type": "url", "channels": [0], "source": "http://x"}]}, "'url' source; expected a file"),
        (
            {"sources": [{"type": "file", "channels": [0, 1], "source": "x.wav"}]},
            r"channel 0 of a file with channels \[0, 1\]",
        ),
        ({"sources": []}, "a recording in 0 files"),
        ({"transforms": [{"name": "Speed"}]}, "transformed on the fly.*save_audios"),
        ({"type": "MixedCut"}, "a MixedCut"),
        ({"recording": None}, "not a cut with its recording"),
    ],
)
def test_lhotse_cuts_that_are_not_plain_files_are_refused(
    clips: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with gzip.open(tmp_path / "cuts.jsonl.gz", "wt") as file:
        file.write(json.dumps(lhotse_cut(clips, **changes)) + "\n")
    with pytest.raises(DataError, match=message):
        Corpus.open(tmp_path / "cuts.jsonl.gz", language="ro")


def test_hugging_face_datasets(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = [str(clips / f"{number}.wav") for number in range(5)]
    columns = {"audio": paths, "text": TEXTS, "id": [1, 1, 2, 2, 3], "lang_id": [0] * 5}
    labels = datasets.ClassLabel(names=["ro_ro"])
    dataset = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio()).cast_column("lang_id", labels)
    assert detect_format(dataset) == "huggingface"
    corpus = Corpus.open(dataset)
    check(corpus, clips)
    assert [row.id for row in corpus] == [f"row-{number:07d}" for number in range(5)]  # its own ids repeat
    embedded = [{"bytes": Path(path).read_bytes(), "path": Path(path).name} for path in paths]
    held = datasets.Dataset.from_dict({"audio": embedded, "text": TEXTS}).cast_column("audio", datasets.Audio())
    datasets.DatasetDict(validation=held).save_to_disk(tmp_path / "saved")
    assert detect_format(tmp_path / "saved") == "huggingface"
    report = import_corpus(tmp_path / "saved", out=tmp_path / "out", language="ro")
    check(Corpus.open(tmp_path / "out"), clips)
    assert {row.split for row in report.corpus} == {"dev"} and report.corpus.utterances[0].path.startswith("audio/")
    check(Corpus.open(held, language="ro"), clips)
    with pytest.raises(DataError, match=r"no Audio column.*cast_column"):
        Corpus.open(datasets.Dataset.from_dict({"audio": paths}))
    with pytest.raises(DataError, match="row 0: the Audio column holds neither"):
        Corpus.open(datasets.Dataset.from_dict({"audio": [None]}).cast_column("audio", datasets.Audio()))


def test_long_recordings_are_cut_where_it_is_quiet(tmp_path: Path, speech: Speech) -> None:
    samples = speech(70).numpy()
    for quiet in (22, 45):
        samples[quiet * 16_000 : quiet * 16_000 + 4_000] *= 0.001
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="FLOAT")
    rows = Corpus.open(tmp_path / "long.wav", language="ro").utterances
    assert [row.id for row in rows] == ["long-0000", "long-0001", "long-0002"]
    assert 22 <= rows[1].offset_seconds <= 22.25 and 45 <= rows[2].offset_seconds <= 45.25
    assert sum(row.duration_seconds for row in rows) == 70 and max(row.duration_seconds for row in rows) <= 30


@pytest.mark.parametrize("seconds", [0.5, 2.0, 2.01, 2.4, 2.6, 9.9, 20.0])
def test_pieces_are_the_whole_stream(speech: Speech, seconds: float) -> None:
    samples = speech(seconds).numpy()
    found = list(pieces(iter(np.array_split(samples, 7)), 16_000, 2.0))
    np.testing.assert_array_equal(np.concatenate([piece for _, piece in found]), samples)
    assert [start for start, _ in found] == np.cumsum([0, *(len(piece) for _, piece in found)])[:-1].tolist()
    assert max(len(piece) for _, piece in found) <= 32_000 and min(len(piece) for _, piece in found) >= 8_000 - 1


def test_a_text_is_kept_up_to_a_minute_and_counted_when_lost(tmp_path: Path, speech: Speech) -> None:
    for name, seconds in (("kept", 40), ("lost", 65)):
        soundfile.write(tmp_path / f"{name}.flac", speech(seconds).numpy(), 16_000)
        (tmp_path / f"{name}.txt").write_text("words")
    report = import_corpus(tmp_path, out=tmp_path / "out", language="ro")
    assert [(row.id, row.text) for row in report.corpus][:2] == [("kept", "words"), ("lost-0000", None)]
    assert report.texts_lost == 1


@pytest.mark.parametrize(
    ("to", "name"), [("tsv", "out.tsv"), ("nemo", "out.json"), ("lhotse", "out.jsonl"), ("audiofolder", "out")]
)
def test_what_is_exported_is_imported_again(clips: Path, tmp_path: Path, to: str, name: str) -> None:
    write_lines(clips / "metadata.jsonl", [json.dumps(row) for row in rows_of(clips)])
    corpus = Corpus.open(clips)
    again = Corpus.open(export_corpus(corpus, tmp_path / name, to=to))  # type: ignore[arg-type]
    check(again, clips)
    assert [(row.id, row.speaker, row.sha256) for row in again] == [(row.id, row.speaker, row.sha256) for row in corpus]
    with pytest.raises(ConfigError, match="Did you mean 'nemo'"):
        export_corpus(corpus, tmp_path / "x", to="nem")  # type: ignore[arg-type]


@pytest.mark.parametrize(("to", "name"), [("tsv", "out.tsv"), ("nemo", "out.json"), ("audiofolder", "out")])
def test_export_keeps_all_that_is_known(clips: Path, tmp_path: Path, to: str, name: str) -> None:
    (clips / "0.wav").rename(clips / "two  spaces.wav")
    row = {"path": "two  spaces.wav", "id": "two  spaces", "lang": "ro", "translations": {"fra_Latn": 'dit "oui"'}}
    more = {"split": "dev", "source": "a radio", "licence": "CC0-1.0", "synthetic": True, "label": "x", "group": "g"}
    corpus = Corpus.open(write_lines(clips / "m.jsonl", [json.dumps(row | more)]))
    (again,) = Corpus.open(export_corpus(corpus, tmp_path / name, to=to))  # type: ignore[arg-type]
    kept = ("id", "translations", *more) if to == "audiofolder" else ("id", "path", "translations", *more)
    assert [getattr(again, key) for key in kept] == [getattr(corpus.utterances[0], key) for key in kept]


def test_names_that_tsv_cannot_hold_are_refused(clips: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"path": "0.wav", "lang": "ro", "id": "a\tb"})]
    corpus = Corpus.open(write_lines(clips / "m.jsonl", lines))
    with pytest.raises(DataError, match=r"id 'a\\tb' has a tab or an end of line"):
        export_corpus(corpus, tmp_path / "out.tsv", to="tsv")


def test_further_columns_of_any_kind_are_kept(clips: Path, tmp_path: Path) -> None:
    extras = [{"score": 1, "meta": {}}, {"score": "n/a", "meta": {"a": {}}}, {"score": {"x": 1}, "big": 2**70}]
    lines = [json.dumps({"path": f"{n}.wav", "lang": "ro", **extra}) for n, extra in enumerate(extras)]
    import_corpus(write_lines(clips / "m.jsonl", lines), out=tmp_path / "out")
    rows = Corpus.open(tmp_path / "out").utterances
    assert [row.extra for row in rows] == [{"score": "1"}, {"score": "n/a"}, {"score": '{"x": 1}', "big": str(2**70)}]


def test_a_duration_that_is_no_number_is_set_aside(clips: Path) -> None:
    lines = ["path,lang,duration,offset", "0.wav,ro,nan,", "1.wav,ro,,inf", "2.wav,ro,,"]
    corpus = Corpus.open(write_lines(clips / "m.csv", lines), max_loss=1.0)
    assert len(corpus) == 1 and len(corpus.quarantined) == 2
    assert "line 2 names nan s from 0.0 s; expected numbers" in corpus.quarantined[0].reason


def test_folds_are_numbers(clips: Path) -> None:
    lines = ["path,lang,fold", *(f"{n}.wav,ro,{fold}" for n, fold in enumerate(("1", "02", "2")))]
    assert official_folds(Corpus.open(write_lines(clips / "m.csv", lines))) == (1, 2)
    with pytest.raises(DataError, match=r"the column 'fold' has \['test', 'train'\]; expected numbers"):
        official_folds(Corpus.open(write_lines(clips / "m.csv", ["path,lang,fold", "0.wav,ro,train", "1.wav,ro,test"])))


def test_common_voice_in_several_languages(clips: Path, tmp_path: Path) -> None:
    for code, head, row in (
        ("fr", "client_id\tpath\tsentence\tlocale", "one\t0.wav\tun\tfr"),
        ("zh-CN", "client_id\tpath\tsentence", "two\t0.wav\t一"),
    ):
        shutil.copytree(clips, tmp_path / "cv" / code / "clips")
        for split in ("train", "test"):
            write_lines(tmp_path / "cv" / code / f"{split}.tsv", [head, row.replace("0.wav", f"{len(split)}.wav")])
        write_lines(tmp_path / "cv" / code / "validated.tsv", [head, row])
    (tmp_path / "cv" / "notes").mkdir()
    clips = tmp_path / "cv" / "fr" / "clips"
    shutil.copy(clips / "4.wav", clips / "5.wav")
    shutil.copy(clips / "4.wav", tmp_path / "cv" / "zh-CN" / "clips" / "5.wav")
    assert detect_format(tmp_path / "cv") == "split tables"
    rows = Corpus.open(tmp_path / "cv").utterances
    assert [(row.id, row.language, row.split, row.text) for row in rows] == [
        ("fr/clips/4", "fra_Latn", "test", "un"),
        ("fr/clips/5", "fra_Latn", "train", "un"),
        ("zh-CN/clips/4", "cmn_Hans", "test", "一"),
        ("zh-CN/clips/5", "cmn_Hans", "train", "一"),
    ]
    assert [row.id for row in Corpus.open(tmp_path / "cv" / "fr")] == ["clips/4", "clips/5"]
    (tmp_path / "cv" / "sw" / "clips").mkdir(parents=True)
    with pytest.raises(DataError, match=r"sw holds clips and no train.tsv"):
        Corpus.open(tmp_path / "cv")


def test_progress_and_threads(clips: Path) -> None:
    seen: list[tuple[int, int]] = []
    one = Corpus.open(clips, language="ro", workers=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert Corpus.open(clips, language="ro", workers=4).hash == one.hash


def test_a_part_must_lie_in_the_file(clips: Path) -> None:
    for offset, duration, reason in (
        (-1, 1, "names 1.0 s from -1.0 s"),
        (0.1, -1, "duration above 0"),
        (9, 1, "ends at"),
    ):
        line = json.dumps({"path": "0.wav", "lang": "ro", "offset": offset, "duration": duration})
        corpus = Corpus.open(write_lines(clips / "m.jsonl", [line]), max_loss=1.0)
        assert len(corpus) == 0 and reason in corpus.quarantined[0].reason


def test_texts_that_are_not_utf8_and_manifests_without_rows(clips: Path, tmp_path: Path) -> None:
    (clips / "0.txt").write_bytes("l'été".encode("latin-1"))
    with pytest.raises(DataError, match=r"0\.txt: not UTF-8"):
        Corpus.open(clips, language="fr")
    write_lines(tmp_path / "empty.jsonl", [""])
    with pytest.raises(DataError, match="no rows; expected one an utterance"):
        Corpus.open(tmp_path / "empty.jsonl")


def test_hugging_face_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match="pip install datasets"):
        Corpus.open(tmp_path)
