"""Fundamental frequency of speech at the rate of its units, for vocoders that are conditioned on melody or tone.

Source: de Cheveigné & Kawahara 2002 (YIN), steps 2 to 5. Deviations: a window of fixed length for all lags, so that one
Fourier transform gives all differences; no search around the best local estimate (step 6).
Shape letters: B batch, S samples, T frames, L lags.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from allophone.errors import ShapeError
from allophone.frames import SAMPLE_RATE

LOWEST_HERTZ, HIGHEST_HERTZ = 60.0, 500.0
REFERENCE_HERTZ = 200.0
"""What 0 octaves are."""
WINDOW = 512
"""Samples that are compared with later ones: 32 ms."""
VOICED_BELOW = 0.2
"""Normalized difference under which a frame counts as voiced (YIN: 0.1 for clean recordings)."""


@torch.no_grad()
def pitch(waveform: Tensor, hop: int) -> Tensor:
    """Octaves above 200 Hz and whether there is a voice, for every ``hop`` samples; where there is none, 0 and 0.

    Args:
        waveform: Samples in [-1, 1], 16 kHz. Shape ``(S,)`` or ``(B, S)``; frame t is judged around the middle of
            samples ``t * hop`` to ``(t + 1) * hop``.
        hop: Samples of one frame.

    Returns:
        Shape ``(T, 2)`` or ``(B, T, 2)``, float32, T = S // hop.

    Raises:
        ShapeError: There is not one frame, or more than two dimensions.

    Example:
        >>> tone = torch.sin(2 * torch.pi * 100 * torch.arange(16_000) / 16_000)
        >>> [round(value, 2) for value in pitch(tone, 640)[12].tolist()]
        [-1.0, 1.0]
    """
    if waveform.ndim not in (1, 2) or waveform.shape[-1] < hop:
        raise ShapeError(
            f"pitch: got a waveform of shape {tuple(waveform.shape)}, expected (samples,) or (batch, samples) of at "
            f"least {hop} samples."
        )
    frames = waveform.shape[-1] // hop
    shortest, longest = int(SAMPLE_RATE / HIGHEST_HERTZ), int(SAMPLE_RATE / LOWEST_HERTZ) + 1
    span = WINDOW + longest
    before = (span - hop) // 2
    after = max(0, (frames - 1) * hop + span - before - waveform.shape[-1])
    padded = functional.pad(waveform.double(), (max(0, before), after))[..., max(0, -before) :]
    windows = padded.unfold(-1, span, hop)[..., :frames, :]
    difference = _difference(windows, longest)
    lags = torch.arange(1, longest + 1, device=waveform.device)
    mean = difference.cumsum(-1) / lags
    normalized = torch.where(mean > 1e-9, difference / mean.clamp_min(1e-9), torch.ones_like(mean))
    lag, value = _first_dip(normalized, shortest)
    voiced = value < VOICED_BELOW
    octaves = (SAMPLE_RATE / lag / REFERENCE_HERTZ).log2()
    return torch.stack([torch.where(voiced, octaves, torch.zeros_like(octaves)), voiced.double()], dim=-1).float()


def _difference(windows: Tensor, longest: int) -> Tensor:
    """Squared difference of each window ``(..., span)`` from itself later. Shape ``(..., L)``, lags 1 to L."""
    size = 1 << (windows.shape[-1] - 1).bit_length()
    head = windows[..., :WINDOW]
    products = torch.fft.irfft(torch.fft.rfft(windows, size) * torch.fft.rfft(head, size).conj(), size)
    energy = functional.pad(windows.square().cumsum(-1), (1, 0))
    later = energy[..., WINDOW : WINDOW + longest + 1] - energy[..., : longest + 1]
    difference: Tensor = later[..., :1] + later - 2 * products[..., : longest + 1]
    return difference[..., 1:].clamp_min(0.0)


def _first_dip(normalized: Tensor, shortest: int) -> tuple[Tensor, Tensor]:
    """Lag in samples, refined by a parabola, and depth of the first dip that is deep enough, or of the deepest."""
    inner, left, right = normalized[..., 1:-1], normalized[..., :-2], normalized[..., 2:]
    allowed = torch.arange(inner.shape[-1], device=inner.device) + 2 >= shortest
    dips = (inner <= left) & (inner < right) & allowed
    depth = torch.where(dips, inner, torch.full_like(inner, 2.0))
    deep = depth < VOICED_BELOW
    place = torch.where(deep.any(-1), deep.double().argmax(-1), depth.argmin(-1))[..., None]
    at, low, high = inner.gather(-1, place), left.gather(-1, place), right.gather(-1, place)
    bend = (low - 2 * at + high).clamp_min(1e-12)
    shift = (0.5 * (low - high) / bend).clamp(-0.5, 0.5)
    return (place + 2 + shift)[..., 0], depth.gather(-1, place)[..., 0]
