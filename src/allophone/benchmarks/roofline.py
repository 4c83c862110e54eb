"""How fast this machine multiplies matrices, and what share of that a training step reaches."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from allophone.benchmarks.timing import Timing
from allophone.models.build import EncoderConfig
from allophone.models.cost import multiplications
from allophone.nn.products import times_transposed


def matmul_rate(dtype: torch.dtype, timing: Timing) -> dict[str, float]:
    """Operations a second of square products of this dtype, medians.

    Args:
        dtype: ``torch.float32`` or ``torch.bfloat16``.
        timing: Rounds and clock.

    Returns:
        ``pytorch``: by ``torch.mm``; ``best``: the faster of that and the product that our layers use.
    """
    size = 64 if timing.quick else 2048
    one, other = (torch.randn(size, size).to(dtype) for _ in range(2))
    rates = {
        "pytorch": _rate(lambda: torch.mm(one, other.t()), size, timing),
        "ours": _rate(lambda: times_transposed(one, other), size, timing),
    }
    return {"pytorch": rates["pytorch"], "best": max(rates.values())}


def _rate(call: object, size: int, timing: Timing) -> float:
    assert callable(call)
    clock, seconds = timing.now(), []
    with torch.inference_mode():
        call()
        for _ in range(timing.pairs):
            start = clock()
            call()
            seconds.append(clock() - start)
    return 2.0 * size**3 / max(statistics.median(seconds), 1e-9)


def useful_operations(config: EncoderConfig, lengths: Tensor) -> float:
    """Operations of a forward and a backward pass over real samples: three times those of the forward pass.

    Args:
        config: Encoder.
        lengths: Samples of each clip. Shape ``(B,)``.

    Returns:
        Two for each multiplication with its addition. Padding counts nothing, nor do heads, norms and the optimizer.
    """
    return 3 * sum(2.0 * multiplications(config, samples) for samples in lengths.tolist())
