"""Kinds of broken or unusual file: none crashes, each is usable or quarantined with its reason."""

from __future__ import annotations

import resource
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from torch import Tensor

from allophone.data.corpus import Corpus
from allophone.data.importing import import_corpus
from allophone.data.quarantine import Quarantined, require_small_loss, save_quarantine
from allophone.errors import DataError
from allophone.frames import SAMPLE_RATE

Speech = Callable[..., Tensor]

QUARANTINED = {
    "empty": "empty file (0 bytes)",
    "truncated": "truncated: its header says 2.00 s; 1.00 s can be decoded",
    "truncated_flac": "truncated or damaged",
    "text": "not audio that can be decoded",
    "nan": "holds NaN or infinite samples (first at sample 8000, 0.500 s)",
    "integers": "the loudest sample is ",
    "silence": "silent: all 2.00 s have the same value",
    "one_sample": "too short: 1 samples at 16000 Hz",
    "folder": "cannot be read: a folder or device, not a file",
    "dangling": "cannot be read: a link to",
}
USABLE = {"good": 2.0, "eight_bit": 2.0, "96_khz": 2.0, "surround": 2.0, "wrong_ending": 2.0, "over_full_scale": 2.0}


@pytest.fixture
def broken(tmp_path: Path, speech: Speech) -> Path:
    """One file of each kind, in French."""
    root = tmp_path / "recordings"
    root.mkdir()
    waveform = speech(2).numpy()
    soundfile.write(root / "good.wav", waveform, SAMPLE_RATE)
    (root / "empty.wav").touch()
    soundfile.write(root / "truncated.wav", waveform, SAMPLE_RATE)
    (root / "truncated.wav").write_bytes((root / "truncated.wav").read_bytes()[: 44 + 2 * SAMPLE_RATE])
    soundfile.write(root / "truncated_flac.flac", waveform, SAMPLE_RATE)
    whole = (root / "truncated_flac.flac").read_bytes()
    (root / "truncated_flac.flac").write_bytes(whole[: len(whole) // 2])
    (root / "text.wav").write_text("This is the transcript, not the sound. " * 100)
    soundfile.write(
        root / "nan.wav", np.where(np.arange(32_000) == 8_000, np.nan, waveform), SAMPLE_RATE, subtype="FLOAT"
    )
    soundfile.write(root / "integers.wav", waveform * 32_768, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(root / "over_full_scale.wav", waveform * 4, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(root / "silence.wav", np.zeros(32_000), SAMPLE_RATE)
    soundfile.write(root / "one_sample.wav", waveform[:1], SAMPLE_RATE)
    (root / "folder.wav").mkdir()
    (root / "dangling.wav").symlink_to(root / "gone.wav")
    soundfile.write(root / "eight_bit.wav", waveform, SAMPLE_RATE, subtype="PCM_U8")
    soundfile.write(root / "96_khz.wav", np.repeat(waveform, 6), 96_000, subtype="PCM_24")
    soundfile.write(root / "surround.wav", np.stack([waveform] * 6, 1), SAMPLE_RATE, format="WAVEX")
    soundfile.write(root / "wrong_ending.flac", waveform, SAMPLE_RATE)
    (root / "wrong_ending.flac").rename(root / "wrong_ending.wav")
    return root


def test_each_is_usable_or_quarantined_with_its_reason(broken: Path, tmp_path: Path) -> None:
    report = import_corpus(broken, out=tmp_path / "out", language="fr", max_loss=1.0)
    reasons = {item.id: item.reason for item in report.quarantined}
    assert set(reasons) == set(QUARANTINED)
    for name, reason in QUARANTINED.items():
        assert reasons[name].startswith(reason), reasons[name]
    assert {row.id: pytest.approx(row.duration_seconds) for row in report.corpus} == USABLE
    good = report.corpus.audio(next(row for row in report.corpus if row.id == "good"))
    for row in report.corpus:
        waveform = report.corpus.audio(row)
        assert len(waveform) == 2 * SAMPLE_RATE
        assert np.corrcoef(waveform.numpy(), good.numpy())[0, 1] > 0.98, row.id


def test_the_quarantine_is_on_disk_for_programs_and_people(broken: Path, tmp_path: Path) -> None:
    report = import_corpus(broken, out=tmp_path / "out", language="fr", max_loss=1.0)
    rows = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert [Quarantined(**row) for row in rows] == list(report.quarantined)
    lines = (tmp_path / "out" / "quarantine.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["path", "language", "reason", "id", "offset_seconds"]
    assert len(lines) == 1 + len(QUARANTINED) and all(line.count("\t") == 4 for line in lines)
    assert Corpus.open(tmp_path / "out").hash == report.corpus.hash


def test_too_much_loss_stops_the_import_with_the_list(broken: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"fra_Latn 10 of 16 \(62\.5%\); at most 5%(?s:.*)nan\.wav: holds NaN"
    ) as caught:
        import_corpus(broken, out=tmp_path / "out", language="fr")
    assert "quarantine.tsv" in str(caught.value) and "--max-loss" in str(caught.value)
    assert (tmp_path / "out" / "quarantine.tsv").is_file() and not (tmp_path / "out" / "corpus.parquet").exists()
    with pytest.raises(DataError, match="Too many recordings cannot be used"):
        Corpus.open(broken, language="fr")


def test_loss_is_counted_per_language(tmp_path: Path, speech: Speech) -> None:
    for language, good in (("fra", 30), ("swh", 3)):
        (tmp_path / "in" / language).mkdir(parents=True)
        (tmp_path / "in" / language / "bad.wav").touch()
        for number in range(good):
            soundfile.write(tmp_path / "in" / language / f"{number}.wav", speech(0.1, seed=number).numpy(), SAMPLE_RATE)
    with pytest.raises(DataError, match=r"used: swh_Latn 1 of 4 \(25\.0%\); at most") as caught:
        Corpus.open(tmp_path / "in")
    assert "fra" not in str(caught.value).replace("allophone", "")
    corpus = Corpus.open(tmp_path / "in", max_loss=0.25)
    assert len(corpus) == 33 and {item.language for item in corpus.quarantined} == {"fra_Latn", "swh_Latn"}


def test_a_long_list_is_shortened_in_the_message(tmp_path: Path) -> None:
    items = [Quarantined(path=f"{n}.wav", language="fra_Latn", reason="a\tb\nc", id=str(n)) for n in range(25)]
    with pytest.raises(DataError, match=r"19\.wav(?s:.*)\.\.\. and 5 more"):
        require_small_loss([], items, 0.05)
    save_quarantine(items, tmp_path)
    assert (tmp_path / "quarantine.tsv").read_text().splitlines()[1] == "0.wav\tfra_Latn\ta b c\t0\t0.0"


def test_three_hours_are_cut_into_pieces_in_little_memory(tmp_path: Path) -> None:
    rate, hours = 4_000, 3
    period = (128 + 100 * np.sin(np.arange(rate * 25) * 0.3) * np.linspace(1, 0.01, rate * 25)).astype(np.uint8)
    size = rate * 3600 * hours
    header = b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate, 1, 8)
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(header + b"data" + struct.pack("<I", size))
        for _ in range(size // len(period)):
            file.write(period.tobytes())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    corpus = Corpus.open(tmp_path / "long.wav", language="fr")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60_000, f"{grown / 1000:.0f} MB for a file of {size / 1e6:.0f} MB"
    assert sum(row.duration_seconds for row in corpus) == hours * 3600
    assert max(row.duration_seconds for row in corpus) <= 30
    cuts = np.array([row.offset_seconds for row in corpus.utterances[1:]]) % 25
    assert (np.minimum(cuts, 25 - cuts) < 2.0).all()  # where it is quiet
    assert len(corpus.audio(corpus.utterances[-1])) == round(corpus.utterances[-1].duration_seconds * SAMPLE_RATE)
