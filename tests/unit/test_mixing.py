"""audio/mixing: each law's shares, ranges and levels, against numpy and a second implementation of ESPnet's power."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from allophone.audio.mixing import (
    LAWS,
    Mix,
    MixConfig,
    apply_mix,
    draw_kind,
    draw_mix,
    mix_law,
    mix_scale,
    speech_power,
)
from allophone.errors import ConfigError, ShapeError
from allophone.seeding import torch_generator

WAVLM, ESPNET = MixConfig.wavlm(), MixConfig.espnet()


def noise(samples: int, seed: int = 0, level: float = 0.05) -> Tensor:
    return level * torch.randn(samples, generator=torch_generator(seed, "test noise"))


def talk(samples: int = 16_000) -> Tensor:
    """Noise whose second half is a pause, 40 dB lower."""
    waveform = noise(samples, seed=1)
    waveform[samples // 2 :] *= 0.01
    return waveform


@pytest.mark.parametrize(("config", "utterances", "noises"), [(WAVLM, 0.18, 0.02), (ESPNET, 0.9, 0.1)])
def test_shares_of_clips_are_the_laws(config: MixConfig, utterances: float, noises: float) -> None:
    draws = 20_000
    kinds = [draw_kind(config, torch_generator(0, "mix", number)) for number in range(draws)]
    for kind, share in (("utterance", utterances), ("noise", noises), (None, 1 - utterances - noises)):
        sigma = (abs(share * (1 - share)) / draws) ** 0.5
        assert abs(kinds.count(kind) / draws - share) <= 4 * sigma + 1e-12, kind


@pytest.mark.parametrize("config", [WAVLM, ESPNET], ids=lambda config: config.law)
@pytest.mark.parametrize(("kind", "low", "high"), [("utterance", -5, 5), ("noise", -5, 20)])
def test_ratios_lengths_and_places_are_uniform_in_the_laws_ranges(config, kind, low, high) -> None:
    primary, secondary, draws = 1_001, 700, 3_000
    mixes = [draw_mix(kind, primary, secondary, config, torch_generator(1, number)) for number in range(draws)]
    ratios = np.array([mix.snr_db for mix in mixes])
    assert low <= ratios.min() < low + 0.1 and high - 0.1 < ratios.max() <= high
    assert abs(ratios.mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * draws)
    lengths = np.array([mix.length for mix in mixes])
    assert lengths.min() >= 1 and lengths.max() == 500  # at most half of 1,001
    assert abs(lengths.mean() - 250.5) < 4 * 500 / np.sqrt(12 * draws)
    assert all(mix.start >= 0 and mix.start + mix.length <= primary for mix in mixes)
    assert all(mix.offset >= 0 and mix.offset + mix.length <= secondary for mix in mixes)
    assert {mix.start for mix in mixes if mix.length > 495} >= {0} or min(mix.start for mix in mixes) < 3
    assert max(mix.start + mix.length for mix in mixes) == primary
    # Start in the primary and start in the secondary are drawn apart.
    assert abs(np.corrcoef([mix.start for mix in mixes], [mix.offset for mix in mixes])[0, 1]) < 0.5


def test_a_short_secondary_is_used_whole_at_most() -> None:
    mixes = [draw_mix("noise", 10_000, 300, WAVLM, torch_generator(2, number)) for number in range(200)]
    assert max(mix.length for mix in mixes) == 300 and all(mix.offset + mix.length <= 300 for mix in mixes)


def test_a_clip_too_short_to_be_covered_in_part_stays_clean() -> None:
    assert draw_mix("noise", 1, 300, WAVLM, torch_generator(0)) is None
    assert draw_mix("noise", 300, 0, WAVLM, torch_generator(0)) is None
    found = draw_mix("noise", 2, 300, WAVLM, torch_generator(0))
    assert found is not None and found.length == 1


@pytest.mark.parametrize("config", [WAVLM, ESPNET], ids=lambda config: config.law)
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 3.7, 20.0])
def test_the_achieved_ratio_is_exact(config: MixConfig, snr_db: float) -> None:
    primary, secondary = talk() / 4, noise(9_000, seed=2, level=0.01)
    mix = Mix(kind="noise", snr_db=snr_db, length=6_000, start=3_000, offset=2_500)
    mixed = apply_mix(primary, secondary, mix, config)
    added = (mixed - primary).numpy().astype(np.float64)
    part = secondary.numpy()[2_500:8_500].astype(np.float64)
    scale = added[3_000:9_000] @ part / (part @ part)
    reference = primary.numpy().astype(np.float64)
    if config.law == "espnet":
        reference = reference[espnet_non_silence(reference)]
    achieved = 10 * np.log10(np.mean(reference**2) / np.mean((scale * secondary.numpy().astype(np.float64)) ** 2))
    assert achieved == pytest.approx(snr_db, abs=1e-4)
    np.testing.assert_allclose(added[3_000:9_000], scale * part, atol=1e-7)
    assert not added[:3_000].any() and not added[9_000:].any()


def test_pauses_count_in_one_law_and_not_in_the_other() -> None:
    """Half a clip of pause: ESPnet's interferer is 3 dB louder."""
    primary, secondary = talk(), noise(16_000, seed=3)
    ratio = mix_scale(primary, secondary, 0.0, ESPNET) / mix_scale(primary, secondary, 0.0, WAVLM)
    assert 20 * np.log10(ratio) == pytest.approx(3.01, abs=0.2)


def espnet_non_silence(samples: np.ndarray) -> np.ndarray:
    """What ``detect_non_silence`` says, written from its description sample by sample."""
    if len(samples) < 1024:
        return np.ones(len(samples), dtype=bool)
    padded = np.concatenate([samples, np.zeros(-(len(samples) - 1024) % 512)])
    powers = np.array([np.mean(padded[at : at + 1024] ** 2) for at in range(0, len(padded) - 1023, 512)])
    loud = powers > 0.01 * powers.mean()
    return np.array([loud[min(sample // 512, len(loud) - 1)] for sample in range(len(samples))])


@pytest.mark.parametrize("samples", [1_000, 1_024, 1_025, 1_536, 5_000, 16_000])
def test_power_of_speech_is_espnets(samples: int) -> None:
    waveform = talk(samples)
    waveform[: samples // 5] = 0
    expected = waveform.numpy().astype(np.float64)[espnet_non_silence(waveform.numpy().astype(np.float64))]
    assert speech_power(waveform) == pytest.approx(float(np.mean(expected**2)), rel=1e-9)


def test_nothing_is_written_to() -> None:
    primary, secondary = talk(), noise(8_000)
    before = primary.clone(), secondary.clone()
    mix = Mix(kind="utterance", snr_db=-5.0, length=8_000, start=0, offset=0)
    mixed = apply_mix(primary, secondary, mix, WAVLM)
    assert torch.equal(primary, before[0]) and torch.equal(secondary, before[1])
    assert mixed.data_ptr() != primary.data_ptr() and mixed.dtype == torch.float32


@pytest.mark.parametrize("config", [WAVLM, ESPNET], ids=lambda config: config.law)
def test_silence_is_neither_mixed_nor_amplified(config: MixConfig) -> None:
    mix = Mix(kind="noise", snr_db=0.0, length=500, start=0, offset=0)
    nothing, whisper = torch.zeros(2_000), torch.full((2_000,), 1e-6)
    for primary, secondary in ((talk(), nothing), (talk(), whisper), (nothing, noise(2_000)), (nothing, nothing)):
        assert torch.equal(apply_mix(primary, secondary, mix, config), primary)
    assert torch.isfinite(apply_mix(talk(), noise(2_000), mix, config)).all()


def test_a_sum_beyond_full_scale_is_scaled_down_as_a_whole() -> None:
    primary, secondary = noise(4_000, level=0.4).clamp(-1, 1), noise(4_000, seed=9, level=0.3)
    mix = Mix(kind="noise", snr_db=-5.0, length=2_000, start=1_000, offset=0)
    free, held = (apply_mix(primary, secondary, mix, replace(WAVLM, peak=peak)) for peak in (1e9, 1.0))
    assert float(free.abs().max()) > 1 and float(held.abs().max()) == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(held, free / free.abs().max())


def test_a_mix_of_other_lengths_is_refused() -> None:
    mix = Mix(kind="noise", snr_db=0.0, length=500, start=600, offset=0)
    with pytest.raises(ShapeError, match=r"samples 0 to 500 into samples 600 to 1100 does not fit 2000 and 1000"):
        apply_mix(talk(1_000), noise(2_000), mix, WAVLM)


def test_laws_by_name() -> None:
    assert {name: law().law for name, law in LAWS.items()} == {"wavlm": "wavlm", "espnet": "espnet"}
    assert mix_law("wavlm") == WAVLM
    with pytest.raises(ConfigError, match=r"Unknown mixing law 'wavelm'\. Did you mean 'wavlm'"):
        mix_law("wavelm")
    assert str(WAVLM).startswith("law wavlm: another utterance in 18% of clips at -5 to 5 dB, noise in 2% at -5 to 20")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": 1.2}, "mix.probability must lie within 0 and 1; got 1.2"),
        ({"noise_probability": -0.1}, "mix.noise_probability"),
        ({"noise_snr_db": (5.0, 0.0)}, "mix.noise_snr_db must be a range, lowest first; got 5.0 to 0.0"),
        ({"max_share": 0.6}, "at most 0.5, because the labels are the primary's"),
        ({"min_samples": 0}, "min_samples must be at least 1"),
    ],
)
def test_settings_out_of_range(change, message) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(WAVLM, **change)
