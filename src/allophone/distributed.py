"""The few things ranks have to agree on; every function is a no-op when the process is alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether a process group with more than one rank is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process' number, 0 when alone."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 when alone."""
    return dist.get_world_size() if is_distributed() else 1


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum ``value`` (any shape, in place on a clone) over all ranks."""
    if not is_distributed():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up the gradients of all ranks, one flat all-reduce, in place.

    Parameters without a gradient count as zero, so ranks always reduce the same number of values.
    """
    if not is_distributed():
        return
    trainable = [p for p in parameters if p.requires_grad]
    for parameter in trainable:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.reshape(-1) for p in trainable if p.grad is not None])
    dist.all_reduce(flat)
    offset = 0
    for parameter in trainable:
        assert parameter.grad is not None
        size = parameter.numel()
        parameter.grad.copy_(flat[offset : offset + size].view_as(parameter))
        offset += size
