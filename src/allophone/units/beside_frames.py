"""Units laid beside the frames of an encoder, which cuts time in another way.

Shape letters: T frames of an encoder, U units of an utterance, R labels of one frame.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.errors import DataError
from allophone.frames import FrameClock

FRAME_TOLERANCE = 2
"""Frames by which units and audio may disagree, for receptive fields of different length."""


def labels_for_frames(
    units: Tensor, unit_clock: FrameClock, clock: FrameClock, frames: int, labels_per_frame: int = 1
) -> Tensor:
    """Lay units beside the frames of an encoder: label r of frame t is the unit whose center is nearest.

    A frame's R labels stand evenly spread over one hop around its center; of two units equally near the later one
    counts. Where a label lies beyond the first or last unit, that one is repeated. Frames whose first label has no unit
    are cut off; that happens at the end of an utterance, when a unit sees more samples than a frame.

    Args:
        units: Shape ``(U,)``, int64.
        unit_clock: How the frames behind the units cut time.
        clock: How the encoder does.
        frames: T, encoder frames of the same audio.
        labels_per_frame: R.

    Returns:
        Shape ``(T, R)``, or up to two rows fewer, int64.

    Raises:
        DataError: Units and frames disagree by more than two frames, or a number is not positive.

    Source:
        fairseq's HuBERT takes unit floor(t * ratio); that is the same where 20-ms frames of 25 ms meet 10-ms units of
        25 ms. Deviation: it crops the audio when ratio T exceeds the number of units, here only frames go.
    """
    index = label_index(len(units), unit_clock, clock, frames, labels_per_frame, "")
    return units[torch.from_numpy(index).to(units.device)]


def label_index(
    count: int, unit_clock: FrameClock, clock: FrameClock, frames: int, labels_per_frame: int, name: str
) -> NDArray[np.int64]:
    """Which of ``count`` units stands at which of ``frames`` frames and place, as :func:`labels_for_frames` lays them.

    Shape ``(T, R)``, int64. ``name``: of the utterance, for the error.
    """
    if labels_per_frame < 1 or frames < 0:
        raise DataError(
            f"Expected at least one label a frame and no fewer than 0 frames; got {labels_per_frame}, {frames}."
        )
    places = (np.arange(labels_per_frame) + 0.5) / labels_per_frame - 0.5
    samples = clock.center(0) + (np.arange(frames)[:, None] + places[None, :]) * clock.hop
    index = np.floor((samples - unit_clock.center(0)) / unit_clock.hop + 0.5 + 1e-9).astype(np.int64)
    ratio = clock.hop / unit_clock.hop
    kept = index[index[:, 0] < count]
    unused = count - 1 - (int(kept[-1, 0]) if len(kept) else -1)
    spare = (FRAME_TOLERANCE + max(1.0, 1.0 / ratio)) * ratio + abs(
        clock.center(0) - unit_clock.center(0)
    ) / unit_clock.hop
    if frames - len(kept) > FRAME_TOLERANCE * max(1.0, 1.0 / ratio) or unused > spare:
        where = f" for utterance {name!r}" if name else ""
        raise DataError(
            f"Units and audio disagree{where}: got {count} units at {unit_clock.rate:g} Hz = "
            f"{count / unit_clock.rate:.2f} s, audio has {frames} frames at {clock.rate:g} Hz = "
            f"{frames / clock.rate:.2f} s. More than {FRAME_TOLERANCE} frames apart; encode this corpus again with "
            "`allophone units encode`."
        )
    return kept.clip(0, max(count - 1, 0))
