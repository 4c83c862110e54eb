"""How one utterance sounds, in figures: level, clipping, silence, noise, and a fingerprint that finds its copies.

Shape letters: N samples at the file's own rate, S samples at 16 kHz, T frames.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from allophone.audio.io import Samples, to_16k
from allophone.data.decoding import samples_sha256
from allophone.frames import SAMPLE_RATE

Array = npt.NDArray[np.float32]

FULL_SCALE = 0.999
"""Samples at or above this are at the limit of what the file can hold."""
SILENCE_BELOW_DB = 35.0
"""A frame this far below the utterance's loud frames is silence."""
SILENCE_FLOOR_DB = -70.0
"""A frame below this level (full scale = 0 dB) is silence in any case."""
NUM_BANDS, NUM_SEGMENTS = 20, 24

_FRAME = SAMPLE_RATE // 50
_WINDOW, _HOP = 512, 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Figures of one utterance."""

    sha256: str
    """Of the samples as stored (mono, 16 bit)."""
    peak: float
    clipped_share: float
    """Share of samples at full scale."""
    silence_share: float
    """Share of 20 ms frames without sound."""
    snr_db: float
    """Loud frames over quiet frames: a rough signal-to-noise ratio, 0 to 60 dB, too low where nobody pauses."""
    fingerprint: Array
    """Shape ``(NUM_BANDS * NUM_SEGMENTS,)``, unit length; zeros for a constant signal."""


def measure(samples: Samples, sample_rate: int) -> Measurement:
    """Measure mono samples, shape ``(N,)``, at least 25 ms at ``sample_rate`` Hz."""
    waveform = to_16k(samples, sample_rate)
    level = _frame_levels(waveform)
    loud = float(np.percentile(level, 95))
    quiet = float(np.percentile(level, 10))
    silent = level < max(loud - SILENCE_BELOW_DB, SILENCE_FLOOR_DB)
    speech = level[level >= (loud + quiet) / 2]
    signal = 10.0 * np.log10(max(float(np.mean(10.0 ** (speech / 10.0))) - 10.0 ** (quiet / 10.0), 1e-12))
    return Measurement(
        sha256=samples_sha256(samples),
        peak=float(np.abs(samples).max()),
        clipped_share=float(np.mean(np.abs(samples) >= FULL_SCALE)),
        silence_share=float(silent.mean()),
        snr_db=float(np.clip(signal - quiet, 0.0, 60.0)),
        fingerprint=fingerprint(waveform),
    )


def fingerprint(waveform: Array) -> Array:
    """Coarse picture of an utterance that survives another codec, rate or gain, but not other words or another voice.

    Log energies in 20 mel bands, averaged in 24 equal stretches of time, without each band's mean, to unit length.

    Args:
        waveform: Shape ``(S,)``, 16 kHz, at least 400 samples.

    Returns:
        Float32, shape ``(480,)``. The dot product of two is their similarity, 1 for copies.
    """
    padded = np.pad(waveform, (0, max(0, _WINDOW - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(_WINDOW).astype(np.float32), axis=1)))
    energy = power @ _mel_bands()
    energy = np.log(energy + 1e-4 * max(float(energy.max()), 1e-12))
    edges = np.linspace(0, len(energy), NUM_SEGMENTS + 1)
    parts = [
        energy[int(low) : max(int(np.ceil(high)), int(low) + 1)].mean(axis=0) for low, high in itertools.pairwise(edges)
    ]
    picture = np.stack(parts)
    picture = (picture - picture.mean(axis=0)).ravel()
    norm = float(np.linalg.norm(picture))
    return np.asarray(picture / norm if norm > 1e-6 else np.zeros_like(picture), dtype=np.float32)


def similar_pairs(
    fingerprints: Array, seconds: npt.NDArray[np.float64], threshold: float
) -> list[tuple[int, int, float]]:
    """Pairs of utterances whose fingerprints agree and whose durations differ by at most 3 % or 0.05 s.

    Args:
        fingerprints: Shape ``(utterances, 480)``.
        seconds: Durations. Shape ``(utterances,)``.
        threshold: Least similarity.

    Returns:
        ``(first, second, similarity)`` with first < second, in order.
    """
    order = np.argsort(seconds, kind="stable")
    last = np.searchsorted(seconds[order], np.maximum(seconds[order] * 1.03, seconds[order] + 0.05), side="right")
    pairs: list[tuple[int, int, float]] = []
    for low in range(0, len(order), 256):
        high = min(low + 256, len(order))
        candidates = order[low : last[high - 1]]
        similarity = fingerprints[order[low:high]] @ fingerprints[candidates].T
        rows, columns = np.nonzero(similarity >= threshold)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if row < column < last[low + row] - low:
                first, second = sorted((int(order[low + row]), int(candidates[column])))
                pairs.append((first, second, float(similarity[row, column])))
    return sorted(pairs)


def _frame_levels(waveform: Array) -> npt.NDArray[np.float64]:
    """Level of each 20 ms frame in dB, full scale = 0. Shape ``(T,)``."""
    whole = max(len(waveform) // _FRAME, 1) * _FRAME
    frames = np.resize(waveform, whole) if len(waveform) < whole else waveform[:whole]
    frames = frames.reshape(-1, _FRAME)
    power = np.mean(np.square(frames - frames.mean()), axis=1, dtype=np.float64)
    return np.asarray(10.0 * np.log10(power + 1e-10))


@cache
def _mel_bands() -> Array:
    """Triangular filters from 100 Hz to 3.8 kHz, so that an 8 kHz copy looks the same. Shape ``(257, NUM_BANDS)``."""
    mel = np.linspace(1127 * np.log1p(100 / 700), 1127 * np.log1p(3800 / 700), NUM_BANDS + 2)
    centers = 700 * np.expm1(mel / 1127)
    frequency = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)[:, None]
    rising = (frequency - centers[:-2]) / (centers[1:-1] - centers[:-2])
    falling = (centers[2:] - frequency) / (centers[2:] - centers[1:-1])
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)), dtype=np.float32)
