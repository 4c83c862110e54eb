"""Our unit vocoder beside the code HiFi-GANs of transformers, on folders that they wrote and folders that we wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SeamlessM4TCodeHifiGan, SeamlessM4TConfig, SeamlessM4Tv2Config
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2CodeHifiGan

from allophone.errors import CheckpointError
from allophone.models.unit_vocoder import UnitVocoder, UnitVocoderConfig, geometry, normalize_weights, pack_units
from allophone.models.vocoder_conversion import from_transformers, load_vocoder, save_vocoder, to_transformers

pytestmark = pytest.mark.parity

SEAMLESS = UnitVocoderConfig(
    num_units=50, unit_dim=24, num_speakers=5, speaker_dim=6, num_languages=3, language_dim=4, channels=64
)
"""Hop 320, with the published rates, kernels and dilations."""
PLAIN = replace(
    SEAMLESS,
    speaker_dim=0,
    language_dim=0,
    upsample_rates=geometry(640)[0],
    upsample_kernels=geometry(640)[1],
    resblock_kernels=(3, 7),
    resblock_dilations=((1, 3), (1, 2)),
)
"""Hop 640, neither speakers nor languages."""
THEIRS = {"seamless_m4t": (SeamlessM4TCodeHifiGan, SeamlessM4TConfig)}
THEIRS["seamless_m4t_v2"] = (SeamlessM4Tv2CodeHifiGan, SeamlessM4Tv2Config)
UNITS = [[1, 7, 3, 49, 2, 2, 11, 0], [5, 4, 1], [9, 9, 30, 8, 12]]
"""Unit 1 is transformers' padding; alone in its batch it is a unit like any other, but for the counted length."""


def drawn_by_transformers(config: UnitVocoderConfig, family: str = "seamless_m4t_v2"):
    """A code HiFi-GAN with weights large enough to be heard and durations of more than one frame."""
    model, settings = THEIRS[family]
    values = {k: v for k, v in to_transformers(config).items() if k not in ("architectures", "model_type", "dtype")}
    torch.manual_seed(1)
    theirs = model(settings(**values)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "hifi_gan" in name and "weight" in name:
                parameter.normal_(std=(2.0 / parameter[0].numel()) ** 0.5)
        theirs.dur_predictor.proj.bias.fill_(1.2)
    return theirs


def their_waveform(theirs, units: list[int], speaker: int, language: int) -> torch.Tensor:
    ids, one = torch.tensor([units]), torch.tensor([[speaker]])
    return theirs(ids, one, torch.tensor([[language]]))[0][0]


def close(mine: torch.Tensor, expected: torch.Tensor) -> None:
    assert mine.shape == expected.shape
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", THEIRS)
@pytest.mark.parametrize("config", [SEAMLESS, PLAIN], ids=["hop 320", "hop 640"])
def test_ragged_batch_equals_transformers_clip_by_clip(tmp_path: Path, config: UnitVocoderConfig, family: str) -> None:
    theirs = drawn_by_transformers(config, family)
    theirs.save_pretrained(tmp_path)
    ours = load_vocoder(tmp_path)
    assert ours.config == config
    speakers, languages = torch.tensor([0, 4, 2]), torch.tensor([2, 0, 1])
    with torch.no_grad():
        units = ours.lengthened(pack_units([torch.tensor(row) for row in UNITS]))
        waveforms = ours(units, speakers, languages).split()
        for row, waveform in enumerate(waveforms):
            expected = their_waveform(theirs, UNITS[row], int(speakers[row]), int(languages[row]))
            assert len(waveform) == units.lengths[row] * config.hop
            assert units.lengths[row] > len(UNITS[row])
            close(waveform, expected)


@pytest.mark.parametrize("config", [SEAMLESS, PLAIN], ids=["hop 320", "hop 640"])
def test_what_we_write_opens_in_transformers(tmp_path: Path, config: UnitVocoderConfig) -> None:
    torch.manual_seed(0)
    ours = UnitVocoder(config).eval()
    ours.load_state_dict(drawn_by_transformers(config).state_dict())
    save_vocoder(normalize_weights(ours), tmp_path, "card")
    theirs, report = SeamlessM4Tv2CodeHifiGan.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    units = torch.tensor(UNITS[0])
    with torch.no_grad():
        frames = ours.lengthened(pack_units([units]))
        mine = ours(frames, torch.tensor([3]), torch.tensor([1])).values
        close(mine, their_waveform(theirs.eval(), UNITS[0], 3, 1))
        lengths = theirs(units[None], torch.tensor([[3]]), torch.tensor([[1]]))[1]
    assert int(lengths) == len(mine)
    assert (tmp_path / "allophone.json").exists()
    with torch.no_grad():  # and in ours, with the same output as before the weight norm
        torch.testing.assert_close(load_vocoder(tmp_path)(frames, torch.tensor([3]), torch.tensor([1])).values, mine)


def test_gradients_equal_transformers() -> None:
    theirs = drawn_by_transformers(SEAMLESS)
    ours = UnitVocoder(SEAMLESS).eval()
    ours.load_state_dict(theirs.state_dict())
    expected = their_waveform(theirs, UNITS[0], 3, 1)
    weight = torch.randn(len(expected))
    (expected * weight).mean().backward()
    packed = pack_units([torch.tensor(UNITS[0])])
    (ours(ours.lengthened(packed), torch.tensor([3]), torch.tensor([1])).values * weight).mean().backward()
    gradients = dict(theirs.named_parameters())
    assert gradients.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        if name.startswith("dur_predictor"):  # rounding passes no gradient
            assert parameter.grad is None and gradients[name].grad is None
        else:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-4, rtol=1e-3, msg=name)


def test_gradients_of_durations_equal_transformers() -> None:
    theirs = drawn_by_transformers(SEAMLESS)
    ours = UnitVocoder(SEAMLESS).eval()
    ours.load_state_dict(theirs.state_dict())
    units = torch.tensor(UNITS[0])
    expected = theirs.dur_predictor(theirs.unit_embedding(units)[None])[0]
    mine = ours.log_durations(pack_units([units]))
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)
    expected.square().sum().backward()
    mine.square().sum().backward()
    for name, parameter in ours.dur_predictor.named_parameters():
        their = dict(theirs.dur_predictor.named_parameters())[name].grad
        torch.testing.assert_close(parameter.grad, their, atol=1e-4, rtol=1e-3, msg=name)


def test_weight_norm_in_a_file_is_folded_and_a_whole_model_gives_its_vocoder(tmp_path: Path) -> None:
    theirs = drawn_by_transformers(SEAMLESS)
    expected = their_waveform(theirs, UNITS[1], 0, 0).detach()
    theirs.save_pretrained(tmp_path)
    theirs.apply_weight_norm()
    tensors = {"vocoder." + name: value.clone() for name, value in theirs.state_dict().items()}
    old = {name.replace("parametrizations.weight.original0", "weight_g"): value for name, value in tensors.items()}
    old = {name.replace("parametrizations.weight.original1", "weight_v"): value for name, value in old.items()}
    for written in (tensors, old):
        save_file({**written, "shared.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
        ours = load_vocoder(tmp_path)
        with torch.no_grad():
            frames = ours.lengthened(pack_units([torch.tensor(UNITS[1])]))
            close(ours(frames, torch.tensor([0]), torch.tensor([0])).values, expected)


def test_config_round_trip_and_refusals(tmp_path: Path) -> None:
    assert from_transformers(to_transformers(SEAMLESS)) == SEAMLESS
    published = SeamlessM4Tv2Config().to_dict()
    assert from_transformers(published).hop == 320
    assert from_transformers(published).num_units == 10_000
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(CheckpointError, match="model_type 'hubert'; expected one of seamless_m4t, seamless_m4t_v2"):
        load_vocoder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "seamless_m4t"}')
    with pytest.raises(CheckpointError, match="lacks unit_hifi_gan_vocab_size"):
        load_vocoder(tmp_path)
    drawn_by_transformers(SEAMLESS).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "unit_embedding.weight"}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"Missing: unit_embedding\.weight"):
        load_vocoder(tmp_path)
