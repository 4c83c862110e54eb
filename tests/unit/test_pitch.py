"""Pitch of tones and voices whose pitch is known, and of what has none."""

from __future__ import annotations

import math

import pytest
import torch

from allophone.audio.pitch import pitch
from allophone.errors import ShapeError

TIME = torch.arange(32_000) / 16_000


def voice(hertz: torch.Tensor | float) -> torch.Tensor:
    """Eight harmonics over a little noise."""
    phase = torch.cumsum(torch.as_tensor(hertz, dtype=torch.float64).expand(len(TIME)) / 16_000, 0) * 2 * math.pi
    tones = sum(torch.sin(k * phase) / k for k in range(1, 9))
    return (0.2 * tones).float() + 0.003 * torch.randn(len(TIME), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("hop", [320, 640])
@pytest.mark.parametrize("hertz", [70.0, 110.0, 233.0, 420.0])
def test_steady_voices(hertz: float, hop: int) -> None:
    found = pitch(voice(hertz), hop)
    assert found.shape == (32_000 // hop, 2)
    inner = found[2:-2]
    assert bool((inner[:, 1] == 1).all())
    assert float((200 * 2 ** inner[:, 0] / hertz - 1).abs().max()) < 0.01


def test_a_glide_is_followed_in_the_middle_of_each_frame() -> None:
    hertz = 120 * 2 ** (TIME.double() / 2)  # an octave in two seconds
    found = pitch(voice(hertz), 320)[3:-3]
    expected = torch.log2(hertz[160::320] / 200)[3:-3]
    assert float((found[:, 0] - expected).abs().max()) < 0.03


def test_silence_and_noise_have_none() -> None:
    noise = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(1))
    assert float(pitch(torch.zeros(16_000), 320).abs().max()) == 0
    assert float(pitch(noise, 320)[:, 1].mean()) < 0.1


def test_a_batch_is_its_rows() -> None:
    rows = torch.stack([voice(100.0), voice(300.0)])
    torch.testing.assert_close(pitch(rows, 640), torch.stack([pitch(row, 640) for row in rows]))


def test_refusal() -> None:
    with pytest.raises(ShapeError, match=r"shape \(100,\), expected .* at least 320 samples"):
        pitch(torch.zeros(100), 320)
