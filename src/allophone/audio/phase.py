"""A log-mel spectrogram back to a waveform without a trained model: its amplitudes, and phases that agree with them.

Source: Griffin & Lim 1984; fast iteration of Perraudin et al. 2013 (momentum 0.99). Amplitudes behind the mel filters:
non-negative least squares by the multiplicative updates of Lee & Seung 2001.
Shape letters: T frames, M mels, F frequencies, S samples.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from allophone.audio.mel import FFT_SIZE, mel_filters
from allophone.errors import ShapeError
from allophone.seeding import torch_generator

MOMENTUM = 0.99
UNFOLDING_STEPS = 30
"""Updates of the amplitudes."""


@torch.no_grad()
def waveform_of_mel(mel: Tensor, hop: int, *, iterations: int = 32, seed: int = 0) -> Tensor:
    """Speech with these log-mel amplitudes.

    Args:
        mel: As :func:`~allophone.audio.mel.log_mel` has it with this hop. Shape ``(T, M)``.
        hop: Samples from frame to frame, even.
        iterations: Rounds between amplitudes and phases; each brings the two closer.
        seed: Of the first phases.

    Returns:
        Shape ``(S,)``, S = T * hop, float32; not clipped.

    Raises:
        ShapeError: ``mel`` has not two dimensions or no frame.

    Example:
        >>> waveform_of_mel(torch.full((10, 80), -6.0), 160).shape
        torch.Size([1600])
    """
    if mel.ndim != 2 or not len(mel):
        raise ShapeError(f"waveform_of_mel: got {tuple(mel.shape)}, expected (frames, mels) with at least one frame.")
    amplitudes = _amplitudes(mel.float().exp())
    angles = 2 * torch.pi * torch.rand(amplitudes.shape, generator=torch_generator(seed, "phases"))
    phases, before = torch.polar(torch.ones_like(angles), angles), torch.zeros(amplitudes.shape, dtype=torch.complex64)
    for _ in range(iterations):
        agreed = _spectrum(_signal(amplitudes * phases, hop), hop)
        phases, before = torch.sgn(agreed + MOMENTUM / (1 + MOMENTUM) * (agreed - before)), agreed
    edge = (FFT_SIZE - hop) // 2
    return _signal(amplitudes * phases, hop)[edge : edge + len(mel) * hop]


def _amplitudes(mels: Tensor) -> Tensor:
    """Amplitudes of frequencies ``(F, T)`` whose mel filters give ``(T, M)``."""
    filters = mel_filters(mels.shape[1], FFT_SIZE).float()
    spread = filters / filters.sum(dim=0)
    found = (mels @ spread.T).clamp_min(1e-8)
    above = mels @ filters.T
    for _ in range(UNFOLDING_STEPS):
        found = found * above / (found @ filters @ filters.T).clamp_min(1e-12)
    return found.T


def _signal(spectrum: Tensor, hop: int) -> Tensor:
    """The waveform nearest to a complex spectrogram ``(F, T)``, with edges: ``((T - 1) * hop + FFT_SIZE,)``."""
    window = torch.hann_window(FFT_SIZE)[:, None]
    frames = torch.fft.irfft(spectrum, n=FFT_SIZE, dim=0) * window
    size = (1, (frames.shape[1] - 1) * hop + FFT_SIZE)
    total, weight = (
        functional.fold(part[None], size, (1, FFT_SIZE), stride=(1, hop)).flatten()
        for part in (frames, (window**2).expand_as(frames))
    )
    return total / weight.clamp_min(1e-3)


def _spectrum(waveform: Tensor, hop: int) -> Tensor:
    window = torch.hann_window(FFT_SIZE)
    return torch.stft(waveform[None], FFT_SIZE, hop, window=window, center=False, return_complex=True)[0]
