"""Matrix products in float32 on a CPU by oneDNN, whose kernels use what the processor has, whoever made it.

PyTorch hands float32 products to the library that it was built with. Where that is MKL, an AMD processor with AVX-512
computes at half its rate. oneDNN is in every build for x86, but PyTorch calls it for bfloat16 alone; the operator used
here is the one that its compiler emits. Anything else (another device or dtype, autocast, small weights, tracing) is
left to PyTorch. Values agree to rounding.

Shape letters: N rows, I and O dims, B batch, T frames, C channels, K kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST_WEIGHT = 2**16
"""Values of a weight below which a call costs more than a faster product saves."""
NARROW = 64
"""Columns of a product below which oneDNN and MKL are slow, unless it is transposed."""
_AVAILABLE = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
_ONEDNN = _AVAILABLE and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def fast(values: Tensor, weight: Tensor, smallest: int = SMALLEST_WEIGHT) -> bool:
    """Whether the product of ``(..., I)`` and a weight ``(O, I)`` is oneDNN's; ``smallest``: fewest values of one."""
    return (
        _ONEDNN
        and values.device.type == weight.device.type == "cpu"
        and values.dtype == weight.dtype == torch.float32
        and weight.numel() >= smallest
        and values.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[no-untyped-call]
    )


def product(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``functional.linear``, faster where it can be.

    Args:
        values: Shape ``(..., I)``.
        weight: Shape ``(O, I)``.
        bias: Shape ``(O,)``.

    Returns:
        ``values @ weight.T + bias``, shape ``(..., O)``. Can be differentiated once.

    Example:
        >>> product(torch.ones(2, 3), torch.ones(4, 3)).shape
        torch.Size([2, 4])
    """
    if not fast(values, weight):
        return functional.linear(values, weight, bias)
    rows: Tensor = _Product.apply(values.reshape(-1, values.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    return rows.reshape(*values.shape[:-1], len(weight))


def times_transposed(one: Tensor, other: Tensor, bias: Tensor | None = None, smallest: int = SMALLEST_WEIGHT) -> Tensor:
    """``one @ other.T + bias`` of ``(N, I)``, ``(O, I)`` and ``(O,)``, without a gradient; see :func:`fast`."""
    if not fast(one, other, smallest):
        return functional.linear(one, other, bias)
    return _onednn(one, other, bias)


def _onednn(one: Tensor, other: Tensor, bias: Tensor | None = None) -> Tensor:
    output: Tensor = torch.ops.mkldnn._linear_pointwise(one, other, bias, "none", [], "")
    return output


class _Product(torch.autograd.Function):
    """A product with its two transposed ones."""

    @staticmethod
    def forward(context: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        values = values.contiguous()
        context.save_for_backward(values, weight)
        return _onednn(values, weight.contiguous(), bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        values, weight = context.saved_tensors
        (gradient,) = gradients
        gradient = gradient.contiguous()
        for_values, for_weight, for_bias = context.needs_input_grad
        return (
            _onednn(gradient, weight.t()) if for_values else None,
            _onednn(gradient.t(), values.t()) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`product`; its parameters, and what adapters make of it, are the same."""

    def forward(self, values: Tensor) -> Tensor:
        """Shape ``(..., I)`` to ``(..., O)``."""
        return product(values, self.weight, self.bias)


def convolve(frames: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """A convolution without padding as one product; what a kernel sees of frames with channels last lies end to end.

    Args:
        frames: Shape ``(T, C)``.
        weight: Shape ``(O, K * C)``: see :func:`channels_last`.
        bias: Shape ``(O,)``.
        stride: At most K.

    Returns:
        Shape ``((T - K) // stride + 1, O)``. Can be differentiated once.
    """
    bias = None if bias is None else as_computed(bias)
    output: Tensor = _Convolution.apply(as_computed(frames), as_computed(weight), bias, stride)  # type: ignore[no-untyped-call]
    return output


def as_computed(values: Tensor) -> Tensor:
    """The same, of any shape, in the dtype of autocast where that is on."""
    kind = values.device.type
    return values.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else values


def channels_last(weight: Tensor) -> Tensor:
    """Weight of a convolution, ``(O, C, K)``, as :func:`convolve` takes it: ``(O, K * C)``."""
    return as_computed(weight).transpose(1, 2).flatten(1)


def _windows(frames: Tensor, width: int, stride: int) -> Tensor:
    """What the kernel sees at each step, ``(T, C)`` to overlapping rows ``(steps, K * C)``, a view; K * C is width."""
    channels = frames.shape[1]
    steps = (len(frames) - width // channels) // stride + 1
    return frames.as_strided((steps, width), (stride * channels, 1))


class _Convolution(torch.autograd.Function):
    """Keeps the frames, not their windows; those are made again for the backward pass."""

    @staticmethod
    def forward(context: Any, frames: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        frames = frames.contiguous()
        context.save_for_backward(frames, weight)
        context.stride = stride
        return times_transposed(_windows(frames, weight.shape[1], stride).contiguous(), weight, bias, smallest=0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        frames, weight = context.saved_tensors
        (gradient,) = gradients
        gradient = gradient.contiguous()
        for_frames, for_weight, for_bias, _ = context.needs_input_grad
        windows = _windows(frames, weight.shape[1], context.stride).contiguous() if for_weight else None
        return (
            _overlap(times_transposed(gradient, weight.t(), smallest=0), frames, context.stride)
            if for_frames
            else None,
            None if windows is None else _weight_gradient(gradient, windows),
            gradient.sum(0) if for_bias else None,
            None,
        )


def _weight_gradient(gradient: Tensor, windows: Tensor) -> Tensor:
    """``gradient.T @ windows`` of ``(N, O)`` and ``(N, I)``; of a narrow result the transpose is made faster."""
    if windows.shape[1] < NARROW:
        return times_transposed(windows.t(), gradient.t(), smallest=0).t()
    return times_transposed(gradient.t(), windows.t(), smallest=0)


def _overlap(windows: Tensor, frames: Tensor, stride: int) -> Tensor:
    """Add up windows where they overlap: the transpose of :func:`_windows`, shape of ``frames``."""
    summed = torch.zeros_like(frames)
    channels, at_once = frames.shape[1], stride * frames.shape[1]  # windows do not overlap in so many values
    for start in range(0, windows.shape[1], at_once):
        part = windows[:, start : start + at_once]
        summed.as_strided(part.shape, (stride * channels, 1), start).add_(part)
    return summed
