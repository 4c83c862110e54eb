"""Adapters change nothing at the start and everything later; the length adaptor halves, alone as in company."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from allophone.batch import Packed
from allophone.errors import ConfigError
from allophone.nn.adapter import Adapter, LengthAdaptor


def test_an_adapter_starts_as_nothing_and_learns() -> None:
    layer, adapter, values = nn.Linear(6, 6), Adapter(6, 3), torch.randn(4, 6)
    before = layer(values)
    adapter.stand_behind(layer)
    assert torch.equal(layer(values), before)
    assert sorted(layer.state_dict()) == ["bias", "weight"]  # the layer's own names stay
    layer(values).square().sum().backward()
    assert float(adapter.up.weight.grad.abs().sum()) > 0
    with torch.no_grad():
        adapter.up.weight.normal_()
    expected = before + adapter.up(torch.nn.functional.gelu(adapter.down(before)))
    torch.testing.assert_close(layer(values), expected)
    assert sum(p.numel() for p in Adapter(1024, 512).parameters()) == 2 * 1024 * 512 + 1024 + 512


def test_a_copy_of_a_model_has_adapters_of_its_own() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(4, 4), "adapter": Adapter(4, 2)})
    model["adapter"].stand_behind(model["layer"])
    values = torch.randn(3, 4)
    before, twin = model["layer"](values), copy.deepcopy(model)
    nn.init.ones_(twin["adapter"].up.bias)
    torch.testing.assert_close(twin["layer"](values), before + 1)
    assert torch.equal(model["layer"](values), before)


@pytest.mark.parametrize(("dim", "layers"), [(8, 3), (5, 2), (8, 0)])
def test_states_are_halved_and_do_not_depend_on_company(dim: int, layers: int) -> None:
    adaptor, lengths = LengthAdaptor(dim, 8, layers), (17, 1, 9)
    values = torch.randn(sum(lengths), dim)
    together = adaptor(Packed(values, lengths))
    assert together.lengths == tuple(-(-length // adaptor.factor) for length in lengths)
    for alone, states in zip(values.split(list(lengths)), together.split(), strict=True):
        torch.testing.assert_close(adaptor(Packed(alone, (len(alone),))).values, states)
    assert together.values.shape[1] == 8 and (adaptor.proj is None) == (dim == 8)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ConfigError, match="widths of at least 1; got 4 and 0"):
        Adapter(4, 0)
    with pytest.raises(ConfigError, match="dims >= 1 and layers >= 0"):
        LengthAdaptor(4, 4, -1)
