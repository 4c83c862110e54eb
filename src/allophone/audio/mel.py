"""The log-mel spectrogram that vocoders are trained and judged by: differentiable, in batched torch.

It is not the one that encoders hear (:mod:`~allophone.audio.features`): amplitudes instead of energies, filters of
equal area on Slaney's scale, windows of 64 ms that reach over both ends by reflection.

Source: Kong et al. 2020, arXiv:2010.05646, section 2.3, and its published code. Deviations: none; 16 kHz as in
Polyak et al. 2021, arXiv:2104.00355. Shape letters: B batch, S samples, T frames, M mels.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from allophone.errors import AudioError, ShapeError
from allophone.frames import SAMPLE_RATE

FFT_SIZE, HOP = 1024, 256
"""Window and step in samples: 64 ms every 16 ms."""
FLOOR = 1e-5
"""Least amplitude before the logarithm."""


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
    if waveform.ndim not in (1, 2) or not waveform.is_floating_point():
        raise ShapeError(
            f"waveform: got {waveform.dtype} of shape {tuple(waveform.shape)}, expected floating point of shape "
            "(samples,) or (batch, samples)."
        )
    edge = (FFT_SIZE - hop) // 2
    if waveform.shape[-1] <= edge:
        raise AudioError(
            f"Audio too short for a mel spectrogram: got {waveform.shape[-1]} samples, need {edge + 1}. Leave it out."
        )
    with torch.autocast(waveform.device.type, enabled=False):
        samples = waveform.float().reshape(-1, waveform.shape[-1])
        samples = functional.pad(samples[:, None], (edge, edge), mode="reflect")[:, 0]
        window = torch.hann_window(FFT_SIZE, device=samples.device)
        spectrum = torch.stft(samples, FFT_SIZE, hop, window=window, center=False, return_complex=True)
        # The small number keeps the gradient of the root finite where there is digital silence.
        amplitudes = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt().transpose(1, 2)
        mels = (amplitudes @ mel_filters(num_mels).to(amplitudes)).clamp_min(FLOOR).log()
    return mels.reshape(*waveform.shape[:-1], *mels.shape[1:])


@cache
@torch.inference_mode(False)
def mel_filters(num_mels: int) -> Tensor:
    """Triangles on Slaney's mel scale, each of area 1 in hertz. Shape ``(FFT_SIZE / 2 + 1, num_mels)``, float64."""
    top = _to_mel(SAMPLE_RATE / 2)
    edges = torch.tensor(
        [_to_hertz(top * place / (num_mels + 1)) for place in range(num_mels + 2)], dtype=torch.float64
    )
    bins = torch.arange(FFT_SIZE // 2 + 1, dtype=torch.float64)[:, None] * SAMPLE_RATE / FFT_SIZE
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
