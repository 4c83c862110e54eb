"""Attention that heeds how far apart two frames are, each frame as much as its own content asks for.

Source: Chen et al. 2021 (WavLM), arXiv:2110.13900, the gated relative position bias of its model structure; buckets of
distances: Raffel et al. 2020 (T5), arXiv:1910.10683, section 2.1. Deviation from the paper, as in the released model:
gates are made of the layer's input, not of queries, by a linear layer whose outputs are added in fours.
Module and parameter names are those of WavLM in ``transformers``, which hands raw weights to a function where this
calls modules: there an adapter that wraps a projection has no effect, here it has.
Shape letters: N frames of all utterances, L frames of the longest, D dim, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from allophone.nn.transformer import SelfAttention


def distance_buckets(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Which learned bias each distance has: near ones their own, far ones shared, ever more widely.

    Args:
        distances: Key minus query, frames. Any shape, int64.
        num_buckets: Half of them for each direction, half of those for single distances.
        max_distance: From here on all distances of a direction share one.

    Returns:
        Same shape, int64, 0 to ``num_buckets - 1``.

    Example:
        >>> distance_buckets(torch.tensor([-900, -81, -80, -79, 0, 1, 900]), 320, 800)
        tensor([159,  80,  80,  79,   0, 161, 319])
    """
    half, exact = num_buckets // 2, num_buckets // 4
    sizes = distances.abs()
    growth = torch.log(sizes.clamp(min=exact).float() / exact) / math.log(max_distance / exact)
    far = (exact + growth * (half - exact)).long().clamp(max=half - 1)
    return torch.where(sizes < exact, sizes, far) + half * (distances > 0)


class GatedSelfAttention(SelfAttention):
    """Multi-head attention within each utterance, with a gated bias by distance.

    Args:
        dim: Width D.
        num_heads: Heads; must divide ``dim``.
        dropout: On attention weights.
        num_buckets: Biases of each head.
        max_distance: Frames from which on all distances share one.
        first: Whether this is the first layer's, which holds the biases of all.
    """

    def __init__(
        self, dim: int, num_heads: int, dropout: float, num_buckets: int, max_distance: int, first: bool
    ) -> None:
        super().__init__(dim, num_heads, dropout)
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, num_heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(dim // num_heads, 8)
        self.rel_attn_embed = nn.Embedding(num_buckets, num_heads) if first else None

    def by_distance(self, longest: int) -> Tensor | None:
        """Bias of every distance from ``longest - 1`` down, shape ``(H, 2L - 1)``; None but in the first layer."""
        if self.rel_attn_embed is None:
            return None
        distances = torch.arange(longest - 1, -longest, -1, device=self.rel_attn_embed.weight.device)
        biases: Tensor = self.rel_attn_embed(distance_buckets(distances, self.num_buckets, self.max_distance))
        return biases.T.contiguous()

    def gate(self, values: Tensor) -> Tensor:
        """How strongly each frame heeds distances, by its part of each head; ``(N, D)`` to ``(N, H)``."""
        eight: Tensor = self.gru_rel_pos_linear(values.reshape(len(values), self.num_heads, -1))
        closed, reset = eight.reshape(*eight.shape[:2], 2, 4).sum(dim=-1).sigmoid().unbind(dim=-1)
        return closed * (reset * self.gru_rel_pos_const.flatten() - 1.0) + 2.0  # closed: 1 minus the update gate
