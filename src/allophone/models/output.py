"""What every encoder returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allophone.batch import Packed, valid_positions
from allophone.errors import ConfigError, ShapeError


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """Hidden states of a batch, packed, and what the masked-prediction loss needs of the front end."""

    hidden_states: tuple[Packed, ...]
    """Index 0 = input of layer 1, index i = output of layer i; as ``transformers`` numbers them."""
    features_penalty: Tensor | None = None
    """Sum of squares of the convolutional features over real frames, shape ``()``; None without such a front end."""
    feature_count: int = 0
    """Values in that sum."""
    coarse: Packed | None = None
    """Last hidden state at a lower rate, ``(N', D)``, of an encoder that has one and ran far enough."""


def checked_lengths(waveform: Tensor, waveform_lengths: Tensor, receptive_field: int) -> list[int]:
    """Lengths of a batch as numbers.

    Args:
        waveform: Shape ``(batch, samples)``.
        waveform_lengths: Shape ``(batch,)``, int64, samples.
        receptive_field: Samples of one frame.

    Raises:
        ShapeError: Shapes disagree, or an utterance is shorter than one frame or longer than the batch.
    """
    if waveform.dim() != 2 or waveform_lengths.shape != waveform.shape[:1] or not len(waveform):
        raise ShapeError(
            f"expected waveform (batch, samples) and waveform_lengths (batch,); "
            f"got {tuple(waveform.shape)} and {tuple(waveform_lengths.shape)}."
        )
    lengths: list[int] = waveform_lengths.tolist()
    for row, length in enumerate(lengths):
        if not receptive_field <= length <= waveform.shape[1]:
            raise ShapeError(
                f"utterance {row} of the batch has {length} samples; expected {receptive_field} (one frame) to "
                f"{waveform.shape[1]} (the padded size). Leave out or pad what is shorter than a frame."
            )
    return lengths


def checked_depth(num_layers: int | None, depth: int) -> int:
    """Layers to run of an encoder that has ``depth``; None means all.

    Raises:
        ConfigError: ``num_layers`` is negative or more than there are.
    """
    stop = depth if num_layers is None else num_layers
    if not 0 <= stop <= depth:
        raise ConfigError(f"num_layers: the encoder has {depth} layers; got {stop}.")
    return stop


def flat_mask(masked: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Masks of the real frames, ``(B, T)`` to ``(N,)``, bool.

    Raises:
        ShapeError: ``masked`` is not (utterances, longest of ``lengths``).
    """
    expected = (len(lengths), max(lengths))
    if masked.shape != expected:
        raise ShapeError(f"masked: expected (batch, frames) = {expected}; got {tuple(masked.shape)}.")
    return masked[valid_positions(torch.tensor(lengths, device=masked.device), masked.shape[1])]
