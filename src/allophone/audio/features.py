"""Kaldi filter banks and cepstra in batched torch, on the device of the waveform.

Every function takes one waveform ``(S,)`` or equal-length ones ``(B, S)`` at 16 kHz in [-1, 1]; a leading B then
stands before the result's shape. Frames are 25 ms every 10 ms and never reach over the end (``snip_edges``), there is
no dither. Samples are scaled by 2**15 first, as Kaldi and SeamlessM4TFeatureExtractor have them, except for LASR's.

Shape letters: B batch, S samples, T10 frames at 100 Hz, D features. No file is read or written here.

Source:
    Kaldi ``feature-fbank``/``feature-mfcc``/``mel-computations`` (formulas). Deviations: float64 up to the spectrum
    and from the logarithm on, where the device has it (Kaldi: float32), so that quiet bands next to loud ones stay
    exact; powers and their sums, which are positive, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from allophone.errors import AudioError, ShapeError
from allophone.frames import SAMPLE_RATE, FrameClock

FILTER_BANK_CLOCK = FrameClock(hop=160, receptive_field=400)
"""25 ms windows every 10 ms."""
FFT_SIZE = 512
MFCC_MELS = 23
MFCC_CEPSTRA = 13
LIFTER = 22.0
PREEMPHASIS = 0.97
LOWEST_HERTZ, HIGHEST_HERTZ = 20.0, 8000.0
ENERGY_FLOOR = 1.192092955078125e-07
LASR_HERTZ = (125.0, 7500.0)
LASR_FLOOR = 1e-5
FULL_SCALE = 32768.0
FRAMES_AT_ONCE = 160
"""Windows transformed together; what they need is 1.3 MB, which stays in a core's own cache, however long the audio."""


def kaldi_fbank(waveform: Tensor, num_mels: int = 80) -> Tensor:
    """Natural logarithm of mel filter-bank energies.

    Args:
        waveform: Samples in [-1, 1], 16 kHz. Shape ``(S,)`` or ``(B, S)``, floating point.
        num_mels: Triangular filters between 20 Hz and 8 kHz.

    Returns:
        Shape ``(T10, num_mels)`` or ``(B, T10, num_mels)``, float32, 100 Hz.

    Raises:
        ShapeError: ``waveform`` is not floating point, or has no or more than two dimensions.
        AudioError: It is shorter than one window (400 samples).

    Example:
        >>> kaldi_fbank(torch.zeros(16_000)).shape
        torch.Size([98, 80])
    """
    return _log_mel(waveform, num_mels).float()


def kaldi_mfcc(waveform: Tensor) -> Tensor:
    """Thirteen mel-frequency cepstra, coefficient 0 among them (``use_energy=False``), 23 mels, lifter 22.

    Args:
        waveform: Samples in [-1, 1], 16 kHz. Shape ``(S,)`` or ``(B, S)``, floating point.

    Returns:
        Shape ``(T10, 13)`` or ``(B, T10, 13)``, float32, 100 Hz.

    Raises:
        ShapeError: ``waveform`` is not floating point, or has no or more than two dimensions.
        AudioError: It is shorter than one window (400 samples).

    Source:
        torchaudio's ``compliance.kaldi.mfcc``, which fairseq calls on samples in [-1, 1]: there coefficient 0 is lower
        by a constant and quiet frames meet the energy floor earlier.
    """
    log_mel = _log_mel(waveform, MFCC_MELS)
    return (log_mel @ _cepstral_matrix().to(log_mel)).float()


def mfcc39(waveform: Tensor) -> Tensor:
    """The features of HuBERT's first iteration: 13 cepstra, their deltas and the deltas of those, not normalized.

    Args:
        waveform: Samples in [-1, 1], 16 kHz. Shape ``(S,)`` or ``(B, S)``, floating point.

    Returns:
        Shape ``(T10, 39)`` or ``(B, T10, 39)``, float32, 100 Hz.

    Raises:
        ShapeError: ``waveform`` is not floating point, or has no or more than two dimensions.
        AudioError: It is shorter than one window (400 samples).

    Source:
        Hsu et al. 2021, arXiv:2106.07447, section IV-B; fairseq ``dump_mfcc_feature.py``.
    """
    cepstra = kaldi_mfcc(waveform)
    first = deltas(cepstra)
    return torch.cat([cepstra, first, deltas(first)], dim=-1)


def deltas(features: Tensor) -> Tensor:
    """Slope of each feature over five frames, edge frames repeated: sum of n (x[t+n] - x[t-n]) / 10 for n = 1, 2.

    Args:
        features: Shape ``(..., T, D)``, floating point.

    Returns:
        Same shape and dtype.
    """
    first, last = features[..., :1, :], features[..., -1:, :]
    padded = torch.cat([first, first, features, last, last], dim=-2)
    frames = features.shape[-2]

    def shifted(by: int) -> Tensor:
        return padded.narrow(-2, 2 + by, frames)

    return ((shifted(1) - shifted(-1)) + 2.0 * (shifted(2) - shifted(-2))) / 10.0


def stacked_fbank(waveform: Tensor, stride: int) -> Tensor:
    """80 log-mels, each standardized over the utterance, ``stride`` frames side by side.

    The mean and the variance (ddof 1, + 1e-7) are those of all frames of the utterance; a remainder of fewer than
    ``stride`` frames is then dropped.

    Args:
        waveform: Samples in [-1, 1], 16 kHz. Shape ``(S,)`` or ``(B, S)``, floating point.
        stride: Frames laid side by side: 2 gives 50 Hz (Wav2Vec2-BERT), 4 gives 25 Hz.

    Returns:
        Shape ``(T10 // stride, 80 * stride)`` or with a leading B, float32.

    Raises:
        ShapeError: ``waveform`` is not floating point, or has no or more than two dimensions, or ``stride`` < 1.
        AudioError: There are fewer than ``max(2, stride)`` frames.

    Source:
        transformers' ``SeamlessM4TFeatureExtractor`` without padding. Deviation: with its default
        ``pad_to_multiple_of=2`` that class fills up the last, incomplete stack with zeros; here it is dropped.
    """
    if stride < 1:
        raise ShapeError(f"stacked_fbank: stride is {stride}, expected 1 or more.")
    log_mel = _log_mel(waveform, 80)
    frames = log_mel.shape[-2]
    if frames < max(2, stride):
        raise AudioError(
            f"Audio too short for stacked filter banks: got {waveform.shape[-1]} samples = {frames} frames at 100 Hz, "
            f"need {max(2, stride)} frames = {FILTER_BANK_CLOCK.samples(max(2, stride))} samples. Drop such clips."
        )
    variance, mean = torch.var_mean(log_mel, dim=-2, keepdim=True, correction=1)
    normalized = ((log_mel - mean) / (variance + 1e-7).sqrt()).float()
    stacks = frames // stride
    return normalized[..., : stacks * stride, :].reshape(*normalized.shape[:-2], stacks, stride * 80)


def lasr_fbank(waveform: Tensor, num_mels: int = 128) -> Tensor:
    """Natural logarithm of mel filter-bank energies as LASR takes them, not normalized.

    Unlike Kaldi's: samples stay in [-1, 1], a Hann window, no pre-emphasis, filters between 125 and 7500 Hz, energies
    of at least 1e-5.

    Args:
        waveform: Samples in [-1, 1], 16 kHz. Shape ``(S,)`` or ``(B, S)``, floating point.
        num_mels: Triangular filters.

    Returns:
        Shape ``(T10, num_mels)`` or ``(B, T10, num_mels)``, float32, 100 Hz.

    Raises:
        ShapeError: ``waveform`` is not floating point, or has no or more than two dimensions.
        AudioError: It is shorter than one window (400 samples).

    Source:
        transformers' ``LasrFeatureExtractor``. Deviations: none.
    """
    dtype = _working_dtype(waveform)
    window = torch.hann_window(FILTER_BANK_CLOCK.receptive_field, periodic=False, dtype=dtype, device=waveform.device)
    filters = _mel_filters(num_mels, *LASR_HERTZ).to(window)
    return _log_energies(waveform, lambda samples: _windows(samples) * window, filters, LASR_FLOOR).float()


def _log_mel(waveform: Tensor, num_mels: int) -> Tensor:
    """Log mel energies in the working dtype. Shape ``(..., T10, num_mels)``."""
    window = _povey_window().to(waveform.device, _working_dtype(waveform))

    def weighted(samples: Tensor) -> Tensor:
        # Removing the window's mean m and then pre-emphasizing equals x[t] - .97 x[t-1] - .03 m; sample 0 has weight 0.
        samples = samples * FULL_SCALE
        emphasized = samples.clone()
        emphasized[..., 1:].sub_(samples[..., :-1], alpha=PREEMPHASIS)
        offset = (1.0 - PREEMPHASIS) * _window_means(samples)
        return (_windows(emphasized) - offset).mul_(window)

    return _log_energies(waveform, weighted, _mel_filters(num_mels).to(window), ENERGY_FLOOR)


def _windows(samples: Tensor) -> Tensor:
    """A view of all windows, ``(..., S)`` to ``(..., T10, 400)``."""
    return samples.unfold(-1, FILTER_BANK_CLOCK.receptive_field, FILTER_BANK_CLOCK.hop)


def _window_means(samples: Tensor) -> Tensor:
    """Of all windows, ``(..., S)`` to ``(..., T10, 1)``, from sums that neighbors share."""
    shared = math.gcd(FILTER_BANK_CLOCK.receptive_field, FILTER_BANK_CLOCK.hop)
    sums = samples.reshape(*samples.shape[:-1], -1, shared).sum(-1)
    windows = sums.unfold(-1, FILTER_BANK_CLOCK.receptive_field // shared, FILTER_BANK_CLOCK.hop // shared)
    means: Tensor = windows.sum(-1, keepdim=True) / FILTER_BANK_CLOCK.receptive_field
    return means


def _log_energies(waveform: Tensor, weighted: Callable[[Tensor], Tensor], filters: Tensor, floor: float) -> Tensor:
    """Logarithm of what each filter lets through, some windows at a time, so that what they need stays in a cache.

    Args:
        waveform: Shape ``(..., S)``.
        weighted: From some samples in the working dtype to their windows as they are to be transformed.
        filters: In the working dtype. Shape ``(FFT_SIZE / 2, num_mels)``.
        floor: Least energy.

    Returns:
        Shape ``(..., T10, num_mels)``.
    """
    frames = FILTER_BANK_CLOCK.count(_checked(waveform).shape[-1])
    at_once = max(1, FRAMES_AT_ONCE // max(1, math.prod(waveform.shape[:-1])))
    single = filters.float()
    padded = filters.new_zeros(*waveform.shape[:-1], min(at_once, frames), FFT_SIZE)
    parts = []
    for start in range(0, frames, at_once):
        first = FILTER_BANK_CLOCK.start(start)
        last = first + FILTER_BANK_CLOCK.samples(min(at_once, frames - start))
        windows = padded[..., : min(at_once, frames - start), :]
        windows[..., : FILTER_BANK_CLOCK.receptive_field] = weighted(waveform[..., first:last].to(filters.dtype))
        spectrum = torch.fft.rfft(windows)[..., : FFT_SIZE // 2]
        real, imaginary = spectrum.real.float(), spectrum.imag.float()
        energies = real.square_().addcmul_(imaginary, imaginary) @ single  # sums of what is positive lose nothing
        parts.append(energies.to(filters.dtype).clamp_min(floor).log())
    return torch.cat(parts, dim=-2)


def _working_dtype(waveform: Tensor) -> torch.dtype:
    """Double precision, where the device has it."""
    return torch.float32 if waveform.device.type == "mps" else torch.float64


def _checked(waveform: Tensor) -> Tensor:
    if waveform.ndim not in (1, 2) or not waveform.is_floating_point():
        raise ShapeError(
            f"waveform: got {waveform.dtype} of shape {tuple(waveform.shape)}, expected floating point of shape "
            "(samples,) or (batch, samples). Divide integer samples by their full scale."
        )
    needed = FILTER_BANK_CLOCK.receptive_field
    if waveform.shape[-1] < needed:
        raise AudioError(
            f"Audio too short for filter banks: got {waveform.shape[-1]} samples, "
            f"one window needs {needed} ({1000 * needed / SAMPLE_RATE:.0f} ms at 16 kHz). Drop such clips."
        )
    return waveform


@cache
@torch.inference_mode(False)
def _povey_window() -> Tensor:
    """Shape ``(400,)``, float64: a Hann window to the power .85, 0 at both ends."""
    size = FILTER_BANK_CLOCK.receptive_field
    return torch.hann_window(size, periodic=False, dtype=torch.float64).pow(0.85)


def _mel(hertz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hertz / 700.0)


@cache
@torch.inference_mode(False)
def _mel_filters(num_mels: int, lowest: float = LOWEST_HERTZ, highest: float = HIGHEST_HERTZ) -> Tensor:
    """Triangles in mel space over the FFT bins below 8 kHz. Shape ``(256, num_mels)``, float64."""
    low, high = (_mel(torch.tensor(hertz, dtype=torch.float64)) for hertz in (lowest, highest))
    edges = low + (high - low) / (num_mels + 1) * torch.arange(num_mels + 2, dtype=torch.float64)
    bins = _mel(torch.arange(FFT_SIZE // 2, dtype=torch.float64) * SAMPLE_RATE / FFT_SIZE)[:, None]
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - left) / (center - left), (right - bins) / (right - center)
    return torch.minimum(rising, falling).clamp_min(0.0)


@cache
@torch.inference_mode(False)
def _cepstral_matrix() -> Tensor:
    """Orthonormal DCT-II times the lifter. Shape ``(23, 13)``, float64."""
    mels = torch.arange(MFCC_MELS, dtype=torch.float64)[:, None] + 0.5
    order = torch.arange(MFCC_CEPSTRA, dtype=torch.float64)
    basis = torch.cos(math.pi / MFCC_MELS * mels * order) * math.sqrt(2.0 / MFCC_MELS)
    basis[:, 0] = math.sqrt(1.0 / MFCC_MELS)
    return basis * (1.0 + 0.5 * LIFTER * torch.sin(math.pi * order / LIFTER))
