"""Attention for training on a CPU, with dropout on its weights and nothing kept but its inputs.

PyTorch's attention on a CPU, given dropout, computes in float32 whatever it gets and keeps the weights of all pairs of
frames several times over; without dropout, its backward pass in bfloat16 is slow. Here products are made in the dtype
of the inputs, and the weights, and which of them were dropped, are made again for the backward pass.

Shape letters: B utterances, H heads, T frames, E values of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from allophone.nn.dropout import draw_seed, drop_, kept, scale


def trained_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """What ``scaled_dot_product_attention`` gives, with other draws of dropout.

    Args:
        queries: Shape ``(B, H, T, E)``.
        keys: Same shape.
        values: Same shape.
        mask: Added to the scaled logits. Shape ``(B, H, T, T)``.
        dropout: Share of weights set to zero.

    Returns:
        Same shape as ``queries``. Can be differentiated once.
    """
    attended: Tensor = _Attention.apply(queries, keys, values, mask, dropout)  # type: ignore[no-untyped-call]
    return attended


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float
    ) -> Tensor:
        context.dropout, context.seed = dropout, draw_seed() if dropout > 0 else 0
        context.save_for_backward(queries, keys, values, mask)
        with torch.autocast(queries.device.type, enabled=False):
            weights = _weights(queries, keys, mask)
            if dropout > 0:
                drop_(weights, kept(weights.shape, dropout, context.seed))
            output = weights @ values
            return output.mul_(scale(dropout)) if dropout > 0 else output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None]:
        queries, keys, values, mask = context.saved_tensors
        (gradient,) = gradients
        weights = _weights(queries, keys, mask)
        stay = None if context.dropout == 0 else kept(weights.shape, context.dropout, context.seed)
        if stay is not None:
            gradient = gradient * scale(context.dropout)
        for_weights = gradient @ values.mT
        if stay is not None:
            drop_(for_weights, stay)
        logits = torch._softmax_backward_data(for_weights, weights, -1, weights.dtype)
        if stay is not None:
            drop_(weights, stay)
        for_values = weights.mT @ gradient
        factor = queries.shape[-1] ** -0.5
        return (
            (logits @ keys).mul_(factor),
            (logits.mT @ queries).mul_(factor),
            for_values,
            logits if context.needs_input_grad[3] else None,
            None,
        )


def _weights(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """Attention weights before dropout, ``(B, H, T, T)``."""
    logits = (queries * queries.shape[-1] ** -0.5) @ keys.mT
    return torch.softmax(logits if mask is None else logits + mask, dim=-1)
