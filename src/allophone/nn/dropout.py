"""Dropout whose random numbers cost little on a CPU.

PyTorch draws one Bernoulli variable a value from a generator that makes one at a time; of attention weights there are
so many that in bfloat16 this takes as long as half of the products. Here one 64-bit draw decides over four values, each
with a probability that is a multiple of 2**-16. The stream of draws is seeded by PyTorch's generator, so it is a
function of ``torch.manual_seed``, and can be drawn again from its seed alone. On other devices: PyTorch's dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 2**16
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers as wide as a value, by their bytes."""


def draw_seed() -> int:
    """A seed for :func:`kept`, from PyTorch's generator."""
    return int(torch.randint(2**62, ()))


def steps(probability: float) -> int:
    """The probability of zero in steps of ``2**-16``, rounded; never all."""
    return min(round(probability * LEVELS), LEVELS - 1)


def kept(shape: Sequence[int], probability: float, seed: int) -> Tensor:
    """Which values stay, bool, of that shape; each is False with :func:`steps` of ``probability``."""
    size = prod(shape)
    generator = np.random.Generator(np.random.SFC64(seed))
    words = generator.integers(0, 2**64 - 1, size=-(-size // 4), dtype=np.uint64, endpoint=True)
    least = np.int16(steps(probability) - LEVELS // 2)  # compared by NumPy, on one thread still the faster of the two
    return torch.from_numpy(np.greater_equal(words.view(np.int16)[:size], least)).view(*shape)


def drop_(values: Tensor, stay: Tensor) -> Tensor:
    """Set values of any shape to zero in place where ``stay``, bool, is False; returns them.

    Their bits are multiplied as integers, which is faster than a product with a bool where values are bfloat16.
    """
    values.view(BITS[values.element_size()]).mul_(stay.view(torch.int8))
    return values


def scale(probability: float) -> float:
    """What those that stay are multiplied by, so that the expectation is what it was."""
    return LEVELS / (LEVELS - steps(probability))


class _Dropout(torch.autograd.Function):
    """Keeps which values stayed, a byte each."""

    @staticmethod
    def forward(context: Any, values: Tensor, probability: float) -> Tensor:
        stay = kept(values.shape, probability, draw_seed())
        context.save_for_backward(stay)
        context.scale = scale(probability)
        return drop_(values * context.scale, stay)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (stay,) = context.saved_tensors
        return drop_(gradients[0] * context.scale, stay), None


class Dropout(nn.Dropout):
    """``nn.Dropout``, faster on a CPU."""

    def forward(self, values: Tensor) -> Tensor:
        """Any shape to the same."""
        if not self.training or self.p == 0.0:
            return values
        if values.device.type != "cpu" or self.inplace:
            return functional.dropout(values, self.p, self.training, self.inplace)
        dropped: Tensor = _Dropout.apply(values, self.p)  # type: ignore[no-untyped-call]
        return dropped
