"""A long grouped convolution over time through its spectrum, for many frames on a CPU.

The positional convolution of HuBERT Base sees 128 frames of 48 channels: 6,144 multiplications a value. Cut into
blocks of one and a half kernels that are transformed, multiplied by the kernel's spectrum and transformed back
(overlap-save), it takes a sixth of that and a share for the kernel, which all utterances have in common. The transforms
are matrix products, so gradients are too. Everything is float32, whatever autocast says.

Source: Oppenheim and Schafer, Discrete-Time Signal Processing, section 8.7.3 (overlap-save).
Shape letters: N frames of all utterances, D channels, G groups, C channels of a group, K kernel, L frames of a block, P
blocks of all utterances, H = L - K + 1 outputs of a block, F = L / 2 + 1 frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import pi

import torch
from torch import Tensor
from torch.nn import functional

from allophone.batch import Packed
from allophone.nn.products import product

FEWEST_WEIGHTS = 2048
"""Weights of one output channel below which the plain convolution is as fast."""
FEWEST_BLOCKS = 2
"""Frames, in lengths of a block, below which the kernel's spectrum costs more than it saves."""
AT_ONCE = 64
"""Blocks whose spectra are held at once where no gradient keeps them: some 200 MB in HuBERT Base."""


def worthwhile(hidden: Packed, weight: Tensor) -> bool:
    """Whether packed frames ``(N, D)`` and a weight ``(D, C, K)`` are faster by :func:`spectral_convolution`."""
    kernel, frames = weight.shape[2], len(hidden.values)
    return (
        hidden.values.device.type == weight.device.type == "cpu"
        and {hidden.values.dtype, weight.dtype} <= {torch.float32, torch.bfloat16, torch.float16}
        and weight[0].numel() >= FEWEST_WEIGHTS
        and frames >= FEWEST_BLOCKS * _block(kernel)
        and sum(_counts(hidden.lengths, kernel)) * _hop(kernel) <= 2 * frames  # short clips fill no block
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[no-untyped-call]
    )


def spectral_convolution(hidden: Packed, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """A convolution of each utterance, surrounded by zeros, with as many frames as it has.

    Args:
        hidden: Packed ``(N, D)``.
        weight: As ``functional.conv1d`` takes it, of a positive number of taps. Shape ``(D, C, K)``.
        bias: Shape ``(D,)``.
        groups: G; D is G times C.

    Returns:
        ``conv1d`` with padding K // 2, cut to the utterance, in the dtype of the frames. Shape ``(N, D)``. Values are
        those of float32 within rounding. Can be differentiated once.

    Example:
        >>> frames = Packed(torch.randn(7, 4), (5, 2))
        >>> spectral_convolution(frames, torch.randn(4, 2, 8), torch.zeros(4), 2).shape
        torch.Size([7, 4])
    """
    kernel = weight.shape[2]
    counts = _counts(hidden.lengths, kernel)
    with torch.autocast("cpu", enabled=False):
        of_kernels = product(_transforms(kernel)[1], weight.float().flatten(0, 1)).view(2, -1, *weight.shape[:2])
        blocks = torch.cat(
            [_cut(frames.float(), kernel, count) for frames, count in zip(hidden.split(), counts, strict=True)]
        )
        rows = torch.cat([_convolved(some, of_kernels, kernel, groups) for some in torch.split(blocks, AT_ONCE)])
        rows = rows + bias.float()
        each = zip(torch.split(rows, counts), hidden.lengths, strict=True)
        return torch.cat([one.flatten(0, 1)[:length] for one, length in each]).to(hidden.values.dtype)


def _convolved(blocks: Tensor, of_kernels: Tensor, kernel: int, groups: int) -> Tensor:
    """Blocks ``(P, D, L)`` by the spectrum of the kernels, ``(2, F, D, C)``. Shape ``(P, H, D)``."""
    count, dim, channels = *blocks.shape[:2], of_kernels.shape[3]
    there, _, back = _transforms(kernel)
    parts = product(there, blocks.flatten(0, 1)).view(2, -1, count, groups, channels)
    parts = parts.permute(1, 3, 0, 2, 4).flatten(2, 3).flatten(0, 1)  # real parts of all blocks, then the others
    real, imaginary = (
        torch.bmm(parts, one.reshape(-1, channels, channels).mT).view(-1, groups, 2, count, channels)
        for one in of_kernels
    )
    # Blocks times the conjugate of kernels: conv1d does not turn its kernel around.
    spectrum = torch.stack([real[:, :, 0] + imaginary[:, :, 1], real[:, :, 1] - imaginary[:, :, 0]])
    made = product(back, spectrum.transpose(2, 3).reshape(back.shape[1], -1).t())  # (H, P * D)
    return made.view(-1, count, dim).transpose(0, 1)


def _block(kernel: int) -> int:
    """L: shorter blocks need fewer frequencies of the kernel, longer ones overlap less."""
    return 2 * (-(-3 * kernel // 4))


def _hop(kernel: int) -> int:
    """H."""
    return _block(kernel) - kernel + 1


def _counts(lengths: Sequence[int], kernel: int) -> list[int]:
    """Blocks of each utterance."""
    return [-(-length // _hop(kernel)) for length in lengths]


def _cut(frames: Tensor, kernel: int, count: int) -> Tensor:
    """Overlapping blocks of an utterance and the zeros around it. ``(T, D)`` to ``(count, D, L)``, a view."""
    before, hop = kernel // 2, _hop(kernel)
    padded = functional.pad(frames, (0, 0, before, count * hop + kernel - 1 - before - len(frames)))
    return padded.unfold(0, _block(kernel), hop)


@cache
def _transforms(kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices, real parts before imaginary ones: of blocks ``(2F, L)``, of kernels ``(2F, K)``, back ``(H, 2F)``."""
    size = _block(kernel)
    with torch.inference_mode(False):  # they serve training too
        angles = torch.outer(*(torch.arange(n, dtype=torch.float64, device="cpu") for n in (size // 2 + 1, size)))
        angles *= 2 * pi / size
        there = torch.cat([angles.cos(), -angles.sin()])
        twice = torch.full((size // 2 + 1, 1), 2.0, dtype=torch.float64, device="cpu")  # for the negative frequency
        twice[[0, -1]] = 1.0
        back = (there * twice.repeat(2, 1) / size)[:, : _hop(kernel)].t()
        return there.float(), there[:, :kernel].float().contiguous(), back.float().contiguous()
