"""MFCC-39 from audio in memory: ours against kaldi-native-fbank and librosa, values compared with the former."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allophone.audio.features import FULL_SCALE, mfcc39
from allophone.benchmarks.speech import recorded_clips
from allophone.benchmarks.timing import OURS, Measured, Timing, alternated
from allophone.frames import SAMPLE_RATE, samples_to_seconds

KALDI, LIBROSA = "kaldi-native-fbank", "librosa"
LARGEST_DIFFERENCE = 0.05
"""Of a cepstrum that Kaldi computes in float32, lifted: a part in a thousand of its spread."""


def run(
    *, seconds: float = 600.0, timing: Timing | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Time the features.

    Args:
        seconds: Audio in all.
        timing: Rounds and clock.
        progress: Called with (done, total) after each run of one way.

    Returns:
        See :meth:`allophone.benchmarks.timing.Measured.result`. librosa's cepstra follow other conventions (mel scale,
        windows, padding) and are timed, not compared.
    """
    timing = timing or Timing()
    clips = recorded_clips(min(seconds, 4.0) if timing.quick else seconds)
    ways: dict[str, Callable[[], Sequence[Any]]] = {OURS: lambda: [mfcc39(clip) for clip in clips]}
    missing: dict[str, str] = {}
    for name, make in ((KALDI, _kaldi), (LIBROSA, _librosa)):
        try:
            way = make(clips)
            way()  # librosa imports and compiles what it needs on its first call
        except ImportError as error:
            missing[name] = f"not installed ({error}); pip install {name}"
        else:
            ways[name] = way
    difference = None if KALDI in missing else largest_difference(ways[OURS](), ways[KALDI]())
    return Measured(
        name="mfcc",
        seconds=alternated(ways, timing.pairs, timing.now(), progress),
        amount=samples_to_seconds(sum(len(clip) for clip in clips)),
        unit="seconds of audio a second",
        equal=difference is not None and difference < LARGEST_DIFFERENCE,
        missing=missing,
        more={"largest_difference": difference, "clips": len(clips)},
    ).result()


def largest_difference(one: Sequence[Tensor], other: Sequence[np.ndarray]) -> float:
    """Between features ``(T10, 39)`` of the same clips; infinite where shapes differ."""
    if any(tuple(a.shape) != b.shape for a, b in zip(one, other, strict=True)):
        return float("inf")
    return max(float((a - torch.from_numpy(b)).abs().max()) for a, b in zip(one, other, strict=True))


def _kaldi(clips: Sequence[Tensor]) -> Callable[[], list[np.ndarray]]:
    import kaldi_native_fbank

    options = kaldi_native_fbank.MfccOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.use_energy = False
    arrays = [(clip * FULL_SCALE).numpy() for clip in clips]

    def all_clips() -> list[np.ndarray]:
        made = []
        for samples in arrays:
            computer = kaldi_native_fbank.OnlineMfcc(options)
            computer.accept_waveform(SAMPLE_RATE, samples)
            computer.input_finished()
            frames = range(computer.num_frames_ready)
            cepstra = np.stack([computer.get_frame(frame) for frame in frames])
            first = _deltas(cepstra)
            made.append(np.concatenate([cepstra, first, _deltas(first)], axis=1))
        return made

    return all_clips


def _deltas(values: np.ndarray) -> np.ndarray:
    """Slopes over five frames ``(T10, D)``, edges repeated."""
    padded = np.pad(values, ((2, 2), (0, 0)), mode="edge")
    return ((padded[3:-1] - padded[1:-3]) + 2.0 * (padded[4:] - padded[:-4])) / np.float32(10.0)


def _librosa(clips: Sequence[Tensor]) -> Callable[[], list[np.ndarray]]:
    import librosa

    arrays = [clip.numpy() for clip in clips]

    def all_clips() -> list[np.ndarray]:
        made = []
        for samples in arrays:
            cepstra = librosa.feature.mfcc(
                y=samples, sr=SAMPLE_RATE, n_mfcc=13, n_fft=512, win_length=400, hop_length=160, n_mels=23, center=False
            )
            width = min(9, (cepstra.shape[1] - 1) // 2 * 2 + 1)
            first = librosa.feature.delta(cepstra, width=width)
            made.append(np.concatenate([cepstra, first, librosa.feature.delta(cepstra, width=width, order=2)]).T)
        return made

    return all_clips
