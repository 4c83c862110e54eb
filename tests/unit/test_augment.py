"""Perturbations keep time and length, and do what they say."""

from __future__ import annotations

import torch

from allophone.audio.augment import AugmentConfig, augment, limit_bandwidth

OFF = {"warp_probability": 0.0, "lowpass_probability": 0.0, "noise_probability": 0.0}


def tone(hertz: float, seconds: float = 1.0) -> torch.Tensor:
    return 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(int(16_000 * seconds)) / 16_000)


def peak(waveform: torch.Tensor) -> float:
    return float(torch.fft.rfft(waveform).abs().argmax()) * 16_000 / len(waveform)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_off_is_the_identity_and_a_seed_gives_the_same_sample() -> None:
    waveform = tone(440)
    assert torch.equal(augment(waveform, AugmentConfig(**OFF), generator()), waveform)
    first, second = (augment(waveform, AugmentConfig(noise_probability=1.0), generator(5)) for _ in range(2))
    assert torch.equal(first, second) and first.shape == waveform.shape


def test_warp_moves_frequency_by_at_most_13_percent_and_keeps_the_length() -> None:
    config = AugmentConfig(**{**OFF, "warp_probability": 1.0})
    peaks = {round(peak(augment(tone(1_000), config, generator(seed)))) for seed in range(12)}
    assert len(peaks) >= 3
    assert all(1_000 / 1.15 < value < 1_150 for value in peaks)


def test_onsets_stay_where_they_are() -> None:
    waveform = torch.cat([torch.zeros(8_000), tone(1_000, 0.5)])
    config = AugmentConfig(**{**OFF, "warp_probability": 1.0, "lowpass_probability": 1.0})
    changed = augment(waveform, config, generator(1))
    assert float(changed[:7_500].square().mean()) < 1e-3 * float(changed[8_500:].square().mean())


def test_lowpass_removes_the_top_and_noise_has_the_level_asked_for() -> None:
    cut = augment(tone(6_000), AugmentConfig(**{**OFF, "lowpass_probability": 1.0}), generator())
    assert float(cut.square().mean()) < 1e-4
    config = AugmentConfig(**{**OFF, "noise_probability": 1.0, "noise_snr_db": (10.0, 10.0)})
    waveform = tone(500)
    noise = augment(waveform, config, generator()) - waveform
    ratio = 10 * torch.log10(waveform.square().mean() / noise.square().mean())
    assert abs(float(ratio) - 10) < 0.1


def test_limited_bandwidth_keeps_low_and_drops_high() -> None:
    low, high = tone(1_000), tone(6_000)
    assert torch.equal(limit_bandwidth(low, 16_000), low)
    narrow = limit_bandwidth(low + high, 8_000)
    assert narrow.shape == low.shape
    assert float((narrow[1_000:-1_000] - low[1_000:-1_000]).square().mean()) < 1e-4
