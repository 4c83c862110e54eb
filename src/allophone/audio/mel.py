"""Log-mels with filters of equal area on Slaney's scale: what vocoders are trained and judged by, what Whisper hears.

Neither is what the other encoders hear (:mod:`~allophone.audio.features`). The vocoders' is differentiable, of
amplitudes instead of energies, over windows of 64 ms that reach over both ends by reflection.

Source: Kong et al. 2020, arXiv:2010.05646, section 2.3, and its published code. Deviations: none; 16 kHz as in
Polyak et al. 2021, arXiv:2104.00355. Whisper's: Radford et al. 2022, arXiv:2212.04356, section 2.2.
Shape letters: B batch, S samples, T frames, M mels.
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
WHISPER_FFT, WHISPER_HOP = 400, 160
"""25 ms every 10 ms."""
SHORTEST = (FFT_SIZE - HOP) // 2 + 1
"""Samples below which there is nothing to reflect."""


def log_mel(waveform: Tensor, num_mels: int = 80) -> Tensor:
    """Natural logarithm of mel amplitudes.

    Args:
        waveform: Samples in [-1, 1], 16 kHz. Shape ``(S,)`` or ``(B, S)``, floating point; computed in float32.
        num_mels: Filters between 0 and 8 kHz.

    Returns:
        Shape ``(T, num_mels)`` or ``(B, T, num_mels)``, T = S // 256, 62.5 frames a second.

    Raises:
        ShapeError: ``waveform`` is not floating point, or has no or more than two dimensions.
        AudioError: It is shorter than 385 samples (24 ms).

    Example:
        >>> log_mel(torch.zeros(16_000)).shape
        torch.Size([62, 80])
    """
    if waveform.ndim not in (1, 2) or not waveform.is_floating_point():
        raise ShapeError(
            f"waveform: got {waveform.dtype} of shape {tuple(waveform.shape)}, expected floating point of shape "
            "(samples,) or (batch, samples)."
        )
    if waveform.shape[-1] < SHORTEST:
        raise AudioError(
            f"Audio too short for a mel spectrogram: got {waveform.shape[-1]} samples, need {SHORTEST}. Leave it out."
        )
    with torch.autocast(waveform.device.type, enabled=False):
        samples = waveform.float().reshape(-1, waveform.shape[-1])
        samples = functional.pad(samples[:, None], ((FFT_SIZE - HOP) // 2,) * 2, mode="reflect")[:, 0]
        window = torch.hann_window(FFT_SIZE, device=samples.device)
        spectrum = torch.stft(samples, FFT_SIZE, HOP, window=window, center=False, return_complex=True)
        # The small number keeps the gradient of the root finite where there is digital silence.
        amplitudes = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt().transpose(1, 2)
        mels = (amplitudes @ _filters(num_mels, FFT_SIZE).to(amplitudes)).clamp_min(FLOOR).log()
    return mels.reshape(*waveform.shape[:-1], *mels.shape[1:])


def whisper_mel(waveform: Tensor, num_mels: int = 80) -> Tensor:
    """Log-mels as Whisper takes them: base 10, at most 8 below the loudest of the clip, about -1 to 1.

    Silence is taken to follow the clip, as in the published window of 30 s; before it stands its reflection.

    Args:
        waveform: Samples in [-1, 1], 16 kHz. Shape ``(S,)`` or ``(B, S)``, floating point; computed in float32.
        num_mels: Filters between 0 and 8 kHz.

    Returns:
        Shape ``(T, num_mels)`` or ``(B, T, num_mels)``, T = 2 (S // 320), 100 frames a second.

    Raises:
        AudioError: It is shorter than 320 samples (20 ms).

    Example:
        >>> whisper_mel(torch.zeros(16_000)).shape
        torch.Size([100, 80])
    """
    frames = 2 * (waveform.shape[-1] // (2 * WHISPER_HOP))
    if frames == 0:
        raise AudioError(f"Audio too short for log-mels: got {waveform.shape[-1]} samples, need 320. Leave it out.")
    samples = waveform.float().reshape(-1, waveform.shape[-1])
    half = WHISPER_FFT // 2
    samples = torch.cat([samples[:, 1 : half + 1].flip(1), functional.pad(samples, (0, half))], dim=1)
    samples = samples[:, : (frames - 1) * WHISPER_HOP + WHISPER_FFT]
    window = torch.hann_window(WHISPER_FFT, device=samples.device)
    spectrum = torch.stft(samples, WHISPER_FFT, WHISPER_HOP, window=window, center=False, return_complex=True)
    power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2)
    mels = (power @ _filters(num_mels, WHISPER_FFT).to(power)).clamp_min(1e-10).log10()
    mels = torch.maximum(mels, mels.amax(dim=(1, 2), keepdim=True) - 8.0)
    return ((mels + 4.0) / 4.0).reshape(*waveform.shape[:-1], frames, num_mels)


@cache
@torch.inference_mode(False)
def _filters(num_mels: int, fft_size: int) -> Tensor:
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
