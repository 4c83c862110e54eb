"""How fast this machine multiplies matrices, and what share of that a training step reaches."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from allophone.benchmarks.timing import Timing
from allophone.models.build import EncoderConfig
from allophone.models.cost import multiplications
from allophone.nn.products import fast, times_transposed

PRODUCTS = 5
"""Of each way in a round; the rate wanders by a fifth within a minute on a virtual machine."""


def matmul_rate(dtype: torch.dtype, timing: Timing) -> dict[str, float]:
    """Operations a second of square products of this dtype, medians of many, made in turns.

    Args:
        dtype: ``torch.float32`` or ``torch.bfloat16``.
        timing: Rounds and clock.

    Returns:
        ``pytorch``: by ``torch.mm``; ``best``: the faster of that and, in float32, the product that our layers use.
    """
    size = 64 if timing.quick else 2048
    one, other = (torch.randn(size, size).to(dtype) for _ in range(2))
    ways = {"pytorch": lambda: torch.mm(one, other.t())}
    if fast(one, other):
        ways["ours"] = lambda: times_transposed(one, other)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    clock = timing.now()
    with torch.inference_mode():
        for number in range(1 + PRODUCTS * timing.pairs):
            for name, call in ways.items():
                start = clock()
                call()
                if number:  # the first one warms up
                    seconds[name].append(clock() - start)
    rates = {name: 2.0 * size**3 / max(statistics.median(took), 1e-9) for name, took in seconds.items()}
    return {"pytorch": rates["pytorch"], "best": max(rates.values())}


def useful_operations(config: EncoderConfig, lengths: Tensor) -> float:
    """Operations of a forward and a backward pass over real samples: three times those of the forward pass.

    Args:
        config: Encoder.
        lengths: Samples of each clip. Shape ``(B,)``.

    Returns:
        Two for each multiplication with its addition. Padding counts nothing, nor do heads, norms and the optimizer.
    """
    return 3 * sum(2.0 * multiplications(config, samples) for samples in lengths.tolist())
