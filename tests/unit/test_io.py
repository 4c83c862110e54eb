"""audio/io and audio/truncation: decoding is exact, parts are where they should be, every bad file says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from allophone.audio.io import audio_blocks, load_audio, probe_audio, to_16k, to_waveform
from allophone.errors import AudioError

Speech = Callable[..., Tensor]
CONTAINERS = [
    ("a.wav", {}, 0.0001),
    ("a.flac", {}, 0.0001),
    ("a.aiff", {}, 0.0001),
    ("a.au", {}, 0.0001),
    ("a.ogg", {}, 0.1),
    ("a.mp3", {}, 0.1),
    ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 0.1),
]


def write(path: Path, samples: Tensor, rate: int = 16_000, **options: str) -> Path:
    soundfile.write(path, samples.numpy(), rate, **options)
    return path


@pytest.mark.parametrize(("name", "options", "tolerance"), CONTAINERS)
def test_decodes_what_was_written(tmp_path: Path, speech: Speech, name: str, options: dict, tolerance: float) -> None:
    waveform = speech(1.5)
    path = write(tmp_path / name, waveform, **options)
    decoded = load_audio(path)
    assert decoded.dtype == torch.float32 and decoded.shape == waveform.shape
    assert (decoded - waveform).abs().mean() < tolerance * waveform.abs().mean() + 2 / 32768
    assert probe_audio(path).duration_seconds == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize(("name", "options", "tolerance"), CONTAINERS)
def test_a_file_cut_short_is_truncated(
    tmp_path: Path, speech: Speech, name: str, options: dict, tolerance: float
) -> None:
    path = write(tmp_path / name, speech(3), **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(AudioError, match="truncated"):
        load_audio(path)


def test_a_part_is_the_slice_of_the_whole(tmp_path: Path, speech: Speech) -> None:
    path = write(tmp_path / "a.wav", speech(2))
    whole, part = load_audio(path), load_audio(path, offset_seconds=0.5, duration_seconds=0.25)
    assert torch.equal(part, whole[8000:12000])
    assert torch.equal(load_audio(path, offset_seconds=1.5), whole[24000:])


def test_a_part_may_end_a_little_beyond_the_end_but_not_more(tmp_path: Path, speech: Speech) -> None:
    path = write(tmp_path / "a.wav", speech(1))
    assert len(load_audio(path, offset_seconds=0.5, duration_seconds=0.55)) == 8000
    with pytest.raises(AudioError, match=r"up to 1\.500 s, but it is 1\.000 s long"):
        load_audio(path, offset_seconds=0.5, duration_seconds=1.0)
    with pytest.raises(AudioError, match="must be positive"):
        load_audio(path, offset_seconds=-1)


def test_channels_are_averaged_and_rates_resampled(tmp_path: Path, speech: Speech) -> None:
    left, right = speech(1, seed=1), speech(1, seed=2)
    soundfile.write(tmp_path / "a.wav", torch.stack([left, right], 1).numpy(), 16_000, subtype="FLOAT")
    torch.testing.assert_close(load_audio(tmp_path / "a.wav"), (left + right) / 2)
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(44_100) / 44_100) * 0.5
    resampled = load_audio(write(tmp_path / "b.wav", tone, 44_100, subtype="FLOAT"))
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000) * 0.5
    torch.testing.assert_close(resampled[800:-800], expected[800:-800], atol=1e-3, rtol=0)


def test_blocks_are_the_whole_file_and_never_long(tmp_path: Path, speech: Speech) -> None:
    waveform = speech(25)
    blocks = list(audio_blocks(write(tmp_path / "a.flac", waveform)))
    assert max(map(len, blocks)) <= 160_000 and len(blocks) == 3
    np.testing.assert_allclose(np.concatenate(blocks), waveform.numpy(), atol=1 / 32768)


def test_content_counts_not_the_ending(tmp_path: Path, speech: Speech) -> None:
    flac = write(tmp_path / "a.flac", speech(1))
    for name in ("a.wav", "a.mp3", "a.m4a", "a"):
        flac.rename(tmp_path / name)
        flac = tmp_path / name
        assert probe_audio(flac).format == "FLAC" and len(load_audio(flac)) == 16_000


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a folder or device"),
        (lambda path: path.symlink_to(path.with_name("gone.wav")), r"a link to .*gone\.wav, which does not exist"),
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_text("hello " * 500), "not audio that can be decoded"),
        (lambda path: write(path, torch.tensor([0.5])), "only 1 samples"),
        (lambda path: write(path, torch.tensor([0.1, float("nan")] * 800), subtype="FLOAT"), r"NaN.*at sample 1, "),
        (lambda path: write(path, torch.tensor([0.1, float("inf")] * 800), subtype="FLOAT"), "infinite samples"),
        (lambda path: write(path, torch.tensor([0.0, 17.0] * 800), subtype="FLOAT"), "17, expected -1 to 1 .*32768"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    path = tmp_path / "bad.wav"
    make(path)
    with pytest.raises(AudioError, match=f"(?s)bad.wav: .*{reason}"):
        load_audio(path)


def test_headers_of_streams_do_not_count_as_truncated(tmp_path: Path, speech: Speech) -> None:
    path = write(tmp_path / "a.wav", speech(1))
    data = bytearray(path.read_bytes())
    data[40:44] = b"\xff\xff\xff\xff"  # what ffmpeg and sox write to a pipe
    path.write_bytes(bytes(data))
    assert len(load_audio(path)) == 16_000


def test_g722_and_m4a_are_decoded_by_pyav(tmp_path: Path, speech: Speech) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((speech(2)[None].numpy() * 32767).astype("i2"), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert probe_audio(path).subtype == "AAC" and abs(len(load_audio(path)) - 32_000) < 2_500
    assert len(load_audio(path, offset_seconds=0.5, duration_seconds=0.5)) == 8_000
    raw = tmp_path / "a.g722"  # any bytes are G.722: 64 kbit/s, two samples a byte
    raw.write_bytes(np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8).tobytes())
    assert probe_audio(raw).duration_seconds == 0.5 and abs(len(load_audio(raw)) - 8_000) < 100


def test_without_pyav_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "a.g722").write_bytes(b"\x55" * 100)
    with pytest.raises(AudioError, match=r"a\.g722: PyAV is not installed.*pip install av"):
        load_audio(tmp_path / "a.g722")


def test_to_waveform_takes_what_users_have(tmp_path: Path, speech: Speech) -> None:
    waveform = speech(1)
    path = write(tmp_path / "a.wav", waveform, subtype="FLOAT")
    for audio in (path, str(path), waveform, waveform.double().numpy(), {"array": waveform, "sampling_rate": 16_000}):
        torch.testing.assert_close(to_waveform(audio), waveform)
    assert len(to_waveform({"array": waveform.numpy(), "sampling_rate": 8_000})) == 32_000
    assert len(to_16k(waveform.numpy(), 48_000)) in (5333, 5334)


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (torch.zeros(2, 800), r"shape \(2, 800\)"),
        (np.zeros(800, np.int16), "dtype int16.*divide 16-bit integers by 32768"),
        (torch.zeros(399), "399 samples"),
        (torch.full((800,), float("nan")), "NaN"),
        (torch.full((800,), 21_239.0), "the loudest sample is 21239, expected -1 to 1"),
        ({"array": torch.zeros(800)}, "expected 'array' and 'sampling_rate'"),
    ],
)
def test_to_waveform_refuses(audio: object, reason: str) -> None:
    with pytest.raises(AudioError, match=reason):
        to_waveform(audio)  # type: ignore[arg-type]
