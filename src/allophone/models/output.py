"""What every encoder returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from allophone.batch import Packed


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """Hidden states of a batch, packed, and what the masked-prediction loss needs of the front end."""

    hidden_states: tuple[Packed, ...]
    """Index 0 = input of layer 1, index i = output of layer i; as ``transformers`` numbers them."""
    features_penalty: Tensor | None = None
    """Sum of squares of the convolutional features over real frames, shape ``()``; None without such a front end."""
    feature_count: int = 0
    """Values in that sum."""
