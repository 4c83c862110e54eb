"""What can be evaluated: anything that turns waveforms into frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class FrameSource(Protocol):
    """One row of a table of results: an encoder, a random encoder, a filter bank."""

    @property
    def name(self) -> str:
        """Row label."""
        ...

    @property
    def layers(self) -> int:
        """How many layers each utterance is given in."""
        ...

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        ...

    def extract(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Frames of each waveform, none depending on the others.

        Args:
            waveforms: 16 kHz mono in [-1, 1], shape ``(S,)`` each.

        Returns:
            One tensor of shape ``(layers, frames, dim)``, float32 on the CPU, per waveform.
        """
        ...
