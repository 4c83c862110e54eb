"""AdamW over a method's parameter groups, and the checks that nothing trainable was forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from allophone.errors import ConfigError
from allophone.methods.base import ParameterGroup
from allophone.train.config import TrainConfig
from allophone.train.parallel import like


def build_optimizer(method: nn.Module, groups: Sequence[ParameterGroup], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with one group per parameter group of the method; empty groups are left out.

    Args:
        method: Owner of the parameters, for their names.
        groups: The method's ``parameter_groups()``.
        config: Betas, epsilon and the weight decay of groups that name none.

    Returns:
        The optimizer; each of its groups has a key ``lr_scale``.

    Raises:
        ConfigError: Nothing is trainable, a parameter is in two groups, a trainable one is in none, or a group holds
            a frozen one.
    """
    _check_groups(method, groups)
    options = [
        {
            "params": list(group.parameters),
            "lr_scale": group.lr_scale,
            "weight_decay": config.weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for group in groups
        if group.parameters
    ]
    fused = all(parameter.is_floating_point() for group in groups for parameter in group.parameters)
    return torch.optim.AdamW(options, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=fused)


def _check_groups(method: nn.Module, groups: Sequence[ParameterGroup]) -> None:
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    seen: set[int] = set()
    for parameter in (parameter for group in groups for parameter in group.parameters):
        name = names.get(id(parameter), "a parameter outside the method")
        if id(parameter) in seen:
            raise ConfigError(f"{name} is in two parameter groups; put it into one.")
        if not parameter.requires_grad or id(parameter) not in names:
            raise ConfigError(f"{name} is in a parameter group but is frozen or not part of the method.")
        seen.add(id(parameter))
    forgotten = [name for name, p in method.named_parameters() if p.requires_grad and id(p) not in seen]
    if forgotten:
        raise ConfigError(
            f"{len(forgotten)} trainable parameters are in no group, for example {forgotten[:3]}. Freeze or add them."
        )
    if not seen:
        raise ConfigError("The method has nothing to train: all its parameter groups are empty.")


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every group ``value`` times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_scale"]


def trainable(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All parameters of the optimizer, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def optimizer_tensors(method: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by ``"<state name>/<parameter name>"``."""
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    return {
        f"{key}/{names[id(parameter)]}": value
        for parameter in trainable(optimizer)
        for key, value in optimizer.state[parameter].items()
    }


def restore_optimizer(method: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave, onto the devices and into the shards of the parameters."""
    parameters = dict(method.named_parameters())
    on_device = bool(optimizer.defaults.get("fused"))
    for full_name, value in tensors.items():
        key, name = full_name.split("/", 1)
        parameter = parameters[name]
        if key == "step":
            optimizer.state[parameter][key] = value.to(parameter.device) if on_device else value
        else:
            optimizer.state[parameter][key] = like(value, parameter)
