"""What the processes of one job have to agree on; every function is a no-op when the process is alone.

``torchrun`` starts the processes and says in the environment who each of them is. Rank 0 alone prints and writes.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from allophone.errors import ConfigError, DistributedError

T = TypeVar("T")

STEP_TIMEOUT = timedelta(minutes=30)
"""Longest wait for the others inside a step or a checkpoint; whoever is later is taken for lost."""
PREPARATION_TIMEOUT = timedelta(days=7)
"""Longest wait for rank 0 while it makes what all need: clusters and units of a large corpus take hours."""

_patient: dist.ProcessGroup | None = None
"""The group with the longer wait, while :func:`process_group` is entered."""
_device = torch.device("cpu")
"""What :func:`device` says."""


def is_distributed() -> bool:
    """Whether a process group with more than one rank is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process' number, 0 when alone."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 when alone."""
    return dist.get_world_size() if is_distributed() else 1


def device() -> torch.device:
    """Where this process trains: inside :func:`process_group` a GPU of its own if there are any, else the CPU."""
    return _device


def _choose_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = os.environ.get("LOCAL_RANK", "0")  # a process that torchrun did not start takes the first GPU
    count = torch.cuda.device_count()
    if int(local) >= count:
        raise ConfigError(
            f"Process {local} of this machine has no GPU of its own: torch sees {count}. Start no more than that here: "
            f"torchrun --nproc-per-node {count}."
        )
    return torch.device("cuda", int(local))


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that ``torchrun`` started together with this one, and leave them at the end.

    They talk over gloo, and between GPUs over NCCL. Does nothing in a process that was started by itself.

    Raises:
        ConfigError: The environment names a number of processes, but not which of them this is; or GPUs are too few.
        DistributedError: The others do not come.
    """
    global _patient, _device
    _device = _choose_device()
    if _device.type == "cuda":
        torch.cuda.set_device(_device)
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if together:
        _patient = _join()
    yield  # left by an error, the group is not torn down: that would wait for processes that are gone
    if together:
        wait()
        dist.destroy_process_group()
    _patient, _device = None, torch.device("cpu")


def _join() -> dist.ProcessGroup:
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} is not set. Start the command by "
            f"torchrun, which sets them all, or unset WORLD_SIZE to run one process."
        )
    attempt = _attempt()
    with _with_the_others():
        store, number, size = next(dist.rendezvous("env://", timeout=STEP_TIMEOUT))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if _device.type == "cuda" else "gloo",
            store=dist.PrefixStore(attempt, store),
            rank=number,
            world_size=size,
            timeout=STEP_TIMEOUT,
        )
        patient: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=PREPARATION_TIMEOUT)
        return patient


def _attempt() -> str:
    """A name that all ranks have in common and that no earlier attempt of ``torchrun`` had.

    Its store outlives a restart with the addresses of ranks that are gone, and the new ones would wait for those.
    """
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        return f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    keeps = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # and machines count their restarts apart
    if keeps and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise ConfigError(
            "On several machines torchrun needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment, or "
            "--max-restarts 0: else the processes that it starts again wait for those that are gone."
        )
    return "attempt"


@contextmanager
def _with_the_others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what every backend raises when a connection breaks or a wait is too long
        raise DistributedError(
            f"Process {os.environ.get('RANK', rank())} of {os.environ.get('WORLD_SIZE', world_size())} lost the "
            f"others: {error} The reason stands in the messages of the process that ended first. Start the same "
            f"command again: it goes on from the last checkpoint (torchrun --max-restarts 3 does that by itself)."
        ) from error


def wait() -> None:
    """Wait until every rank is here, however long rank 0 takes.

    Raises:
        DistributedError: Another rank ended.
    """
    if is_distributed():
        with _with_the_others():
            dist.barrier(group=_patient)


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Let rank 0 run the block before the others, which then find on the disk what it made.

    Raises:
        DistributedError: Another rank ended.
    """
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


def on_rank_zero(work: Callable[[], object]) -> None:
    """Let rank 0 do ``work`` while the others wait.

    Raises:
        DistributedError: Another rank ended.
    """
    if rank() == 0:
        work()
    wait()


def require_shared(folder: Path) -> None:
    """Check that all ranks see the same folder; it is made if need be.

    Raises:
        ConfigError: A rank does not see what rank 0 writes there.
    """
    if not is_distributed():
        return
    mark = folder / f".seen-{gather(uuid.uuid4().hex)[0]}"

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()

    on_rank_zero(write)
    blind = [number for number, seen in enumerate(gather(mark.exists())) if not seen]
    on_rank_zero(mark.unlink)
    if blind:
        raise ConfigError(
            f"{folder}: what process 0 writes there is not seen by process {', '.join(map(str, blind))}. All machines "
            f"of a job must see the same disk under the same path, such as a network disk; write the run there."
        )


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum ``value`` (any shape, in place on a clone) over all ranks."""
    if not is_distributed():
        return value
    total = value.clone()
    with _with_the_others():
        dist.all_reduce(total)
    return total


def gather(value: T) -> list[T]:
    """What each rank has, by rank; every rank must call it. Small things only: numbers, names."""
    if not is_distributed():
        return [value]
    everyone: list[T | None] = [None] * world_size()
    with _with_the_others():
        dist.all_gather_object(everyone, value)
    return everyone  # type: ignore[return-value]


def gather_rows(value: Tensor) -> Tensor:
    """The rows of all ranks end to end, in order of rank; every rank must call it.

    Gradients flow back: a rank's rows get the sum of what the losses of all ranks want of them. So where each rank
    sums its own part of a loss, the gradients of all ranks add up to those of one process that has all rows.

    Args:
        value: Shape ``(rows, ...)``; ranks may differ in rows only.

    Returns:
        Shape ``(rows of all ranks, ...)``; ``value`` itself when alone.

    Raises:
        DistributedError: Another rank ended.
    """
    if not is_distributed():
        return value
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    with _with_the_others():
        dist.all_gather(counts, torch.tensor([len(value)]))
    gathered: Tensor = _GatherRows.apply(value, tuple(int(count) for count in counts))  # type: ignore[no-untyped-call]
    return gathered


class _GatherRows(torch.autograd.Function):
    """Forward: all rows on every rank. Backward: the sum of all ranks' gradients, cut to this rank's rows."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts = counts
        padded = value.new_zeros(max(counts), *value.shape[1:])
        padded[: len(value)] = value
        parts = [torch.empty_like(padded) for _ in counts]
        with _with_the_others():
            dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = all_reduce_sum(gradients[0].contiguous())
        start = sum(ctx.counts[: rank()])
        return total[start : start + ctx.counts[rank()]], None


def copy_from_rank_zero(module: torch.nn.Module) -> None:
    """Make the parameters and buffers of all ranks those of rank 0, in place."""
    if not is_distributed():
        return
    with torch.no_grad(), _with_the_others():
        for tensor in (*module.parameters(), *module.buffers()):
            value = tensor.detach().contiguous()
            dist.broadcast(value, src=0)
            tensor.copy_(value)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up the gradients of all ranks, one flat all-reduce, in place.

    Not ``DistributedDataParallel``: that averages, hooks into ``forward`` and reduces once a backward pass. A sum over
    ranks is what a sum over micro-batches is, so one process and several get the same gradient; what overlap with
    the backward pass would save is one all-reduce an update.
    Parameters without a gradient count as zero, so ranks always reduce the same number of values.
    """
    if not is_distributed():
        return
    trainable = [p for p in parameters if p.requires_grad]
    for parameter in trainable:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.reshape(-1) for p in trainable if p.grad is not None])
    with _with_the_others():
        dist.all_reduce(flat)
    offset = 0
    for parameter in trainable:
        assert parameter.grad is not None
        size = parameter.numel()
        parameter.grad.copy_(flat[offset : offset + size].view_as(parameter))
        offset += size
