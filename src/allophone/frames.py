"""Seconds, samples and frames: the only place where one is turned into another.

An encoder's *hop* is the distance between the starts of two frames and its *receptive field* the number of
samples that one frame sees; both are in samples at 16 kHz and belong to the model, never to its callers.
"""

from __future__ import annotations

from dataclasses import dataclass

from allophone.errors import ConfigError

SAMPLE_RATE = 16_000
"""Samples a second of every waveform inside the project."""


def seconds_to_samples(seconds: float) -> int:
    """Nearest whole number of samples at 16 kHz."""
    return round(seconds * SAMPLE_RATE)


def samples_to_seconds(samples: int) -> float:
    """Duration in seconds of a number of samples at 16 kHz."""
    return samples / SAMPLE_RATE


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameClock:
    """How a model cuts time.

    Example:
        >>> FrameClock(hop=320, receptive_field=400).count(16_000)
        49
    """

    hop: int
    """Samples between the starts of two frames (HuBERT: 320 = 20 ms)."""
    receptive_field: int
    """Samples that one frame sees (HuBERT: 400 = 25 ms)."""

    def __post_init__(self) -> None:
        if self.hop < 1 or self.receptive_field < 1:
            raise ConfigError(f"A frame needs a positive hop and receptive field; got {self}.")

    @property
    def rate(self) -> float:
        """Frames a second."""
        return SAMPLE_RATE / self.hop

    def count(self, samples: int) -> int:
        """Frames that a waveform of ``samples`` samples yields; 0 when it is shorter than one receptive field."""
        return 0 if samples < self.receptive_field else (samples - self.receptive_field) // self.hop + 1

    def start(self, frame: int) -> int:
        """First sample that frame number ``frame`` sees."""
        return frame * self.hop

    def center(self, frame: float) -> float:
        """Sample in the middle of what frame number ``frame`` sees."""
        return frame * self.hop + self.receptive_field / 2

    def samples(self, frames: int) -> int:
        """Fewest samples that yield ``frames`` frames; 0 for none."""
        return 0 if frames == 0 else (frames - 1) * self.hop + self.receptive_field
