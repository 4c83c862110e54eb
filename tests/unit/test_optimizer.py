from __future__ import annotations

import pytest
import torch
from torch import nn

from allophone.errors import ConfigError
from allophone.methods.base import ParameterGroup
from allophone.train.config import TrainConfig
from allophone.train.optimizer import (
    build_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
    trainable,
)

CONFIG = TrainConfig(steps=10, learning_rate=0.1, weight_decay=0.3)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def groups(net: nn.Sequential) -> list[ParameterGroup]:
    return [
        ParameterGroup(tuple(net[0].parameters()), lr_scale=0.1),
        ParameterGroup(tuple(net[1].parameters()), weight_decay=0.0),
        ParameterGroup(()),
    ]


def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    net(torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_groups_keep_their_settings() -> None:
    net = model()
    optimizer = build_optimizer(net, groups(net), CONFIG)
    set_learning_rate(optimizer, 2.0)
    first, second = optimizer.param_groups
    assert (first["lr"], first["weight_decay"]) == (0.2, 0.3)
    assert (second["lr"], second["weight_decay"]) == (2.0, 0.0)
    assert first["betas"] == (0.9, 0.98) and first["eps"] == 1e-6
    assert {id(parameter) for parameter in trainable(optimizer)} == {id(parameter) for parameter in net.parameters()}


def test_restored_state_continues_bit_for_bit() -> None:
    net = model()
    optimizer = build_optimizer(net, groups(net), CONFIG)
    for seed in range(3):
        step(net, optimizer, seed)
    saved = {name: value.clone() for name, value in optimizer_tensors(net, optimizer).items()}
    assert set(saved) >= {"exp_avg/0.weight", "exp_avg_sq/1.bias", "step/0.bias"}
    twin = model()
    twin.load_state_dict(net.state_dict())
    other = build_optimizer(twin, groups(twin), CONFIG)
    restore_optimizer(twin, other, saved)
    for seed in range(3, 6):
        step(net, optimizer, seed)
        step(twin, other, seed)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_parameter_in_two_groups() -> None:
    net = model()
    with pytest.raises(ConfigError, match=r"0\.weight is in two parameter groups"):
        build_optimizer(net, [ParameterGroup(tuple(net.parameters())), ParameterGroup((net[0].weight,))], CONFIG)


def test_forgotten_parameter() -> None:
    net = model()
    with pytest.raises(ConfigError, match=r"2 trainable parameters are in no group, for example \['1\.weight'"):
        build_optimizer(net, groups(net)[:1], CONFIG)


def test_frozen_parameter_in_a_group() -> None:
    net = model()
    net[0].weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"0\.weight is in a parameter group but is frozen"):
        build_optimizer(net, groups(net), CONFIG)


def test_foreign_parameter_in_a_group() -> None:
    with pytest.raises(ConfigError, match="a parameter outside the method"):
        build_optimizer(model(), [ParameterGroup((nn.Parameter(torch.zeros(1)),))], CONFIG)


def test_nothing_to_train() -> None:
    net = model().requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing to train"):
        build_optimizer(net, [ParameterGroup(())], CONFIG)
