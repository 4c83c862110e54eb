"""Our LASR beside the one of transformers, on weights that transformers drew and on weights that we drew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, LasrFeatureExtractor
from transformers import LasrEncoder as TheirModel
from transformers import LasrEncoderConfig as TheirConfig

from allophone.audio.features import lasr_fbank
from allophone.errors import ConfigError
from allophone.models.conversion import load_encoder, save_encoder
from allophone.models.lasr import Lasr, LasrConfig, from_transformers, preprocessor_to_transformers, to_transformers

pytestmark = pytest.mark.parity

PUBLISHED = LasrConfig(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, subsampling_conv_channels=24
)
"""Small, with everything else as published: even kernel, no biases, residual weights 1.5 and 2."""
OURS = LasrConfig(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=48,
    attention_bias=True,
    convolution_bias=True,
    conv_kernel_size=7,
    num_mel_bins=80,
    layer_norm_eps=1e-5,
    feed_forward_residual_weights=(1.0, 0.5),
    conv_residual_weights=(1.0, 1.0),
    rope_theta=100.0,
)


def drawn_by_transformers(config: LasrConfig) -> TheirModel:
    values = {key: value for key, value in to_transformers(config).items() if key != "architectures"}
    model = TheirModel(TheirConfig(**values)).eval()
    for name, buffer in model.named_buffers():
        if "running" in name:  # fresh statistics would hide a wrong batch norm
            buffer.add_(torch.rand_like(buffer))
    return model


@pytest.mark.parametrize("config", [PUBLISHED, OURS], ids=["published", "ours"])
def test_every_hidden_state_equals_transformers_on_its_own_folder(tmp_path, config: LasrConfig) -> None:
    torch.manual_seed(2)
    theirs = drawn_by_transformers(config)
    theirs.save_pretrained(tmp_path)
    LasrFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(tmp_path)
    ours = load_encoder(tmp_path)
    lengths = torch.tensor([16_000, 9_000, 12_345])
    waveform = 0.1 * torch.randn(3, 16_000)
    output = ours(waveform, lengths)
    for row, length in enumerate(lengths.tolist()):
        features = ours.features(waveform[row : row + 1, :length], lengths[row : row + 1])
        with torch.no_grad():
            expected = theirs(features.values[None], output_hidden_states=True).hidden_states
        assert len(expected) == len(output.hidden_states) == 4
        for mine, their in zip(output.hidden_states, expected, strict=True):
            torch.testing.assert_close(mine.split()[row], their[0], atol=1e-4, rtol=0)


def test_saved_folder_opens_in_transformers_with_its_feature_extractor(tmp_path) -> None:
    torch.manual_seed(0)
    ours = Lasr(OURS).eval()
    save_encoder(ours, tmp_path, "card")
    extractor, theirs = AutoFeatureExtractor.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    waveform = 0.1 * torch.randn(2_320 + 640 * 20)
    inputs = extractor(np.asarray(waveform), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs).last_hidden_state[0]
    mine = ours(waveform[None], torch.tensor([len(waveform)])).hidden_states[-1].values
    assert mine.shape == expected.shape == (21, 32)
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mels", [80, 128])
def test_log_mels_equal_the_feature_extractor(mels: int) -> None:
    waveform = 0.3 * torch.randn(2, 5_000, generator=torch.Generator().manual_seed(0))
    waveform[1, 2_000:3_000] = 0.0
    extractor = LasrFeatureExtractor(feature_size=mels)
    expected = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    torch.testing.assert_close(lasr_fbank(waveform, mels), expected, atol=1e-5, rtol=0)


def test_gradients_equal_transformers() -> None:
    torch.manual_seed(1)
    ours, theirs = Lasr(OURS).eval(), drawn_by_transformers(OURS)
    ours.load_state_dict(theirs.state_dict())
    waveform, lengths = 0.1 * torch.randn(1, 8_000), torch.tensor([8_000])
    weight = torch.randn(ours.clock.count(8_000), 32)
    (ours(waveform, lengths).hidden_states[-1].values * weight).sum().backward()
    (theirs(ours.features(waveform, lengths).values[None]).last_hidden_state[0] * weight).sum().backward()
    gradients = dict(theirs.named_parameters())
    assert gradients.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-4, rtol=1e-3, msg=name)


def test_config_round_trip_and_refusals() -> None:
    preprocessor = preprocessor_to_transformers(OURS)
    assert from_transformers(to_transformers(OURS), preprocessor) == OURS
    with pytest.raises(ConfigError, match="rope_type is 'yarn'; only 'default'"):
        from_transformers({**to_transformers(OURS), "rope_parameters": {"rope_type": "yarn"}}, preprocessor)
    with pytest.raises(ConfigError, match="hidden_act is 'gelu'"):
        from_transformers({**to_transformers(OURS), "hidden_act": "gelu"}, preprocessor)
    with pytest.raises(ConfigError, match=r"feature_size 128, expected 80.*do not belong together"):
        from_transformers(to_transformers(OURS), {**preprocessor, "feature_size": 128})
