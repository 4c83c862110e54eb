"""A clip as a room would have it: convolution with an impulse response that keeps time and level.

The strongest sample of a response is taken for the direct path and laid on time 0, so frame labels of the dry clip stay
where they are; as in ESPnet's ``HuBERTCollateFn`` (XEUS, arXiv:2407.00837), which aligns to the highest instead of the
strongest sample and keeps the level of frames above silence. Shape letters: S samples, R samples of a response.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allophone.audio.mixing import power
from allophone.errors import ConfigError
from allophone.frames import seconds_to_samples


@dataclass(frozen=True, kw_only=True, slots=True)
class ReverbConfig:
    """How often a clip is reverberated, and by which made-up rooms where no measured ones are given."""

    probability: float = 0.3
    """Share of clips (ESPnet ``rir_apply_prob`` 0.3)."""
    rt60_seconds: tuple[float, float] = (0.15, 0.8)
    """Range of the time in which a made-up room decays by 60 dB: a furnished to a bare room. Ours."""
    direct_db: tuple[float, float] = (0.0, 12.0)
    """Range of the energy of the direct path over that of everything after it, in made-up rooms. Ours."""
    max_seconds: float = 1.0
    """Longest part of a response before and after its direct path that is used; bounds time and memory. Ours."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ConfigError(f"reverb.probability must lie within 0 and 1; got {self.probability}.")
        if not 0.0 < self.rt60_seconds[0] <= self.rt60_seconds[1] or not self.direct_db[0] <= self.direct_db[1]:
            raise ConfigError(
                f"reverb.rt60_seconds must be a range above 0 and reverb.direct_db a range, lowest first; "
                f"got {self.rt60_seconds} and {self.direct_db}."
            )
        if not self.max_seconds > 0:
            raise ConfigError(f"reverb.max_seconds must be positive; got {self.max_seconds}.")


def draw_response(config: ReverbConfig, generator: torch.Generator) -> Tensor:
    """The response of a made-up room. Shape ``(R,)``, float32."""
    chances = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    pairs = (config.rt60_seconds, config.direct_db)
    rt60, direct = (low + (high - low) * chance for (low, high), chance in zip(pairs, chances, strict=True))
    return synthetic_response(rt60, direct, generator)


def synthetic_response(rt60_seconds: float, direct_db: float, generator: torch.Generator) -> Tensor:
    """A direct path of 1 and behind it Gaussian noise that decays by 60 dB in ``rt60_seconds`` (Polack's model).

    Args:
        rt60_seconds: Reverberation time; also the length of the response.
        direct_db: Energy of the direct path over that of the noise.
        generator: Source of the noise.

    Returns:
        Shape ``(R,)``, float32, 16 kHz.
    """
    samples = max(2, seconds_to_samples(rt60_seconds))
    decay = 10.0 ** (-3.0 * torch.arange(1, samples, dtype=torch.float64) / samples)
    tail = decay * torch.randn(samples - 1, generator=generator, dtype=torch.float64)
    tail = tail * (10.0 ** (-direct_db / 10.0) / tail.square().sum()).sqrt()
    return torch.cat([torch.ones(1, dtype=torch.float64), tail]).float()


def reverberate(waveform: Tensor, response: Tensor, max_seconds: float = 1.0) -> Tensor:
    """Convolve, with the direct path at time 0 and the mean square as it was.

    Args:
        waveform: Shape ``(S,)``, float32; not written to.
        response: Shape ``(R,)``, float32, 16 kHz; any level and delay.
        max_seconds: Longest part of the response before and after its strongest sample that is used.

    Returns:
        Shape ``(S,)``, float32; ``waveform`` itself where it or the response is silent.
    """
    if not len(response) or not len(waveform):
        return waveform
    longest = seconds_to_samples(max_seconds)
    direct = int(response.abs().argmax())
    first = max(0, direct - longest)
    kernel = response[first : direct + longest]
    delay = direct - first
    size = 1 << (len(waveform) + len(kernel) - 2).bit_length()
    spectrum = torch.fft.rfft(waveform, n=size) * torch.fft.rfft(kernel, n=size)
    wet = torch.fft.irfft(spectrum, n=size)[delay : delay + len(waveform)]
    before, after = power(waveform), power(wet)
    return waveform if min(before, after) == 0.0 else wet * (before / after) ** 0.5
