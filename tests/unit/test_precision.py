from __future__ import annotations

import pytest
import torch

from allophone.errors import ConfigError
from allophone.train import precision
from allophone.train.precision import has_bf16, use_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("native", "choice", "used"), [(True, "auto", True), (False, "auto", False), (True, "off", False)]
)
def test_auto_follows_the_hardware(monkeypatch: pytest.MonkeyPatch, native: bool, choice: str, used: bool) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: native)
    assert use_bf16(choice, CPU) is used  # type: ignore[arg-type]


def test_on_demands_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    assert use_bf16("on", CPU)
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    with pytest.raises(ConfigError, match="this cpu has no native bfloat16"):
        use_bf16("on", CPU)


def test_detection_asks_the_device() -> None:
    assert isinstance(has_bf16(CPU), bool)
    assert not has_bf16(torch.device("meta"))


def test_cpu_without_avx512_or_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert not has_bf16(CPU)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert has_bf16(CPU)


def test_cuda_from_ampere_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, native in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert has_bf16(torch.device("cuda")) is native
