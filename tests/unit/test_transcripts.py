from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_recognizer import recognizer_folder
from tiny_whisper import whisper_folder
from torch import Tensor

from allophone.data.loader import WaveformCache
from allophone.data.utterance import Utterance
from allophone.errors import CheckpointError, ConfigError, DataError
from allophone.evaluate.faster_whisper import _whisper
from allophone.evaluate.transcripts import CHUNK, load_transcriber, transcribe_all, transcriber_hash

ROWS = [
    Utterance(
        id=f"u{number}",
        path="x",
        duration_seconds=1.0,
        sample_rate=16_000,
        language="fra_Latn",
        sha256=f"hash-{number}",
    )
    for number in range(CHUNK + 3)
]


class Steps:
    """Every utterance is a constant of its own number."""

    def audio(self, utterance: Utterance, /) -> Tensor:
        return torch.full((1_600,), int(utterance.id[1:]) / 100)


def numbers(waveforms: Sequence[Tensor]) -> list[str]:
    return [f" number\n{round(100 * float(waveform[0]))} " for waveform in waveforms]


def test_an_interrupted_transcription_goes_on(tmp_path: Path) -> None:
    cache, file = WaveformCache(Steps()), tmp_path / "deep" / "transcripts.tsv"
    calls = []

    def stops(waveforms: Sequence[Tensor]) -> list[str]:
        calls.append(len(waveforms))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return numbers(waveforms)

    with pytest.raises(KeyboardInterrupt):
        transcribe_all(ROWS, cache, stops, file)
    found = transcribe_all(ROWS, cache, lambda waves: (calls.append(len(waves)), numbers(waves))[1], file)
    assert calls == [CHUNK, 3, 3]
    assert found == [f"number {number}" for number in range(CHUNK + 3)]
    with pytest.raises(DataError, match="gave 0 texts for 8 recordings"):
        transcribe_all(ROWS, cache, lambda waves: [], tmp_path / "other.tsv")


def test_a_line_that_a_kill_tore_is_written_again(tmp_path: Path) -> None:
    cache, file = WaveformCache(Steps()), tmp_path / "transcripts.tsv"
    file.write_bytes("u0\thash-0\tkept\nu1\thash-1\tnumber \u2028é".encode()[:-1])
    found = transcribe_all(ROWS[:3], cache, numbers, file)
    assert found == ["kept", "number 1", "number 2"]
    lines = ["u0\thash-0\tkept", "u1\thash-1\tnumber 1", "u2\thash-2\tnumber 2"]
    assert file.read_text(encoding="utf-8").splitlines() == lines


@pytest.mark.parametrize("sha256", ["hash-9", None])
def test_another_recording_of_the_same_id_is_transcribed_too(tmp_path: Path, sha256: str | None) -> None:
    """Also where the corpus has no hashes, and where the table is from before it had them."""
    cache, file = WaveformCache(Steps()), tmp_path / "transcripts.tsv"
    file.write_text("u0\tof an earlier version\nu0\thash-0\tof another corpus\n")
    for _ in range(2):
        assert transcribe_all([replace(ROWS[0], sha256=sha256)], cache, numbers, file) == ["number 0"]
    assert len(file.read_text().splitlines()) == 3
    assert transcribe_all(ROWS[:1], cache, numbers, file) == ["of another corpus"]


def test_a_recognizer_of_transformers(tmp_path: Path) -> None:
    recognizer_folder(tmp_path / "model")
    texts = load_transcriber(tmp_path / "model")([torch.randn(8_000), torch.randn(12_000)])
    assert texts == ["b", "b"]
    assert load_transcriber(tmp_path / "model", "fra_Latn")([torch.randn(8_000)]) == ["b"]  # it has but one language
    assert len(transcriber_hash(tmp_path / "model")) == 16
    with pytest.raises(CheckpointError, match="not a speech recognizer"):
        load_transcriber(tmp_path / "nothing")


class Several:
    """A recognizer that generates in several languages and remembers what it was told."""

    model = SimpleNamespace(
        generation_config=SimpleNamespace(lang_to_id={"<|fr|>": 1, "<|jw|>": 2, "<|zh|>": 3}),
        can_generate=lambda: True,
    )
    feature_extractor = SimpleNamespace(chunk_length=30)

    def __init__(self) -> None:
        self.options: list[dict] = []

    def __call__(self, given, batch_size: int, **options) -> list[dict[str, str]]:
        self.options.append(options)
        return [{"text": " bon  jour "}] * batch_size


def test_a_recognizer_of_several_languages_is_told_which_and_stops_in_time(monkeypatch) -> None:
    recognizer = Several()
    monkeypatch.setattr("allophone.evaluate.transcripts._recognizer", lambda folder: recognizer)
    waveforms = [torch.zeros(16_000), torch.zeros(32_000)]
    assert load_transcriber("x", "fra_Latn")(waveforms) == ["bon jour", "bon jour"]
    load_transcriber("x", "jav_Latn")(waveforms)
    load_transcriber("x")(waveforms)
    told = [one["generate_kwargs"] for one in recognizer.options[:2]]
    assert [one["language"] for one in told] == ["fr", "jw"] and told[0]["max_new_tokens"] == 48
    assert recognizer.options[2] == {"generate_kwargs": {"task": "transcribe", "max_new_tokens": 48}}
    with pytest.raises(DataError, match="not trained on spa_Latn"):
        load_transcriber("x", "spa_Latn")


def test_what_is_longer_than_the_recognizer_reads_goes_alone_and_in_its_place(monkeypatch) -> None:
    class Measures(Several):
        def __call__(self, given, batch_size: int, **options) -> list[dict[str, str]]:
            self.options.append({"batch": batch_size, **options})
            return [{"text": f"{len(one['raw']) // 16_000} s"} for one in given]

    recognizer = Measures()
    monkeypatch.setattr("allophone.evaluate.transcripts._recognizer", lambda folder: recognizer)
    seconds = (2, 31, 30, 45)
    texts = load_transcriber("x", "fra_Latn")([torch.zeros(16_000 * one) for one in seconds])
    assert texts == [f"{one} s" for one in seconds]
    assert [(one["batch"], one.get("return_timestamps", False)) for one in recognizer.options] == [
        (2, False),
        (1, True),
        (1, True),
    ]
    assert load_transcriber("x", "fra_Latn")([torch.zeros(16_000 * 40)]) == ["40 s"]


@pytest.mark.parity
def test_a_whisper_of_faster_whisper_hears_what_that_of_transformers_does(tmp_path: Path) -> None:
    converters = pytest.importorskip("ctranslate2.converters")
    peer, ours = whisper_folder(tmp_path / "transformers"), tmp_path / "faster"
    copied = ["tokenizer.json", "preprocessor_config.json"]
    converters.TransformersConverter(str(peer), copy_files=copied).convert(str(ours))
    waveforms = [torch.randn(16_000), torch.randn(16_000)]
    for language in ("fra_Latn", "jav_Latn", None):
        texts = load_transcriber(ours, language)(waveforms)
        assert [set(text) for text in texts] == [{"b"}, {"b"}]
        expected = load_transcriber(peer, language)(waveforms)
        assert all(0 <= len(text) - len(peer_text) <= 2 for text, peer_text in zip(texts, expected, strict=True))
    assert len(transcriber_hash(ours)) == 16 and transcriber_hash(ours) != transcriber_hash(peer)
    long = torch.randn(29 * 16_000)
    assert len(load_transcriber(ours)([long])[0]) == 221  # Whisper's own limit for one window
    (ours / "model.bin").write_bytes(b"torn")
    _whisper.cache_clear()
    with pytest.raises(CheckpointError, match="not a Whisper that faster-whisper can load"):
        load_transcriber(ours)


def test_languages_are_those_of_the_model_and_not_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {"<|fr|>": 1, "<|jw|>": 2}
    loaded = SimpleNamespace(
        supported_languages=["fr", "jw", "yue"],
        model=SimpleNamespace(is_multilingual=True),
        hf_tokenizer=SimpleNamespace(token_to_id=tokens.get),
    )
    monkeypatch.setattr("allophone.evaluate.faster_whisper._whisper", lambda folder: loaded)
    monkeypatch.setattr("allophone.evaluate.transcripts.is_faster_whisper", lambda folder: True)
    load_transcriber("x", "jav_Latn")
    with pytest.raises(DataError, match="not trained on yue_Hant"):
        load_transcriber("x", "yue_Hant")


def test_without_its_tokenizer_a_folder_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing. Convert it again"):
        load_transcriber(tmp_path)


def test_without_faster_whisper_its_folder_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ConfigError, match=r"pip install 'allophone\[whisper\]'"):
        load_transcriber(tmp_path, "fra")
