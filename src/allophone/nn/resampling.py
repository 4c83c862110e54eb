"""Packed frames of one rate to frames of another, each utterance by itself.

Two ways up, which a :class:`~allophone.frames.FrameClock` places in time: every frame of the slow model is cut into as
many sub-frames as the fast model has frames in its hop, by copying it or by a learned linear map, and every fast frame
takes the sub-frame whose center is nearest. And the sampling module of MR-HuBERT, for both directions.

Source: Shi et al. 2023, arXiv:2310.02720 (:class:`RateAdapter`, as fairseq computes it). How arXiv:2306.01084 brings
slow frames to the fast rate was not found: ``repeat``, ``linear`` and the alignment in time are our choice.
Shape letters: B utterances, T frames of one, N frames of all, D dim, r frames of the fast clock in a slow hop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from allophone.batch import Packed
from allophone.errors import ConfigError, ShapeError
from allophone.frames import FrameClock
from allophone.nn.attention import by_length

Kind = Literal["repeat", "linear"]
"""``repeat`` copies slow frames; ``linear`` learns a transposed convolution whose kernel is its stride."""


def rate_ratio(slow: FrameClock, fast: FrameClock) -> int:
    """Frames of the fast clock in one hop of the slow one.

    Raises:
        ConfigError: The slow hop is not a multiple of the fast one.

    Example:
        >>> rate_ratio(FrameClock(hop=1280, receptive_field=2510), FrameClock(hop=320, receptive_field=400))
        4
    """
    if slow.hop % fast.hop:
        raise ConfigError(
            f"A frame every {slow.hop} samples cannot be brought to one every {fast.hop}: {slow.hop} is not a multiple "
            f"of {fast.hop}. Take encoders whose hops divide each other, such as 320, 640 and 1280."
        )
    return slow.hop // fast.hop


def sub_frames(slow: FrameClock, fast: FrameClock, slow_frames: int, fast_frames: int) -> Tensor:
    """Which sub-frame of an utterance each of its fast frames takes: the one whose center is nearest.

    Before the first and after the last sub-frame, where a slow model with its wide receptive field has none, the first
    and the last are taken again. Halfway between two, the earlier one is.

    Args:
        slow: Clock of the frames that are cut into ``rate_ratio`` sub-frames each.
        fast: Clock of the frames that are wanted.
        slow_frames: How many there are, at least 1.
        fast_frames: How many are wanted.

    Returns:
        Shape ``(fast_frames,)``, int64, 0 to ``rate_ratio * slow_frames - 1``.

    Raises:
        ConfigError: See :func:`rate_ratio`.

    Example:
        >>> clocks = FrameClock(hop=640, receptive_field=1270), FrameClock(hop=320, receptive_field=400)
        >>> sub_frames(*clocks, slow_frames=2, fast_frames=6)
        tensor([0, 0, 1, 2, 3, 3])
    """
    ratio = rate_ratio(slow, fast)
    first = slow.center(0) + (0.5 / ratio - 0.5) * slow.hop
    behind = (fast.center(0) - first) / fast.hop
    index = torch.arange(fast_frames) + math.ceil(behind - 0.5)
    return index.clamp(0, ratio * slow_frames - 1)


class Upsampling(nn.Module):
    """Frames of a slow model laid beside the frames of a fast one.

    Args:
        slow: Clock of what comes in.
        fast: Clock of what goes out.
        dim: Width of what comes in.
        out_dim: Width of what goes out; ``repeat`` cannot change it.
        kind: See :data:`Kind`.

    Raises:
        ConfigError: The clocks do not fit, or ``repeat`` is to change the width.
    """

    def __init__(self, slow: FrameClock, fast: FrameClock, dim: int, out_dim: int, kind: Kind) -> None:
        super().__init__()
        self.slow, self.fast, self.out_dim = slow, fast, out_dim
        self.ratio = rate_ratio(slow, fast)
        if kind == "repeat" and dim != out_dim:
            raise ConfigError(f"Repeated frames keep their width {dim}; {out_dim} is wanted. Use upsampling 'linear'.")
        self.linear = nn.Linear(dim, self.ratio * out_dim) if kind == "linear" else None
        if self.linear is not None:
            nn.init.normal_(self.linear.weight, std=dim**-0.5)
            nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Packed, lengths: Sequence[int]) -> Packed:
        """Bring frames to the fast rate.

        Args:
            hidden: Slow frames, packed ``(N slow, dim)``.
            lengths: Fast frames of each utterance.

        Returns:
            Packed ``(N fast, out_dim)``.

        Raises:
            ShapeError: Not as many lengths as utterances, or an utterance without a slow frame.
        """
        if len(lengths) != len(hidden.lengths) or min(hidden.lengths) < 1:
            raise ShapeError(
                f"Upsampling: {len(hidden.lengths)} utterances of {hidden.lengths} frames to {tuple(lengths)}; "
                "expected as many lengths and at least one frame each."
            )
        parts, offset = [], 0
        for own, wanted in zip(hidden.lengths, lengths, strict=True):
            parts.append(sub_frames(self.slow, self.fast, own, wanted) + offset)
            offset += own * self.ratio
        index = torch.cat(parts).to(hidden.values.device)
        if self.linear is None:
            return Packed(hidden.values[index // self.ratio], tuple(lengths))
        return Packed(self.linear(hidden.values).view(-1, self.out_dim)[index], tuple(lengths))


class RateAdapter(nn.Module):
    """The sampling module of MR-HuBERT: up by a transposed convolution, down by a strided one, with ways around both.

    ``u = s (GELU(norm(up(x))) + repeat(x))``, ``v = s (GELU(norm(down(u))) + every(u))`` and ``y = s (v +
    every(repeat(x)))`` with ``s = sqrt(0.4)``, where ``every`` takes each ``down``-th frame. A norm is taken over all
    dims and real frames of one utterance.

    Args:
        dim: Width D.
        up: Factor of the first convolution.
        down: Factor of the second.
        kernel: Of both, odd; 1 as published.
    """

    def __init__(self, dim: int, up: int, down: int, kernel: int = 1) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0 or min(up, down) < 1:
            raise ConfigError(f"A rate adapter needs an odd kernel and factors >= 1; got {kernel}, {up}, {down}.")
        self.up, self.down, self.scale = up, down, 0.4**0.5
        padding = kernel // 2
        self.up_conv = nn.ConvTranspose1d(dim, dim, kernel, up, padding, output_padding=up - 1, bias=False)
        self.up_norm = nn.GroupNorm(1, dim)
        self.down_conv = nn.Conv1d(dim, dim, kernel, down, padding, bias=False)
        self.down_norm = nn.GroupNorm(1, dim)

    def forward(self, hidden: Packed) -> Packed:
        """Packed ``(N, D)`` to packed ``(N', D)``; T frames of an utterance become ``ceil(T * up / down)``."""
        return by_length(hidden, self._resample)

    def _resample(self, frames: Tensor) -> Tensor:
        """``(B, T, D)`` to ``(B, T', D)``."""
        inputs = frames.transpose(1, 2)
        repeated = inputs.repeat_interleave(self.up, dim=2)
        raised = (functional.gelu(self.up_norm(self.up_conv(inputs))) + repeated) * self.scale
        lowered = functional.gelu(self.down_norm(self.down_conv(raised)))
        output = (lowered + raised[..., :: self.down]) * self.scale
        highway: Tensor = (output + repeated[..., :: self.down]) * self.scale
        return highway.transpose(1, 2)


def cut(packed: Packed, lengths: Sequence[int]) -> Packed:
    """Only the first frames of each utterance. ``packed``: ``(N, D)``; ``lengths``: frames of each that are kept."""
    if tuple(lengths) == packed.lengths:
        return packed
    parts = [part[:length] for part, length in zip(packed.split(), lengths, strict=True)]
    return Packed(torch.cat(parts), tuple(lengths))
