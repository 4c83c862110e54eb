"""Whether a device computes in bfloat16 by itself, as opposed to emulating it."""

from __future__ import annotations

from typing import Literal

import torch

from allophone.errors import ConfigError


def has_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are native: AVX512-BF16 or AMX on a CPU, Ampere or later on CUDA."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in probes if hasattr(torch.cpu, name))


def use_bf16(choice: Literal["auto", "off", "on"], device: torch.device) -> bool:
    """Turn the setting into a decision.

    Raises:
        ConfigError: ``"on"``, and the device does not have it.
    """
    if choice == "on" and not has_bf16(device):
        raise ConfigError(f"train.bf16 is 'on', but this {device.type} has no native bfloat16. Use 'auto' or 'off'.")
    return choice != "off" and has_bf16(device)
