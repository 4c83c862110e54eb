"""Products by oneDNN give what PyTorch gives, and so do their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from allophone.nn import products
from allophone.nn.products import Linear, channels_last, convolve, product, times_transposed


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def same_with_gradients(ours: Tensor, theirs: Tensor, leaves: list[Tensor], exact: list[Tensor]) -> None:
    """``ours`` in float32 from ``leaves``, ``theirs`` in float64 from ``exact``: values and gradients."""
    torch.testing.assert_close(ours.double(), theirs, atol=1e-3, rtol=1e-4)
    weights = torch.linspace(-1, 1, theirs.numel(), dtype=torch.float64).view_as(theirs)
    one = torch.autograd.grad((ours * weights.float()).sum(), leaves)
    other = torch.autograd.grad((theirs * weights).sum(), exact)
    for leaf, mine, reference in zip(leaves, one, other, strict=True):
        assert (mine.double() - reference).abs().max() < 1e-5 * reference.abs().max(), tuple(leaf.shape)


@pytest.mark.parametrize("shape", [(5, 300), (2, 3, 300), (1, 300), (300,)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_product_is_the_linear_function_with_its_gradients(shape: tuple[int, ...], bias: bool) -> None:
    exact = tensors(shape, (256, 300), (256,))[: 2 + bias]
    leaves = [tensor.detach().float().requires_grad_() for tensor in exact]
    same_with_gradients(product(*leaves), functional.linear(*exact), leaves, exact)


def test_transposed_views_are_taken_as_they_are() -> None:
    one, other = (tensor.detach().float() for tensor in tensors((300, 40), (300, 256)))
    torch.testing.assert_close(times_transposed(one.t(), other.t()), one.t() @ other, atol=1e-4, rtol=1e-4)


def test_an_expanded_gradient_and_no_rows_are_fine() -> None:
    layer = Linear(300, 256)
    layer(torch.ones(4, 300)).sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.full((256, 300), 4.0))
    assert layer(torch.ones(0, 300)).shape == (0, 256)


@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (10, 5), (5, 1), (2, 3)])
def test_a_convolution_is_the_textbook_one_with_its_gradients(kernel: int, stride: int) -> None:
    frames, weight, bias = exact = tensors((41, 160), (260, 160, kernel), (260,))
    theirs = functional.conv1d(frames.t()[None], weight, bias, stride=stride)[0].t()
    leaves = [tensor.detach().float().requires_grad_() for tensor in exact]
    ours = convolve(leaves[0], channels_last(leaves[1]), leaves[2], stride)
    same_with_gradients(ours, theirs, leaves, exact)


def test_a_part_of_a_longer_recording_is_convolved_from_where_it_starts() -> None:
    samples = torch.arange(100.0)
    ours = convolve(samples[30:61, None], torch.ones(1, 10), None, 5)
    torch.testing.assert_close(ours[:, 0], samples[30:61].unfold(0, 10, 5).sum(1))


def test_autocast_is_heeded_forwards_and_backwards() -> None:
    layer, frames = Linear(300, 256), torch.randn(8, 300, requires_grad=True)
    kernel = torch.randn(256, 300, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        linear, convolved = layer(frames), convolve(frames, channels_last(kernel), None, 2)
    assert linear.dtype == convolved.dtype == torch.bfloat16
    (linear.float().sum() + convolved.float().sum()).backward()
    assert kernel.grad is not None and kernel.grad.dtype == frames.grad.dtype == torch.float32
    torch.testing.assert_close(
        convolved.float(), functional.conv1d(frames.t()[None], kernel, stride=2)[0].t(), atol=0.5, rtol=0.05
    )


def test_only_large_products_in_float32_are_taken_from_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    if not products._ONEDNN:
        pytest.skip("this PyTorch has no oneDNN")
    values, weight = torch.ones(3, 300), torch.ones(256, 300)
    assert products.fast(values, weight)
    assert not products.fast(values.double(), weight.double())
    assert not products.fast(values[:, :8], torch.ones(8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not products.fast(values, weight)
    monkeypatch.setattr(products, "_ONEDNN", False)
    torch.testing.assert_close(product(values, weight), torch.full((3, 256), 300.0))


def test_a_linear_layer_is_one_for_adapters() -> None:
    assert isinstance(Linear(2, 2), nn.Linear)
    assert list(Linear(2, 3).state_dict()) == ["weight", "bias"]
