"""Rotary positions: queries and keys turned by an angle that grows with time, so that their product sees distances.

Source: Su et al. 2021, arXiv:2104.09864, equation 34, pairs laid out as (first half, second half) as in
``transformers``. Shape letters: N frames of all utterances end to end, H heads, E head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def frequencies(head_size: int, theta: float) -> Tensor:
    """Angle by which one frame turns each pair, radians. Shape ``(E / 2,)``, float32."""
    return theta ** (-torch.arange(0, head_size, 2).float() / head_size)


def rotation(
    lengths: Sequence[int], head_size: int, theta: float, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every frame's angles, counted from the start of its utterance.

    Args:
        lengths: Frames of each utterance; they add up to N.
        head_size: E, even.
        theta: Base of the frequencies; smaller turns faster.
        device: Where the result is wanted; None = the CPU.

    Returns:
        Two tensors of shape ``(N, 1, E)``, float32.
    """
    positions = torch.cat([torch.arange(length, device=device) for length in lengths]).float()
    angles = positions[:, None] * frequencies(head_size, theta).to(positions.device)
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos(), angles.sin()


def rotate(values: Tensor, turned: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair by its frame's angles.

    Args:
        values: Queries or keys. Shape ``(N, H, E)``.
        turned: What :func:`rotation` gave.

    Returns:
        Same shape and dtype.
    """
    first, second = values.chunk(2, dim=-1)
    cosine, sine = (part.to(values.dtype) for part in turned)
    return values * cosine + torch.cat([-second, first], dim=-1) * sine
