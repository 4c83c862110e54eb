"""Decode any package recording to 16 kHz mono, and trim its silence."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
from records import AudioRef

SAMPLE_RATE = 16_000
FRAME_SECONDS = 0.01
MARGIN_SECONDS = 0.06
SILENCE_DB = -45.0


class BrokenAudio(Exception):
    """A recording cannot be decoded or holds no sound; the message says why."""


def decode(ref: AudioRef) -> tuple[np.ndarray, int]:
    """Read a recording as mono float32 at its own rate.

    Args:
        ref: Where the samples are.

    Returns:
        Waveform, shape ``(samples,)``, and its sample rate in Hz.

    Raises:
        BrokenAudio: The file cannot be decoded or is empty.
    """
    try:
        if ref.path.suffix == ".g722":
            waveform, rate = _decode_g722(ref.path), SAMPLE_RATE
        else:
            waveform, rate = soundfile.read(_open(ref), dtype="float32", always_2d=True)
            waveform = waveform.mean(axis=1)
    except (soundfile.LibsndfileError, av.FFmpegError, OSError) as error:
        raise BrokenAudio(f"{ref.path}: cannot be decoded: {error}") from error
    stop = None if ref.end_seconds is None else round(ref.end_seconds * rate)
    waveform = waveform[round(ref.start_seconds * rate) : stop]
    if not len(waveform) or not np.isfinite(waveform).all() or not np.abs(waveform).max() > 0:
        raise BrokenAudio(f"{ref.path}: no sound in it ({len(waveform)} samples)")
    return waveform, rate


def _open(ref: AudioRef) -> io.BytesIO | Path:
    """The whole file, or the bytes of one archive member."""
    if ref.byte_size is None:
        return ref.path
    with ref.path.open("rb") as archive:
        archive.seek(ref.byte_offset)
        return io.BytesIO(archive.read(ref.byte_size))


def _decode_g722(path: Path) -> np.ndarray:
    """Decode a raw G.722 stream, which libsndfile cannot read."""
    with av.open(str(path), format="g722") as container:
        blocks = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    if not blocks:
        raise BrokenAudio(f"{path}: no frames")
    return np.concatenate(blocks).astype(np.float32) / 32_768


def to_16_khz(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Resample to 16 kHz. Shape ``(samples,)`` in and out, float32."""
    return waveform if rate == SAMPLE_RATE else soxr.resample(waveform, rate, SAMPLE_RATE, quality="HQ")


def speech_span(waveform: np.ndarray, rate: int) -> tuple[int, int]:
    """First and one-past-last sample of the sounding part, with a margin of 60 ms.

    A frame of 10 ms sounds when its energy is within 45 dB of the loudest frame.
    """
    hop = round(FRAME_SECONDS * rate)
    count = max(1, len(waveform) // hop)
    frames = np.resize(waveform, count * hop) if len(waveform) < hop else waveform[: count * hop]
    level = 10 * np.log10(np.square(frames.astype(np.float64)).reshape(count, hop).mean(axis=1) + 1e-12)
    sounding = np.flatnonzero(level > level.max() + SILENCE_DB)
    margin = round(MARGIN_SECONDS * rate)
    return max(0, int(sounding[0]) * hop - margin), min(len(waveform), (int(sounding[-1]) + 1) * hop + margin)


def load_trimmed(ref: AudioRef) -> tuple[np.ndarray, int, float]:
    """Decode, resample to 16 kHz and trim.

    Returns:
        Waveform at 16 kHz, shape ``(samples,)``, float32 in [-1, 1]; the original rate in Hz; the seconds cut
        off the beginning.

    Raises:
        BrokenAudio: The file cannot be decoded or is empty.
    """
    waveform, rate = decode(ref)
    waveform = to_16_khz(waveform, rate)
    start, stop = speech_span(waveform, SAMPLE_RATE)
    return np.clip(waveform[start:stop], -1.0, 1.0), rate, start / SAMPLE_RATE
