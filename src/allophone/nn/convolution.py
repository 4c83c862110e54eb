"""The two convolutions of the HuBERT and wav2vec 2.0 families: waveform to frames, and relative positions.

The front end works in pieces of two seconds, so a long recording needs no more memory than a short one when no
gradient is kept, and every piece holds real samples of one utterance only. Its first group norm, which needs
statistics over the whole utterance, is folded into the convolution before it: the mean and variance of a linear map
of 10 samples follow from the mean and covariance of those 10 samples, so no frame is computed twice. On a CPU, frames
keep their channels last, so that each convolution is one matrix product.

Source: Baevski et al. 2020, arXiv:2006.11477, sections 2 and 4.2; Hsu et al. 2021, arXiv:2106.07447, section III.
Module and parameter names are those of ``transformers``.
Shape letters: B utterances or pieces, S samples, T frames, N frames of all utterances, C channels, D dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from allophone.batch import Packed
from allophone.errors import ConfigError, suggest
from allophone.frames import FrameClock
from allophone.nn.attention import by_length, length_groups
from allophone.nn.products import channels_last, convolve
from allophone.nn.spectral_convolution import spectral_convolution, worthwhile

PIECE_FRAMES = 100
"""Frames of 20 ms that the front end computes at once, fewer where they are longer: 2 s fit a cache, cost no halo."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda values: functional.gelu(values, approximate="tanh"),
    "gelu_pytorch_tanh": lambda values: functional.gelu(values, approximate="tanh"),
    "relu": functional.relu,
    "selu": functional.selu,
    "silu": functional.silu,
    "swish": functional.silu,
}
"""Activations by the names that ``transformers`` gives them."""


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation function of that name.

    Raises:
        ConfigError: No such activation is built here.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"Unknown activation '{name}'. {suggest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def convolution_clock(kernels: Sequence[int], strides: Sequence[int]) -> FrameClock:
    """Hop and receptive field of stacked convolutions without padding.

    Example:
        >>> convolution_clock((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
        FrameClock(hop=320, receptive_field=400)
    """
    hop, field = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return FrameClock(hop=hop, receptive_field=field)


class ConvolutionLayer(nn.Module):
    """Convolution, normalization, activation; ``norm`` is ``"group"`` (one group a channel), ``"layer"`` or None."""

    def __init__(
        self, in_dim: int, out_dim: int, kernel: int, stride: int, bias: bool, norm: str | None, activation_name: str
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_dim, out_dim, kernel, stride=stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        if norm is not None:
            self.layer_norm = nn.GroupNorm(out_dim, out_dim) if norm == "group" else nn.LayerNorm(out_dim)
        self.norm = norm
        self.activation = activation(activation_name)

    def forward(self, frames: Tensor) -> Tensor:
        """``(B, in_dim, T)`` to ``(B, out_dim, shorter)``, for a layer without group norm."""
        frames = self.conv(frames)
        if self.norm == "layer":
            frames = self.layer_norm(frames.transpose(1, 2)).transpose(1, 2)
        return self.activation(frames)

    def rows(self, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``(T, in_dim)`` to ``(shorter, out_dim)`` with a weight ``(out_dim, kernel * in_dim)``, group norm folded."""
        frames = convolve(frames, weight, bias, self.conv.stride[0])
        return self.activation(self.layer_norm(frames) if self.norm == "layer" else frames)

    def folded(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias that convolve and group-normalize one whole utterance. For a first layer.

        Args:
            waveform: The real samples. Shape ``(S,)``.

        Returns:
            Weight ``(C, kernel)`` and bias ``(C,)``; their convolution equals group norm of the convolution.
        """
        norm, stride = cast(nn.GroupNorm, self.layer_norm), self.conv.stride[0]
        patches = waveform.detach().double().unfold(0, self.conv.kernel_size[0], stride)
        center = patches.mean(dim=0)
        covariance = (patches - center).T @ (patches - center) / len(patches)
        weight = self.conv.weight[:, 0].double()
        mean, variance = weight @ center, ((weight @ covariance) * weight).sum(dim=1).clamp_min(0)
        scale = norm.weight.double() * (variance + norm.eps).rsqrt()
        shift = -mean if self.conv.bias is None else self.conv.bias - (mean + self.conv.bias)
        dtype = self.conv.weight.dtype
        return (weight * scale[:, None]).to(dtype), (norm.bias + shift * scale).to(dtype)

    def apply_folded(self, pieces: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``(B, S)``, ``(B, C, kernel)`` and ``(B, C)`` to ``(B, C, T)``, activation included."""
        patches = pieces.unfold(1, self.conv.kernel_size[0], self.conv.stride[0])
        return self.activation(torch.baddbmm(bias[:, :, None], weight, patches.transpose(1, 2)))


class ConvolutionalFrontEnd(nn.Module):
    """Stacked strided convolutions over the waveform.

    Args:
        dims: Channels of each layer.
        kernels: Kernel of each layer, in steps of its input.
        strides: Stride of each layer.
        bias: Whether the convolutions have one.
        norm: ``"group"``: group norm after the first layer only; ``"layer"``: layer norm after each.
        activation_name: One of :data:`ACTIVATIONS`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        kernels: Sequence[int],
        strides: Sequence[int],
        bias: bool,
        norm: str,
        activation_name: str,
    ) -> None:
        super().__init__()
        self.clock = convolution_clock(kernels, strides)
        self.norm = norm
        self.conv_layers = nn.ModuleList(
            ConvolutionLayer(
                1 if index == 0 else dims[index - 1],
                dims[index],
                kernels[index],
                strides[index],
                bias,
                norm if norm == "layer" or index == 0 else None,
                activation_name,
            )
            for index in range(len(dims))
        )

    def forward(self, waveforms: Sequence[Tensor]) -> Packed:
        """Features of each utterance, from its own samples only.

        Args:
            waveforms: One ``(S,)`` per utterance, each at least ``clock.receptive_field`` long.

        Returns:
            Packed ``(N, C)``; ``clock.count(S)`` frames for each utterance.
        """
        counts = tuple(self.clock.count(len(waveform)) for waveform in waveforms)
        most = max(1, PIECE_FRAMES * 320 // self.clock.hop)
        starts = [(index, start) for index, n in enumerate(counts) for start in range(0, n, most)]
        pieces = [(index, start, min(most, counts[index] - start)) for index, start in starts]
        layers = [cast(ConvolutionLayer, layer) for layer in self.conv_layers]
        folded = [layers[0].folded(waveform) for waveform in waveforms] if self.norm == "group" else None
        if waveforms[0].device.type == "cpu":  # fastest on one piece, which fits its cache
            weights = [(channels_last(layer.conv.weight), layer.conv.bias) for layer in layers]
            rows = []
            for piece in pieces:
                first = weights[0] if folded is None else folded[piece[0]]
                rows.append(self._rows(self._samples(waveforms, piece), [first, *weights[1:]]))
            return Packed(torch.cat(rows), counts)
        outputs: list[Tensor] = [waveforms[0]] * len(pieces)
        for _, members in length_groups([piece[2] for piece in pieces]):
            samples = torch.stack([self._samples(waveforms, pieces[index]) for index in members])
            own = None if folded is None else [folded[pieces[index][0]] for index in members]
            for index, row in zip(members, self._frames(samples, own).unbind(0), strict=True):
                outputs[index] = row
        return Packed(torch.cat(outputs), counts)

    def _samples(self, waveforms: Sequence[Tensor], piece: tuple[int, int, int]) -> Tensor:
        utterance, start, frames = piece
        first = self.clock.start(start)
        return waveforms[utterance][first : first + self.clock.samples(frames)]

    def _rows(self, samples: Tensor, weights: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        """``(S,)`` to ``(T, C)``."""
        frames = samples[:, None].to(weights[0][0].dtype)
        for layer, (weight, bias) in zip(self.conv_layers, weights, strict=True):
            frames = cast(ConvolutionLayer, layer).rows(frames, weight, bias)
        return frames

    def _frames(self, samples: Tensor, folded: list[tuple[Tensor, Tensor]] | None) -> Tensor:
        """``(B, S)`` to ``(B, T, C)``."""
        first = cast(ConvolutionLayer, self.conv_layers[0])
        samples = samples.to(first.conv.weight.dtype)
        if folded is None:
            frames = first(samples[:, None])
        else:
            frames = first.apply_folded(samples, *(torch.stack(tensors) for tensors in zip(*folded, strict=True)))
        for layer in list(self.conv_layers)[1:]:
            frames = layer(frames)
        return cast(Tensor, frames.transpose(1, 2))


class FixedBatchNorm(nn.BatchNorm1d):
    """A batch norm in evaluation mode, always: training does not touch its statistics, 0 and 1 in new models."""

    def forward(self, values: Tensor) -> Tensor:
        """Normalize channels, the second axis: ``(N, D)`` or ``(B, D, T)`` to the same shape."""
        return functional.batch_norm(values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class PositionalConvolution(nn.Module):
    """What each frame's neighborhood says about its position: a wide grouped convolution, weight-normalized.

    Args:
        dim: Width D.
        kernel: Frames that one output sees, half of them before it.
        groups: Groups of the convolution.
        batch_norm: Batch norm before it instead of weight norm (mHuBERT at 25 Hz). Always by its running statistics,
            in training too: those of a batch would join utterances.
        activation_name: One of :data:`ACTIVATIONS`.
    """

    def __init__(self, dim: int, kernel: int, groups: int, batch_norm: bool, activation_name: str) -> None:
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=(4 / (kernel * dim)) ** 0.5)
        nn.init.zeros_(cast(Tensor, conv.bias))
        self.batch_norm = FixedBatchNorm(dim) if batch_norm else None
        self.conv = conv if batch_norm else parametrizations.weight_norm(conv, name="weight", dim=2)
        self.activation = activation(activation_name)

    def forward(self, hidden: Packed) -> Tensor:
        """Packed ``(N, D)`` to ``(N, D)``; each utterance is surrounded by zeros, as if it were alone."""
        if self.batch_norm is not None:
            hidden = hidden.with_values(self.batch_norm(hidden.values))
        weight, bias = self.conv.weight, self.conv.bias  # the normalized weight is computed once for all utterances
        padding, groups = self.conv.padding[0], self.conv.groups
        if worthwhile(hidden, weight):
            return self.activation(spectral_convolution(hidden, weight, cast(Tensor, bias), groups))

        def convolve(frames: Tensor) -> Tensor:
            output = functional.conv1d(frames.transpose(1, 2), weight, bias, padding=padding, groups=groups)
            return output[:, :, : frames.shape[1]].transpose(1, 2)

        return self.activation(by_length(hidden, convolve).values)
