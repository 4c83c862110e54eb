"""How a method lies over the processes of a job: whole on each of them (ddp), or cut into shards (fsdp).

Shards are FSDP2's: every layer is put together when its turn comes and cut again afterwards, so that weights, gradients
and Adam's moments take the n-th part of the memory on n processes. On the disk there is no difference: whatever is
saved is whole.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import register_pytree_node

from allophone.batch import Packed
from allophone.distributed import copy_from_rank_zero, device, gather, is_distributed, rank, world_size
from allophone.errors import ConfigError
from allophone.methods.base import StepOutput

LAYERS = "layers"
"""Name of the module list that holds the layers of every encoder family; each layer is cut by itself."""
BYTES_IN_TRAINING = 16
"""Of one parameter in float32: itself, its gradient, two moments of Adam."""

# FSDP looks for tensors in what its modules take and return; these are the containers that it would not look into.
register_pytree_node(
    Packed, lambda p: ([p.values], p.lengths), lambda leaves, lengths: Packed(next(iter(leaves)), lengths)
)
register_pytree_node(
    StepOutput, lambda s: ([s.loss_sum], s.sums), lambda leaves, sums: StepOutput(next(iter(leaves)), sums)
)


def batches_per_process(microbatches: int) -> int:
    """How many of a step's batches each process takes.

    Raises:
        ConfigError: They cannot be shared evenly.
    """
    processes = world_size()
    if microbatches % processes:
        fitting = [str(number) for number in range(1, microbatches + 1) if microbatches % number == 0]
        raise ConfigError(
            f"{processes} processes cannot share the {microbatches} batches of a step (train.microbatches) evenly. "
            f"Start {' or '.join(fitting)} processes; or, in a new run, set --microbatches to a multiple of "
            f"{processes}, which makes the steps larger: it counts the batches of all processes together."
        )
    return microbatches // processes


def batches_of_step(microbatches: int | None) -> int:
    """Batches of a step, those of all processes together: as many as are asked for; None = one for each process.

    A recipe asks before it prepares anything, so that nobody waits for hours to be refused.

    Raises:
        ConfigError: There is none, or the processes cannot share them evenly.
    """
    number = world_size() if microbatches is None else microbatches
    if number < 1:
        raise ConfigError(f"--microbatches is {number}; expected 1 or more, a multiple of the number of processes.")
    batches_per_process(number)
    return number


def place(method: Any, choice: Literal["auto", "ddp", "fsdp"]) -> Any:
    """What a process trains: the method itself on this process' device, or a copy of it in shards.

    Weights and buffers become those of rank 0. A method that is on a GPU already stays there.

    Args:
        method: The same on all ranks; in shards it should be on the CPU, where it stays.
        choice: As in :class:`~allophone.train.config.TrainConfig`.

    Raises:
        ConfigError: Shards are asked for and this version of torch cannot add up their gradients.
    """
    here = next(method.parameters()).device
    target = device() if here.type == "cpu" else here
    copy_from_rank_zero(method)
    if not is_distributed() or choice == "ddp" or (choice == "auto" and not gather(_is_large(method, target))[0]):
        return method.to(target)
    return _shard(copy.deepcopy(method), target)


def _is_large(method: nn.Module, target: torch.device) -> bool:
    """Whether training it whole takes more than half of a GPU's memory."""
    if target.type != "cuda":
        return False
    size = sum(parameter.numel() for parameter in method.parameters())
    return size * BYTES_IN_TRAINING > torch.cuda.get_device_properties(target).total_memory / 2


def _shard(model: nn.Module, target: torch.device) -> nn.Module:
    mesh = init_device_mesh(target.type, (world_size(),))
    lists = [module for name, module in model.named_modules() if name.split(".")[-1] == LAYERS]
    for layer in (layer for layers in lists for layer in layers.children()):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "step")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            if not hasattr(module, "set_force_sum_reduction_for_comms"):
                raise ConfigError(f"torch {torch.__version__} cannot sum shards. Update torch, or use --parallel ddp.")
            module.set_gradient_divide_factor(1.0)  # a sum over processes, as over micro-batches; FSDP averages
            module.set_force_sum_reduction_for_comms(True)
    return model.to(target)


def whole(tensor: Tensor) -> Tensor:
    """A tensor of any shape put together from its shards, on all ranks; one without shards as it is.

    Every rank must call it.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """``tensor``, of the shape of ``parameter``, on the device of the latter and cut into shards as it is."""
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
    return tensor


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors whole on rank 0, and nothing on the others; every rank must call it.

    Tensors that were in shards are on the CPU, so that a GPU holds but one of them whole at a time.
    """
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if rank() == 0:
            found[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return found


@torch.no_grad()
def write_back(model: nn.Module, method: nn.Module) -> None:
    """Give the method the weights that were trained in shards; nothing where it was trained itself."""
    if model is not method:
        kept = method.state_dict()
        for name, tensor in model.state_dict().items():
            kept[name].copy_(whole(tensor))
