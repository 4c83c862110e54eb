"""The convolution through its spectrum against PyTorch's own, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from allophone.batch import Packed
from allophone.nn import spectral_convolution as module
from allophone.nn.convolution import PositionalConvolution
from allophone.nn.spectral_convolution import spectral_convolution, worthwhile

GROUPS, CHANNELS = 3, 4


def plain(hidden: Packed, weight: Tensor, bias: Tensor) -> Tensor:
    """PyTorch's convolution of each utterance by itself."""
    rows = [
        functional.conv1d(one.t()[None], weight, bias, padding=weight.shape[2] // 2, groups=GROUPS)[
            0, :, : len(one)
        ].t()
        for one in hidden.split()
    ]
    return torch.cat(rows)


def drawn(lengths: tuple[int, ...], kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(kernel)
    dim = GROUPS * CHANNELS
    shapes = ((sum(lengths), dim), (dim, CHANNELS, kernel), (dim,))
    values, weight, bias = (torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes)
    return values, weight, bias


@pytest.mark.parametrize("kernel", [1, 2, 5, 16, 31, 128])
@pytest.mark.parametrize("lengths", [(1,), (40,), (300, 7, 64, 1)])
def test_values_and_gradients_are_those_of_the_plain_convolution(kernel: int, lengths: tuple[int, ...]) -> None:
    tensors = drawn(lengths, kernel)
    weights = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1))
    found = spectral_convolution(Packed(tensors[0], lengths), tensors[1], tensors[2], GROUPS)
    expected = plain(Packed(tensors[0], lengths), tensors[1], tensors[2])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    gradients = torch.autograd.grad((found * weights).sum(), tensors)
    theirs = torch.autograd.grad((expected * weights).sum(), tensors)
    for one, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=5e-4, rtol=1e-5)  # sums of hundreds of products


def test_a_long_recording_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values, weight, bias = drawn((200, 90), 8)
    hidden = Packed(values, (200, 90))
    whole = spectral_convolution(hidden, weight, bias, GROUPS)
    monkeypatch.setattr(module, "AT_ONCE", 7)
    torch.testing.assert_close(spectral_convolution(hidden, weight, bias, GROUPS), whole, atol=1e-5, rtol=1e-5)


def test_autocast_changes_nothing_inside_and_the_frames_keep_their_dtype() -> None:
    values, weight, bias = drawn((50, 20), 16)
    frames = values.detach().bfloat16()
    exact = plain(Packed(frames.float(), (50, 20)), weight, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = spectral_convolution(Packed(frames, (50, 20)), weight, bias, GROUPS)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact.bfloat16(), atol=0, rtol=0.01)


def test_transforms_that_inference_made_serve_training() -> None:
    module._transforms.cache_clear()
    tensors = drawn((30,), 8)
    with torch.inference_mode():
        spectral_convolution(Packed(tensors[0], (30,)), tensors[1], tensors[2], GROUPS)
    spectral_convolution(Packed(tensors[0], (30,)), tensors[1], tensors[2], GROUPS).sum().backward()
    assert tensors[1].grad is not None and bool(tensors[1].grad.abs().sum() > 0)


def test_positions_are_the_same_by_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    positions = PositionalConvolution(12, 16, 3, False, "gelu")
    hidden = Packed(torch.randn(90, 12), (60, 30))
    assert not worthwhile(hidden, positions.conv.weight)  # small ones are PyTorch's
    plainly = positions(hidden)
    monkeypatch.setattr(module, "FEWEST_WEIGHTS", 1)
    assert worthwhile(hidden, positions.conv.weight)
    torch.testing.assert_close(positions(hidden), plainly, atol=1e-5, rtol=1e-5)
    assert not worthwhile(Packed(hidden.values[:20], (20,)), positions.conv.weight)  # and short ones
    assert not worthwhile(hidden.with_values(hidden.values.double()), positions.conv.weight)  # and exact ones
    many = Packed(torch.randn(180, 12), (2,) * 90)
    assert not worthwhile(many, positions.conv.weight)  # and many that fill no block
