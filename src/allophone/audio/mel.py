"""Log-mel spectrograms with filters of equal area on Slaney's scale; windows reach over both ends by reflection.

``log_mel`` is the one that vocoders are trained and judged by: amplitudes instead of energies, windows of 64 ms, with
gradients. ``whisper_log_mel`` is what Whisper hears. Kaldi's are in :mod:`~allophone.audio.features`.

Source: Kong et al. 2020, arXiv:2010.05646, section 2.3, and its published code, 16 kHz as in Polyak et al. 2021,
arXiv:2104.00355; Radford et al. 2022, arXiv:2212.04356, section 2.2, as ``transformers``' ``WhisperFeatureExtractor``.
Deviations: none. Shape letters: B batch, S samples, T frames, M mels.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from allophone.errors import AudioError, ShapeError
from allophone.frames import SAMPLE_RATE, FrameClock

FFT_SIZE, HOP = 1024, 256
"""Window and step in samples: 64 ms every 16 ms."""
FLOOR = 1e-5
"""Least amplitude before the logarithm."""
WHISPER_FFT = 400
"""Window of Whisper's log-mels in samples: 25 ms."""
WHISPER_CLOCK = FrameClock(hop=160, receptive_field=160)
"""Whisper's frames: one every 10 ms from the first sample on, each window centered there."""
WHISPER_FLOOR, WHISPER_RANGE = 1e-10, 8.0
"""Least energy, and the decades below a clip's loudest band that are kept."""


def log_mel(waveform: Tensor, num_mels: int = 80, hop: int = HOP) -> Tensor:
    """Natural logarithm of mel amplitudes.

    Args:
        waveform: Samples in [-1, 1], 16 kHz. Shape ``(S,)`` or ``(B, S)``, floating point; computed in float32.
        num_mels: Filters between 0 and 8 kHz.
        hop: Samples from frame to frame, even; frame t lies around the middle of its hop.

    Returns:
        Shape ``(T, num_mels)`` or ``(B, T, num_mels)``, T = S // hop; by default 62.5 frames a second.

    Raises:
        ShapeError: ``waveform`` is not floating point, or has no or more than two dimensions.
        AudioError: It is too short to be reflected: 385 samples (24 ms) by default.

    Example:
        >>> log_mel(torch.zeros(16_000)).shape
        torch.Size([62, 80])
    """
    edge = (FFT_SIZE - hop) // 2
    _check(waveform, edge + 1)
    with torch.autocast(waveform.device.type, enabled=False):
        samples = waveform.float().reshape(-1, waveform.shape[-1])
        samples = functional.pad(samples[:, None], (edge, edge), mode="reflect")[:, 0]
        window = torch.hann_window(FFT_SIZE, device=samples.device)
        spectrum = torch.stft(samples, FFT_SIZE, hop, window=window, center=False, return_complex=True)
        # The small number keeps the gradient of the root finite where there is digital silence.
        amplitudes = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt().transpose(1, 2)
        mels = (amplitudes @ mel_filters(num_mels, FFT_SIZE).to(amplitudes)).clamp_min(FLOOR).log()
    return mels.reshape(*waveform.shape[:-1], *mels.shape[1:])


def whisper_log_mel(waveform: Tensor, num_mels: int = 80) -> Tensor:
    """Whisper's log-mels of a clip as it is, without silence behind it.

    Args:
        waveform: Samples in [-1, 1], 16 kHz. Shape ``(S,)`` or ``(B, S)``, floating point; computed in float32.
        num_mels: Filters between 0 and 8 kHz.

    Returns:
        Shape ``(T, num_mels)`` or ``(B, T, num_mels)``, T = S // 160, 100 frames a second; about -1 to 1.5.

    Raises:
        ShapeError: ``waveform`` is not floating point, or has no or more than two dimensions.
        AudioError: It is shorter than 160 samples (10 ms).

    Example:
        >>> whisper_log_mel(torch.zeros(16_000)).shape
        torch.Size([100, 80])
    """
    _check(waveform, WHISPER_CLOCK.hop)
    with torch.autocast(waveform.device.type, enabled=False):
        window = torch.hann_window(WHISPER_FFT, device=waveform.device)
        samples = waveform.float()[..., _reflected(waveform.shape[-1], WHISPER_FFT // 2).to(waveform.device)]
        spectrum = torch.stft(samples, WHISPER_FFT, WHISPER_CLOCK.hop, window=window, center=False, return_complex=True)
        energies = spectrum[..., :-1].abs().square().transpose(-1, -2)
        decades = (energies @ mel_filters(num_mels, WHISPER_FFT).to(energies)).clamp_min(WHISPER_FLOOR).log10()
        return (torch.maximum(decades, decades.amax((-2, -1), keepdim=True) - WHISPER_RANGE) + 4.0) / 4.0


def _check(waveform: Tensor, shortest: int) -> None:
    if waveform.ndim not in (1, 2) or not waveform.is_floating_point():
        raise ShapeError(
            f"waveform: got {waveform.dtype} of shape {tuple(waveform.shape)}, expected floating point of shape "
            "(samples,) or (batch, samples)."
        )
    if waveform.shape[-1] < shortest:
        raise AudioError(
            f"Audio too short for a mel spectrogram: got {waveform.shape[-1]} samples, need {shortest}. Leave it out."
        )


def _reflected(samples: int, margin: int) -> Tensor:
    """Which sample stands at each place from ``-margin`` to ``samples + margin``, to and fro where there are few."""
    period = 2 * (samples - 1)
    places = torch.arange(-margin, samples + margin) % period
    return torch.where(places < samples, places, period - places)


@cache
@torch.inference_mode(False)
def mel_filters(num_mels: int, fft_size: int) -> Tensor:
    """Triangles on Slaney's mel scale, each of area 1 in hertz. Shape ``(fft_size / 2 + 1, num_mels)``, float64."""
    top = _to_mel(SAMPLE_RATE / 2)
    edges = torch.tensor(
        [_to_hertz(top * place / (num_mels + 1)) for place in range(num_mels + 2)], dtype=torch.float64
    )
    bins = torch.arange(fft_size // 2 + 1, dtype=torch.float64)[:, None] * SAMPLE_RATE / fft_size
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = torch.minimum((bins - left) / (center - left), (right - bins) / (right - center)).clamp_min(0.0)
    return triangles * (2.0 / (right - left))


_KNEE_HERTZ, _HERTZ_PER_MEL, _LOG_STEP = 1000.0, 200.0 / 3, math.log(6.4) / 27
"""Slaney's scale: linear up to the knee, logarithmic above."""


def _to_mel(hertz: float) -> float:
    knee = _KNEE_HERTZ / _HERTZ_PER_MEL
    return hertz / _HERTZ_PER_MEL if hertz < _KNEE_HERTZ else knee + math.log(hertz / _KNEE_HERTZ) / _LOG_STEP


def _to_hertz(mel: float) -> float:
    knee = _KNEE_HERTZ / _HERTZ_PER_MEL
    return mel * _HERTZ_PER_MEL if mel < knee else _KNEE_HERTZ * math.exp((mel - knee) * _LOG_STEP)
