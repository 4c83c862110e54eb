"""Attention and other per-utterance operations on packed frames, without padding and without mixing utterances.

Utterances of equal length share one call; an utterance with a length of its own is computed alone. So the result
for an utterance does not depend on its batch mates, and nothing is spent on padding.

Shape letters: B utterances, T frames of one of them, N frames of all, D and E dims, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from allophone.batch import Packed
from allophone.errors import ShapeError
from allophone.nn.trained_attention import trained_attention

MASK_VALUES = 2**24
"""Most values of a mask or of weights written out at once, where one utterance does not need more: 64 MiB."""


def length_groups(lengths: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Which utterances have which length.

    Returns:
        Pairs (length, indices of the utterances that have it), in order of first appearance.

    Example:
        >>> length_groups([5, 3, 5])
        [(5, (0, 2)), (3, (1,))]
    """
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(length, []).append(index)
    return [(length, tuple(indices)) for length, indices in groups.items()]


def by_length(packed: Packed, function: Callable[[Tensor], Tensor]) -> Packed:
    """Apply a function that sees whole utterances to each group of equally long ones.

    Args:
        packed: Frames of B utterances, ``values`` of shape ``(N, D)``.
        function: From ``(B, T, D)`` to ``(B, any number of frames, E)``; row b may depend on row b only.

    Returns:
        Its outputs end to end in the order of ``packed``; ``lengths`` follow the function's frames. One call when
        all lengths are equal. Gradients flow.
    """
    groups = length_groups(packed.lengths)
    if len(groups) == 1:
        batch = len(packed.lengths)
        output = function(packed.values.reshape(batch, groups[0][0], *packed.values.shape[1:]))
        return Packed(output.flatten(0, 1), (output.shape[1],) * batch)
    utterances = packed.split()
    outputs: list[Tensor] = [packed.values] * len(utterances)
    for _, indices in groups:
        rows = function(_stack([utterances[index] for index in indices]))
        for index, row in zip(indices, rows.unbind(0), strict=True):
            outputs[index] = row
    return Packed(torch.cat(outputs), tuple(len(output) for output in outputs))


def _stack(rows: list[Tensor]) -> Tensor:
    return rows[0][None] if len(rows) == 1 else torch.stack(rows)


@dataclass(frozen=True, slots=True)
class GatedBias:
    """What is added to the scaled logits of query i and key j, in each head: ``gate[i]`` times the bias of j - i."""

    by_distance: Tensor
    """Bias of every distance, key minus query, from L - 1 (key far behind) down to 1 - L. Shape ``(H, 2L - 1)``; L is
    the longest utterance, whose table holds for the shorter ones too."""
    gate: Tensor
    """How strongly each query heeds it. Shape ``(N, H)``."""


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    bias: GatedBias | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention inside each utterance, never across two.

    Args:
        q: Queries of all utterances end to end, not yet scaled. Shape ``(N, H, head_dim)``.
        k: Keys, same shape.
        v: Values, same shape.
        lengths: Frames of each utterance; they add up to N.
        bias: What is added to the scaled logits; None adds nothing.
        dropout: Share of attention weights set to zero; give 0 in evaluation.

    Returns:
        Shape ``(N, H, head_dim)``.

    Raises:
        ShapeError: The three tensors differ in shape, or ``lengths`` do not add up to N.

    Source:
        Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1, equation 1. Deviations: none.
    """
    if not q.shape == k.shape == v.shape or q.dim() != 3 or sum(lengths) != len(q):
        raise ShapeError(
            f"packed_attention: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} and lengths that add up to "
            f"{sum(lengths)}; expected three equal shapes (frames, heads, head_dim), as many frames as the lengths say."
        )

    def attend(queries: Tensor, keys: Tensor, values: Tensor, *gate: Tensor) -> Tensor:
        if bias is None:
            return _attend(queries, keys, values, dropout)
        # Recomputed in the backward pass, for 4 % more time a step: what would be kept otherwise, one value a head and
        # pair of frames in every layer, is a quarter of what WavLM Base keeps of clips of 12 s, near half at 24 s.
        attended: Tensor = checkpoint(
            _attend_by_distance, queries, keys, values, *gate, bias.by_distance, dropout, use_reentrant=False
        )
        return attended

    groups = length_groups(lengths)
    tensors: tuple[Tensor, ...] = (q, k, v)
    if bias is not None:
        tensors = (q, k, v, bias.gate)
    if bias is not None or _is_trained(q, v, dropout):
        groups = _in_parts(groups, q.shape[1])
    if len(groups) == 1:
        shape = (len(lengths), groups[0][0])
        return attend(*(tensor.reshape(*shape, *tensor.shape[1:]) for tensor in tensors)).flatten(0, 1)
    split = [torch.split(tensor, list(lengths)) for tensor in tensors]
    outputs: list[Tensor] = [q] * len(lengths)
    for _, indices in groups:
        rows = attend(*(_stack([parts[index] for index in indices]) for parts in split))
        for index, row in zip(indices, rows.unbind(0), strict=True):
            outputs[index] = row
    return torch.cat(outputs)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, dropout: float, mask: Tensor | None = None) -> Tensor:
    """Attention of equally long utterances, ``(B, T, H, head_dim)`` each, ``mask`` ``(B, H, T, T)``."""
    q, k, v = queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
    if _is_trained(q, v, dropout):
        return trained_attention(q, k, v, mask, dropout).transpose(1, 2)
    attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return attended.transpose(1, 2)


def _is_trained(q: Tensor, v: Tensor, dropout: float) -> bool:
    """Whether :func:`trained_attention` serves, which writes out the weights of all pairs for a moment."""
    learns = torch.is_grad_enabled() and (q.requires_grad or v.requires_grad)
    return q.device.type == "cpu" and (learns or dropout > 0)


def _attend_by_distance(
    queries: Tensor, keys: Tensor, values: Tensor, gate: Tensor, by_distance: Tensor, dropout: float
) -> Tensor:
    """The same with a :class:`GatedBias` of these utterances; ``gate`` ``(B, T, H)``.

    With keys and values read backwards, which changes nothing else, the bias of query i and the key at place j depends
    on i + j. So the biases of all pairs are overlapping windows of ``by_distance``, a view without a copy. Only their
    product with the gate is written out, since SDPA takes no other form of bias.
    """
    frames = queries.shape[1]
    unused = (by_distance.shape[1] + 1) // 2 - frames
    windows = by_distance[:, unused : by_distance.shape[1] - unused].unfold(1, frames, 1)
    mask = (gate.transpose(1, 2)[..., None] * windows).to(queries.dtype)
    return _attend(queries, keys.flip(1), values.flip(1), dropout, mask)


def _in_parts(groups: list[tuple[int, tuple[int, ...]]], heads: int) -> list[tuple[int, tuple[int, ...]]]:
    """Groups of equally long utterances, cut so that no weights of one have many more than ``MASK_VALUES`` values."""
    parts = []
    for length, indices in groups:
        at_once = max(1, MASK_VALUES // (heads * length**2))
        parts += [(length, indices[start : start + at_once]) for start in range(0, len(indices), at_once)]
    return parts


def near_offsets(heads: int, layer: int) -> list[int]:
    """The frame that each head of a fresh layer looks at first, relative to its own; odd layers look one further.

    Example:
        >>> near_offsets(4, 0), near_offsets(4, 1)
        ([-1, 1, -2, 2], [-2, 2, -3, 3])
    """
    return [(2 ** (head // 2) + layer % 2) * (1 if head % 2 else -1) for head in range(heads)]
