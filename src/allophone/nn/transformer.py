"""Transformer layers on packed frames: everything that works on one frame at a time is one product over all frames.

Source: Vaswani et al. 2017, arXiv:1706.03762; pre-norm as in Baevski et al. 2020, arXiv:2006.11477 (large models).
Module and parameter names are those of the HuBERT and wav2vec 2.0 models in ``transformers``. Every projection is a
called ``nn.Linear``, so that adapters which wrap modules take effect. No layer drop.
Shape letters: N frames of all utterances, D dim, F inner dim, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn

from allophone.batch import Packed
from allophone.nn.attention import GatedBias, packed_attention
from allophone.nn.convolution import activation
from allophone.nn.dropout import Dropout
from allophone.nn.products import Linear


class SelfAttention(nn.Module):
    """Multi-head attention within each utterance."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.k_proj = Linear(dim, dim)
        self.v_proj = Linear(dim, dim)
        self.q_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)

    def forward(self, hidden: Packed, by_distance: Tensor | None = None) -> Tensor:
        """Packed ``(N, D)`` to ``(N, D)``.

        Args:
            hidden: What attends to itself.
            by_distance: What :meth:`by_distance` of the first layer's attention gave. Shape ``(H, 2L - 1)``, or None.
        """
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (projection(hidden.values).unflatten(-1, (self.num_heads, -1)) for projection in projections)
        dropout = self.dropout if self.training else 0.0
        bias = None if by_distance is None else GatedBias(by_distance, self.gate(hidden.values))
        attended: Tensor = self.out_proj(packed_attention(q, k, v, hidden.lengths, bias, dropout).flatten(1))
        return attended

    def by_distance(self, longest: int) -> Tensor | None:
        """What all layers add to logits by the distance of two frames, at most ``longest - 1``; here nothing."""
        return None

    def gate(self, values: Tensor) -> Tensor:
        """How strongly each frame heeds distances, ``(N, D)`` to ``(N, H)``; here all alike."""
        return values.new_ones(len(values), self.num_heads)


class FeedForward(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, dim: int, inner_dim: int, activation_name: str, inner_dropout: float, dropout: float) -> None:
        super().__init__()
        self.intermediate_dense = Linear(dim, inner_dim)
        self.intermediate_dropout = Dropout(inner_dropout)
        self.output_dense = Linear(inner_dim, dim)
        self.output_dropout = Dropout(dropout)
        self.activation = activation(activation_name)

    def forward(self, values: Tensor) -> Tensor:
        """``(N, D)`` to ``(N, D)``."""
        inner = self.intermediate_dropout(self.activation(self.intermediate_dense(values)))
        output: Tensor = self.output_dropout(self.output_dense(inner))
        return output


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each with a residual and a layer norm.

    Args:
        dim: Width D.
        attention: Of the same width.
        inner_dim: Width F of the feed-forward part.
        activation_name: One of :data:`allophone.nn.convolution.ACTIVATIONS`.
        norm_first: Normalize before each part (pre-norm) rather than after each sum (post-norm).
        norm_eps: Added to variances.
        dropout: After attention and after the feed-forward part.
        inner_dropout: Inside the feed-forward part.
    """

    def __init__(
        self,
        dim: int,
        attention: SelfAttention,
        inner_dim: int,
        activation_name: str = "gelu",
        *,
        norm_first: bool,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        inner_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = attention
        self.dropout = Dropout(dropout)
        self.layer_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.feed_forward = FeedForward(dim, inner_dim, activation_name, inner_dropout, dropout)
        self.final_layer_norm = nn.LayerNorm(dim, eps=norm_eps)

    def forward(self, hidden: Packed, by_distance: Tensor | None = None) -> Packed:
        """Packed ``(N, D)`` to packed ``(N, D)``; ``by_distance``: ``(H, 2L - 1)`` or None, as attention takes it."""
        values = hidden.values
        if self.norm_first:
            normalized = hidden.with_values(self.layer_norm(values))
            values = values + self.dropout(self.attention(normalized, by_distance))
            return hidden.with_values(values + self.feed_forward(self.final_layer_norm(values)))
        values = self.layer_norm(values + self.dropout(self.attention(hidden, by_distance)))
        return hidden.with_values(self.final_layer_norm(values + self.feed_forward(values)))
