"""Long recordings in pieces that a model can hear, cut where they are quietest.

Shape letters: S samples.
"""

from __future__ import annotations

from torch import Tensor

from allophone.errors import ConfigError
from allophone.frames import seconds_to_samples

WINDOW_SECONDS = 0.1
"""Stretch whose loudness is compared."""


def cut_at_pauses(waveform: Tensor, longest_seconds: float = 20.0) -> list[tuple[int, int]]:
    """Start and end of pieces that follow one another without a gap.

    Each ends in the middle of the quietest tenth of a second of the second half of what it might be.

    Args:
        waveform: Shape ``(S,)``, float, 16 kHz.
        longest_seconds: No piece is longer.

    Raises:
        ConfigError: Pieces would be shorter than four windows.

    Example:
        >>> cut_at_pauses(torch.zeros(16_000), longest_seconds=20.0)
        [(0, 16000)]
    """
    longest, window = seconds_to_samples(longest_seconds), seconds_to_samples(WINDOW_SECONDS)
    if longest < 4 * window:
        raise ConfigError(f"Pieces of {longest_seconds} s are too short; take at least {4 * WINDOW_SECONDS} s.")
    pieces, start = [], 0
    while len(waveform) - start > longest:
        half = waveform[start + longest // 2 : start + longest]
        loudness = half.unfold(0, window, window // 2).square().mean(dim=1)
        end = start + longest // 2 + int(loudness.argmin()) * (window // 2) + window // 2
        pieces.append((start, end))
        start = end
    return [*pieces, (start, len(waveform))]
