"""What every test may use: one thread, no network, synthetic speech from a seed, a tiny encoder."""

from __future__ import annotations

import os

# Before torch is imported, here and in subprocesses: one thread a worker, nothing downloaded.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import math
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from allophone.frames import SAMPLE_RATE

settings.register_profile("same-every-time", derandomize=True, deadline=None)
settings.load_profile("same-every-time")
ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections to other machines, except in tests marked ``network``."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"A test tried to reach {address}; mark it `network` or make it work offline.")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same global random numbers for every test, whichever worker runs it."""
    torch.manual_seed(0)


def synthetic_speech(seconds: float, seed: int = 0) -> Tensor:
    """Chirps with harmonics, in syllables four a second, over a little noise; float32 ``(S,)``, 16 kHz, below 1."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 90 + 120 * torch.rand((), generator=generator)
    phase = 2 * math.pi * (pitch * time + 15 * torch.sin(2 * math.pi * 0.7 * time))
    weights = torch.rand(8, generator=generator) / torch.arange(1, 9)
    voice = sum(weight * torch.sin((harmonic + 1) * phase) for harmonic, weight in enumerate(weights))
    syllables = 0.5 - 0.5 * torch.cos(2 * math.pi * 4 * time)
    noise = 0.01 * torch.randn(len(time), generator=generator)
    return 0.3 * voice * syllables / weights.sum() + noise


@pytest.fixture(scope="session")
def speech() -> Callable[..., Tensor]:
    """``speech(seconds, seed=0)`` -> waveform ``(S,)``."""
    return synthetic_speech
