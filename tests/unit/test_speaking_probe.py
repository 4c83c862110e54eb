"""The probe that speaks units: it learns what a unit sounds like in a voice, where, and alike for the same seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from allophone.errors import ConfigError, DataError
from allophone.evaluate.speaking_probe import (
    SpeakingProbe,
    SpeakingProbeConfig,
    Voiced,
    aligned,
    train_speaking_probe,
)
from allophone.frames import FrameClock

CLOCK = FrameClock(hop=640, receptive_field=880)
CONFIG = SpeakingProbeConfig(steps=120, clips=4, crop_seconds=0.4, dim=32, learning_rate=5e-3)
HERTZ = {(0, 0): 300.0, (0, 1): 600.0, (1, 0): 1200.0, (1, 1): 2400.0}
"""Voice and unit to the tone that they are."""


def tones(voice: int, seed: int, count: int = 24) -> Voiced:
    units = torch.randint(2, (count // 4,), generator=torch.Generator().manual_seed(seed)).repeat_interleave(4)
    time = torch.arange(640) / 16_000
    parts = [0.3 * torch.sin(2 * torch.pi * HERTZ[voice, int(unit)] * time) for unit in units]
    waveform = torch.nn.functional.pad(torch.cat(parts), (120, 120))
    return Voiced(waveform=waveform, units=units, voice=voice)


@pytest.fixture(scope="module")
def probe() -> SpeakingProbe:
    spoken = [tones(voice, seed) for voice in (0, 1) for seed in range(6)]
    return train_speaking_probe(spoken, num_units=2, voices=2, clock=CLOCK, config=CONFIG)


@pytest.mark.parametrize("voice", [0, 1])
def test_units_sound_as_they_were_heard_in_each_voice_and_at_their_place(probe: SpeakingProbe, voice: int) -> None:
    units = torch.tensor([0] * 6 + [1] * 6)
    made = probe.speak(units, voice)
    assert len(made) == 120 + 12 * 640 and not made[:120].any()
    for start, unit in ((120, 0), (120 + 6 * 640, 1)):
        part = made[start + 640 : start + 5 * 640]
        hertz = float(torch.fft.rfft(part * torch.hann_window(len(part))).abs().argmax()) * 16_000 / len(part)
        assert hertz == pytest.approx(HERTZ[voice, unit], rel=0.15)


def test_the_same_seed_trains_the_same_probe() -> None:
    short = replace(CONFIG, steps=3)
    spoken = [tones(0, 0), tones(0, 1)]
    first, again, other = (
        train_speaking_probe(spoken, num_units=2, voices=1, clock=CLOCK, config=replace(short, seed=seed)).out.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_units_and_samples_are_cut_to_each_other() -> None:
    waveform = torch.arange(120 + 3 * 640 + 639).float()
    samples, units = aligned(waveform, torch.arange(5), CLOCK)
    assert units.tolist() == [0, 1, 2] and samples[0] == 120 and len(samples) == 3 * 640


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="10, 20, 40 or 80 ms"):
        SpeakingProbe(2, 1, FrameClock(hop=400, receptive_field=400), CONFIG)
    with pytest.raises(DataError, match="No recording is 9 s long"):
        train_speaking_probe([tones(0, 0)], num_units=2, voices=1, clock=CLOCK, config=replace(CONFIG, crop_seconds=9))
    with pytest.raises(ConfigError, match="needs updates"):
        replace(CONFIG, steps=0)
