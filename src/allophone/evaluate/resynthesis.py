"""How much of a recording comes back from its units: by spectrum, and by the units that the result is heard as.

Neither number says how it sounds to people. The first is that which training lowers; the second asks the encoder that
made the units, and a voice that only it understands would do well.
Shape letters: S samples, T frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from allophone.audio.mel import log_mel
from allophone.errors import DataError


@dataclass(frozen=True, slots=True)
class Resynthesis:
    """Scores of one system, one value a clip, in one order for all systems."""

    mel: NDArray[np.float64]
    """Mean absolute difference of log-mel amplitudes, nats. Shape ``(clips,)``."""
    same_units: NDArray[np.float64]
    """Frames that are heard as the unit they were made from. Shape ``(clips,)``; NaN where nobody listened."""
    frames: NDArray[np.float64]
    """Frames of each clip. Shape ``(clips,)``."""


def mel_distance(recorded: Tensor, made: Tensor) -> float:
    """Mean absolute difference of log-mel amplitudes, nats.

    Args:
        recorded: Shape ``(S,)``.
        made: Shape ``(S,)``, aligned with it.

    Raises:
        DataError: They differ in length.
    """
    if recorded.shape != made.shape:
        raise DataError(f"{tuple(recorded.shape)} recorded samples beside {tuple(made.shape)} made ones.")
    return float((log_mel(recorded) - log_mel(made)).abs().mean())


def score_resynthesis(
    recorded: Mapping[str, Tensor],
    made: Mapping[str, Tensor],
    units: Mapping[str, Tensor],
    heard: Mapping[str, Tensor] | None,
) -> Resynthesis:
    """Score what was made of some units.

    Args:
        recorded: Waveforms ``(S,)`` by clip, in the order of the result.
        made: The same from a vocoder, aligned.
        units: What they were made from, ``(T,)`` by clip.
        heard: Units of the made waveforms, ``(T,)``; None leaves them out.

    Raises:
        DataError: A made clip differs in samples or frames from what it was made from.
    """
    mel = [mel_distance(recorded[name], made[name]) for name in recorded]
    same = [float("nan") if heard is None else _same(units[name], heard[name], name) for name in recorded]
    return Resynthesis(np.array(mel), np.array(same), np.array([float(len(units[name])) for name in recorded]))


def _same(units: Tensor, heard: Tensor, name: str) -> float:
    if units.shape != heard.shape:
        raise DataError(f"{name!r}: {len(units)} units were spoken and {len(heard)} heard; expected as many.")
    return float((units == heard).sum())


def chance_of_same_units(units: Sequence[Tensor], num_units: int) -> float:
    """Share of frames that agree when the heard units are drawn as often as they occur. ``units``: each ``(T,)``."""
    counts = np.bincount(np.concatenate([row.numpy() for row in units]), minlength=num_units)
    return float(np.square(counts / counts.sum()).sum())
