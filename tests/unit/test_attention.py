"""Packed attention: each utterance for itself, in any mixture of lengths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allophone.batch import Packed
from allophone.errors import ShapeError
from allophone.nn import attention
from allophone.nn.attention import GatedBias, by_length, length_groups, packed_attention

RAGGED, EQUAL = (5, 3, 5, 1, 8), (4, 4, 4)


def random_qkv(lengths: tuple[int, ...], heads: int = 2, head_dim: int = 6) -> list[Tensor]:
    return [torch.randn(sum(lengths), heads, head_dim, requires_grad=True) for _ in range(3)]


def random_bias(lengths: tuple[int, ...], heads: int = 2) -> GatedBias:
    longest = max(lengths) + 2  # of a batch that these may be a part of
    table, gate = torch.randn(heads, 2 * longest - 1), torch.randn(sum(lengths), heads)
    return GatedBias(table.requires_grad_(), gate.requires_grad_())


def reference(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], bias: GatedBias | None) -> Tensor:
    """Softmax over one matrix of all frames, -inf between two utterances."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    scores = torch.einsum("nhd,mhd->hnm", q, k) / q.shape[-1] ** 0.5
    if bias is not None:
        longest = (bias.by_distance.shape[1] + 1) // 2
        place = torch.cat([torch.arange(n) for n in lengths])
        distance = (place[None, :] - place[:, None]).clamp(1 - longest, longest - 1)
        scores = scores + bias.gate.T[:, :, None] * bias.by_distance[:, longest - 1 - distance]
    scores = scores.masked_fill(owner[:, None] != owner[None, :], float("-inf"))
    return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v)


@pytest.mark.parametrize("lengths", [RAGGED, EQUAL, (7,)])
@pytest.mark.parametrize("biased", [False, True])
def test_equals_block_diagonal_attention_with_gradients(
    lengths: tuple[int, ...], biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MASK_VALUES", 2 * 2 * max(lengths) ** 2)  # two of the longest at once
    q, k, v = random_qkv(lengths)
    bias = random_bias(lengths) if biased else None
    ours, theirs = packed_attention(q, k, v, lengths, bias), reference(q, k, v, lengths, bias)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(packed_attention(q, k, v, lengths, bias), theirs, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(ours)
    inputs = (q, k, v) if bias is None else (q, k, v, bias.by_distance, bias.gate)
    for one, other in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_masks_are_written_out_a_few_utterances_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    plain = attention._attend

    def watched(q: Tensor, k: Tensor, v: Tensor, dropout: float, mask: Tensor) -> Tensor:
        sizes.append(tuple(mask.shape))
        return plain(q, k, v, dropout, mask)

    monkeypatch.setattr(attention, "_attend", watched)
    for limit, expected in (
        (2**24, [(3, 2, 4, 4)]),
        (2 * 2 * 4**2, [(2, 2, 4, 4), (1, 2, 4, 4)]),
        (1, [(1, 2, 4, 4)] * 3),
    ):
        monkeypatch.setattr(attention, "MASK_VALUES", limit)
        sizes.clear()
        with torch.no_grad():
            packed_attention(*random_qkv(EQUAL), EQUAL, random_bias(EQUAL))
        assert sizes == expected


def test_gated_attention_keeps_no_matrix_of_pairs_for_the_backward_pass() -> None:
    lengths = (40, 40)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        packed_attention(*random_qkv(lengths), lengths, random_bias(lengths), dropout=0.5)
    assert max(kept, default=0) < 40 * 40


@pytest.mark.parametrize("lengths", [RAGGED, EQUAL])
def test_no_gradient_crosses_from_one_utterance_to_another(lengths: tuple[int, ...]) -> None:
    q, k, v = random_qkv(lengths)
    packed_attention(q, k, v, lengths)[: lengths[0]].sum().backward()
    for tensor in (q, k, v):
        assert tensor.grad is not None
        assert tensor.grad[lengths[0] :].abs().max() == 0
    assert v.grad is not None and v.grad[: lengths[0]].abs().min() > 0


def test_dropout_drops_and_zero_dropout_does_not() -> None:
    q, k, v = random_qkv(EQUAL)
    full = packed_attention(q, k, v, EQUAL)
    assert torch.equal(packed_attention(q, k, v, EQUAL, dropout=0.0), full)
    assert not torch.allclose(packed_attention(q, k, v, EQUAL, dropout=0.5), full)


def test_lengths_that_do_not_add_up_are_refused() -> None:
    q, k, v = random_qkv(EQUAL)
    with pytest.raises(ShapeError, match=r"add up to 11.*as many frames"):
        packed_attention(q, k, v, (4, 4, 3))
    with pytest.raises(ShapeError, match="three equal shapes"):
        packed_attention(q, k[:, :1], v, EQUAL)


def test_length_groups_cover_every_utterance_once() -> None:
    groups = length_groups(RAGGED)
    assert sorted(index for _, indices in groups for index in indices) == list(range(len(RAGGED)))
    assert all(RAGGED[index] == length for length, indices in groups for index in indices)


def test_by_length_keeps_order_calls_once_per_length_and_lets_lengths_change() -> None:
    values = torch.randn(sum(RAGGED), 3, requires_grad=True)
    seen: list[tuple[int, ...]] = []

    def differences(frames: Tensor) -> Tensor:
        seen.append(tuple(frames.shape))
        return torch.cat([frames, frames.sum(dim=1, keepdim=True)], dim=1)

    result = by_length(Packed(values, RAGGED), differences)
    assert result.lengths == tuple(length + 1 for length in RAGGED)
    assert sorted(seen) == [(1, 1, 3), (1, 3, 3), (1, 8, 3), (2, 5, 3)]
    for part, source in zip(result.split(), values.split(RAGGED), strict=True):
        assert torch.equal(part[:-1], source)
        torch.testing.assert_close(part[-1], source.sum(dim=0))
    result.values.sum().backward()
    assert values.grad is not None and torch.equal(values.grad, torch.full_like(values, 2.0))


def test_by_length_makes_one_call_when_all_are_equal() -> None:
    calls: list[int] = []

    def count(frames: Tensor) -> Tensor:
        calls.append(len(frames))
        return frames * 2

    values = torch.randn(12, 3)
    assert torch.equal(by_length(Packed(values, EQUAL), count).values, values * 2)
    assert calls == [3]
