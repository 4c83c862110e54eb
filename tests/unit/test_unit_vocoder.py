"""The unit vocoder by itself: packed batches, durations, geometry, weight norm, what it refuses, its folder."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from tiny_vocoder import config

from allophone.errors import CheckpointError, ConfigError, DataError, ShapeError
from allophone.models.unit_vocoder import UnitVocoder, UnitVocoderConfig, geometry, normalize_weights, pack_units
from allophone.models.vocoder_conversion import Voices, load_vocoder, load_voices, save_vocoder, vocoder_hash

VOICES = Voices(codebook_hash="0" * 16, speakers=("ann", "bo", "cy"), languages=("fra_Latn", "dan_Latn"))


def vocoder(pitch: bool = False) -> UnitVocoder:
    torch.manual_seed(0)
    made = UnitVocoder(config(pitch)).eval()
    with torch.no_grad():
        for parameter in made.hifi_gan.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


@torch.no_grad()
def test_a_ragged_batch_is_each_clip_alone() -> None:
    ours = vocoder(pitch=True)
    rows = [torch.randint(7, (length,)) for length in (9, 4, 9, 1)]
    units, speakers, languages = pack_units(rows), torch.tensor([0, 1, 2, 0]), torch.tensor([1, 0, 0, 1])
    melody = torch.randn(len(units.values), 2)
    together = ours(units, speakers, languages, melody).split()
    durations = ours.log_durations(units).split([9, 4, 9, 1])
    for row, part in enumerate(melody.split([9, 4, 9, 1])):
        alone = ours(pack_units([rows[row]]), speakers[row : row + 1], languages[row : row + 1], part).values
        assert len(alone) == len(rows[row]) * 640
        torch.testing.assert_close(together[row], alone, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(durations[row], ours.log_durations(pack_units([rows[row]])), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_speaker_language_and_pitch_matter() -> None:
    ours, units = vocoder(pitch=True), pack_units([torch.tensor([1, 2, 3])])
    zero, one, flat = torch.tensor([0]), torch.tensor([1]), torch.zeros(3, 2)
    base = ours(units, zero, zero, flat).values
    for other in (ours(units, one, zero, flat), ours(units, zero, one, flat), ours(units, zero, zero, flat + 1)):
        assert float((other.values - base).abs().max()) > 1e-3


@torch.no_grad()
def test_durations_lengthen_units() -> None:
    ours, runs = vocoder(), pack_units([torch.tensor([1, 2]), torch.tensor([3])])
    given = ours.lengthened(runs, torch.tensor([2, 1, 3]))
    assert given.values.tolist() == [1, 1, 2, 3, 3, 3] and given.lengths == (3, 3)
    ours.dur_predictor.proj.weight.zero_()
    ours.dur_predictor.proj.bias.fill_(float(torch.tensor(5.0).log()))  # log(4 + 1)
    assert ours.lengthened(runs).lengths == (8, 4)
    ours.dur_predictor.proj.bias.fill_(-3.0)
    assert ours.lengthened(runs).lengths == (2, 1)


@pytest.mark.parametrize("hop", [320, 640])
def test_geometries_make_their_hop(hop: int) -> None:
    rates, kernels = geometry(hop)
    assert UnitVocoderConfig(num_units=5, upsample_rates=rates, upsample_kernels=kernels).hop == hop
    with pytest.raises(ConfigError, match=r"units 160 samples apart; known: \[320, 640\]"):
        geometry(160)


@torch.no_grad()
def test_weight_norm_changes_nothing() -> None:
    ours, units, zero = vocoder(), pack_units([torch.tensor([1, 2, 3])]), torch.tensor([0])
    before, known = ours(units, zero, zero).values, vocoder_hash(ours)
    normalize_weights(ours)
    torch.testing.assert_close(ours(units, zero, zero).values, before, atol=1e-6, rtol=1e-5)
    assert sum(name.endswith("original0") for name, _ in ours.named_parameters()) == 1 + 5 + 5 * 4 + 1
    assert known != ""


def test_folder_round_trip_with_pitch_and_voices(tmp_path) -> None:
    ours = vocoder(pitch=True)
    save_vocoder(ours, tmp_path, "card", voices=VOICES, parents=["abc"])
    again = load_vocoder(tmp_path)
    assert again.config == ours.config and vocoder_hash(again) == vocoder_hash(ours)
    assert load_voices(tmp_path) == VOICES
    assert VOICES.speaker("bo") == 1 and VOICES.speaker(None) == 0 and VOICES.language("dan_Latn") == 1
    with pytest.raises(DataError, match=r"never heard speaker 'bob'\. Did you mean 'bo'"):
        VOICES.speaker("bob")
    ours.unit_embedding.weight.data.add_(1.0)
    save_vocoder(ours, tmp_path / "other", "card")
    (tmp_path / "other/model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="One of them was replaced"):
        load_vocoder(tmp_path)
    with pytest.raises(CheckpointError, match=r"no voices\.json"):
        load_voices(tmp_path / "other")
    ours.unit_embedding.weight.data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        save_vocoder(ours, tmp_path / "other", "card")


def test_refusals() -> None:
    ours, zero = vocoder(), torch.tensor([0])
    with pytest.raises(DataError, match="unit ids reach from 1 to 7; this vocoder has 0 to 6"):
        ours(pack_units([torch.tensor([1, 7])]), zero, zero)
    with pytest.raises(DataError, match="speaker ids reach from 3 to 3"):
        ours(pack_units([torch.tensor([1])]), zero + 3, zero)
    with pytest.raises(ShapeError, match=r"speakers \(2,\)"):
        ours(pack_units([torch.tensor([1])]), torch.tensor([0, 1]), zero)
    with pytest.raises(ShapeError, match="not conditioned on it"):
        ours(pack_units([torch.tensor([1])]), zero, zero, torch.zeros(1, 2))
    with pytest.raises(ShapeError, match="at least one frame"):
        ours(pack_units([torch.zeros(0, dtype=torch.long)]), zero, zero)
    for wrong, message in (
        ({"upsample_kernels": (10, 8, 8, 4, 4), "upsample_rates": (5, 4, 4, 2, 2)}, "Use kernel 11"),
        ({"channels": 40}, "cannot be halved 5 times; use a multiple of 32"),
        ({"resblock_kernels": (4,)}, "odd kernel"),
        ({"num_units": 0}, "positive table sizes"),
        ({"upsample_rates": (5, 4)}, "differ in number"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(config(), **wrong)


def test_the_published_size_is_faster_than_real_time_on_one_core() -> None:
    """Processor time of all threads, so that a busy machine does not change the answer."""
    published, zero = UnitVocoder(UnitVocoderConfig(num_units=100)).eval(), torch.tensor([0])
    units = pack_units([torch.randint(100, (100,))])  # two seconds
    with torch.inference_mode():
        published(units, zero, zero)
        start = time.process_time()
        samples = published(units, zero, zero).values
    assert len(samples) == 32_000
    assert time.process_time() - start < 2.0
