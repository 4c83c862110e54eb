"""Perturbations that change who speaks and through what, but not what is said nor when.

Frame labels of the clean audio stay aligned, but for :func:`change_speed`, which is for audio without such labels.

Source of the hidden bands and gaps: SpecAugment, Park et al. 2019, arXiv:1904.08779. Deviation: they are cut out of the
waveform, so that encoders of every front end can have them; there is no time warp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import soxr
import torch
from torch import Tensor

from allophone.errors import ConfigError
from allophone.frames import SAMPLE_RATE

FFT, HOP = 512, 128


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Probability and range of each perturbation. Every choice here is ours; no paper prescribes it."""

    warp_probability: float = 0.6
    """Share of utterances whose frequency axis is stretched (a longer or shorter vocal tract)."""
    warp_range: float = 0.18
    """The stretch factor is 2 ** U(-range, range): 0.18 is up to 13 percent either way."""
    lowpass_probability: float = 0.3
    """Share of utterances cut off at a random frequency, so that bandwidth is no cue."""
    lowpass_hertz: tuple[float, float] = (3400.0, 5000.0)
    """Range of the cut-off."""
    noise_probability: float = 0.3
    """Share of utterances with added noise of random color."""
    noise_snr_db: tuple[float, float] = (5.0, 30.0)
    """Range of the signal-to-noise ratio."""
    gain_probability: float = 0.0
    """Share of utterances that become louder or softer."""
    gain_db: tuple[float, float] = (-6.0, 6.0)
    """Range of the gain; what would be clipped is scaled down to fit."""
    hidden_bands: int = 0
    """Bands of frequency that are cut out (SpecAugment 2)."""
    band_share: float = 27 / 80
    """Widest band, as a share of the mel axis (SpecAugment 27 of 80 mels)."""
    hidden_gaps: int = 0
    """Stretches of time that are silenced (SpecAugment 2)."""
    gap_seconds: float = 1.0
    """Longest gap (SpecAugment 1 s), and never more than a fifth of the clip."""
    speed_probability: float = 0.0
    """Share of utterances that are played faster or slower, pitch included; for batches without units."""
    speed_factors: tuple[float, ...] = (0.9, 1.1)
    """Factors, each as likely."""

    def __post_init__(self) -> None:
        if min(self.hidden_bands, self.hidden_gaps) < 0 or not self.speed_factors or min(self.speed_factors) <= 0:
            raise ConfigError(f"Augmentation needs counts of at least 0 and positive speed_factors; got {self}.")


NO_AUGMENTATION = AugmentConfig(warp_probability=0.0, lowpass_probability=0.0, noise_probability=0.0)
"""Nothing; what is wanted is replaced in it."""


def augment(waveform: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Perturb one utterance.

    Args:
        waveform: Shape ``(samples,)``, float32, 16 kHz.
        config: What happens how often.
        generator: Source of every random choice.

    Returns:
        Shape ``(samples,)``, float32; time positions are kept.
    """
    chance = torch.rand(6, generator=generator).tolist()
    window = torch.hann_window(FFT)
    warp, cut = chance[0] < config.warp_probability, chance[1] < config.lowpass_probability
    if (warp or cut) and len(waveform) > FFT:
        spectrum = torch.stft(waveform, FFT, HOP, window=window, return_complex=True)  # (bins, frames)
        if warp:
            spectrum = _warp(spectrum, 2.0 ** (config.warp_range * (2 * chance[2] - 1)))
        if cut:
            low, high = config.lowpass_hertz
            spectrum = spectrum.clone()
            spectrum[round((low + (high - low) * chance[3]) / SAMPLE_RATE * FFT) :] = 0
        waveform = torch.istft(spectrum, FFT, HOP, window=window, length=len(waveform))
    if chance[4] < config.noise_probability:
        low, high = config.noise_snr_db
        waveform = waveform + _noise(waveform, low + (high - low) * chance[5], generator)
    if config.gain_probability > 0:
        drawn, place = torch.rand(2, generator=generator).tolist()
        if drawn < config.gain_probability:
            low, high = config.gain_db
            waveform = waveform * 10 ** ((low + (high - low) * place) / 20)
            waveform = waveform / waveform.abs().max().clamp(min=1.0)
    if config.hidden_bands and len(waveform) > FFT:
        waveform = _hide_bands(waveform, config, generator)
    for _ in range(config.hidden_gaps):
        length = torch.rand(2, generator=generator).tolist()
        size = int(length[0] * min(config.gap_seconds * SAMPLE_RATE, len(waveform) / 5))
        start = int(length[1] * (len(waveform) - size))
        waveform = torch.cat([waveform[:start], torch.zeros(size), waveform[start + size :]])
    return waveform


def change_speed(waveform: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """The whole utterance faster or slower, pitch included, where its turn has come.

    Args:
        waveform: Shape ``(samples,)``, float32, 16 kHz.
        config: How often, and by what.
        generator: Source of every random choice.

    Returns:
        Shape ``(samples / factor,)``, float32.
    """
    drawn, place = torch.rand(2, generator=generator).tolist()
    if drawn >= config.speed_probability:
        return waveform
    factor = config.speed_factors[int(place * len(config.speed_factors))]
    return torch.from_numpy(soxr.resample(waveform.numpy(), factor * SAMPLE_RATE, SAMPLE_RATE))


def limit_bandwidth(waveform: Tensor, sample_rate: int) -> Tensor:
    """The waveform as if it had been recorded at a lower rate, so that two voices cannot be told by bandwidth.

    Args:
        waveform: Shape ``(samples,)``, float32, 16 kHz.
        sample_rate: Rate whose half is the highest frequency kept, Hz; 16 kHz and above change nothing.

    Returns:
        Shape ``(samples,)``, float32, 16 kHz.
    """
    if sample_rate >= SAMPLE_RATE:
        return waveform
    narrow = soxr.resample(waveform.numpy(), SAMPLE_RATE, sample_rate)
    wide = torch.from_numpy(soxr.resample(narrow, sample_rate, SAMPLE_RATE))
    return torch.nn.functional.pad(wide, (0, max(0, len(waveform) - len(wide))))[: len(waveform)]


def _hide_bands(waveform: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Cut bands out whose edges are drawn on the mel axis. Shape ``(samples,)``."""
    window = torch.hann_window(FFT)
    spectrum = torch.stft(waveform, FFT, HOP, window=window, return_complex=True)
    top = _mel(SAMPLE_RATE / 2)
    mels = torch.tensor([_mel(bin * SAMPLE_RATE / FFT) for bin in range(len(spectrum))])
    for _ in range(config.hidden_bands):
        width, place = torch.rand(2, generator=generator).tolist()
        width *= config.band_share * top
        start = place * (top - width)
        spectrum = spectrum * ((mels < start) | (mels >= start + width))[:, None]
    return torch.istft(spectrum, FFT, HOP, window=window, length=len(waveform))


def _mel(hertz: float) -> float:
    return 1127.0 * math.log1p(hertz / 700.0)


def _warp(spectrum: Tensor, factor: float) -> Tensor:
    """Move content at frequency f to ``factor * f`` by linear interpolation over bins. ``(bins, frames)``, complex.

    The envelope moves smoothly; phases are copied, so the fine structure between 8-ms hops becomes rough.
    """
    bins = spectrum.shape[0]
    source = (torch.arange(bins) / factor).clamp(max=bins - 1)
    below = source.floor().long()
    above = (below + 1).clamp(max=bins - 1)
    weight = (source - below)[:, None]
    magnitude = spectrum.abs()
    moved = magnitude[below] * (1 - weight) + magnitude[above] * weight
    moved = torch.where((torch.arange(bins) / factor > bins - 1)[:, None], moved * 0.03, moved)
    return torch.polar(moved, spectrum[below].angle())


def _noise(waveform: Tensor, snr_db: float, generator: torch.Generator) -> Tensor:
    """Noise with a power spectrum of 1/f**a, a ~ U(0, 2), at ``snr_db`` below ``waveform``. Shape ``(samples,)``."""
    size = 1 << (len(waveform) - 1).bit_length()
    shape = torch.fft.rfft(torch.randn(size, generator=generator))
    exponent = torch.rand((), generator=generator).item()
    frequency = torch.arange(len(shape)).clamp(min=1).float()
    noise = torch.fft.irfft(shape * frequency ** (-exponent), n=size)[: len(waveform)]
    level = waveform.square().mean() / (noise.square().mean() + 1e-12) * 10 ** (-snr_db / 10)
    scaled: Tensor = noise * level.sqrt()
    return scaled
