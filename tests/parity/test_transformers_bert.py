"""Our Wav2Vec2-BERT beside the one of transformers, on weights that transformers drew and on weights that we drew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, SeamlessM4TFeatureExtractor
from transformers import Wav2Vec2BertConfig as TheirConfig
from transformers import Wav2Vec2BertModel as TheirModel

from allophone.errors import ConfigError
from allophone.models.conversion import load_encoder, save_encoder
from allophone.models.wav2vec2_bert import Wav2Vec2Bert, Wav2Vec2BertConfig, from_transformers, to_transformers

pytestmark = pytest.mark.parity


def small(stride: int) -> Wav2Vec2BertConfig:
    return Wav2Vec2BertConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        feature_stride=stride,
        left_max_position_embeddings=12,
        right_max_position_embeddings=5,
        conv_depthwise_kernel_size=7,
    )


@pytest.mark.parametrize("stride", [2, 4])
def test_every_hidden_state_equals_transformers_on_its_own_folder(tmp_path, stride: int) -> None:
    torch.manual_seed(stride)
    config = small(stride)
    theirs = TheirModel(
        TheirConfig(**{k: v for k, v in to_transformers(config).items() if k != "architectures"})
    ).eval()
    theirs.save_pretrained(tmp_path)

    SeamlessM4TFeatureExtractor(stride=stride).save_pretrained(tmp_path)
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
    ours = Wav2Vec2Bert(small(4)).eval()
    save_encoder(ours, tmp_path, "card")
    extractor, theirs = AutoFeatureExtractor.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    waveform = 0.1 * torch.randn(880 + 640 * 20)
    inputs = extractor(np.asarray(waveform), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs).last_hidden_state[0]
    mine = ours(waveform[None], torch.tensor([len(waveform)])).hidden_states[-1].values
    assert mine.shape == expected.shape
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=0)


def test_gradients_equal_transformers() -> None:
    torch.manual_seed(1)
    config = small(2)
    ours = Wav2Vec2Bert(config).eval()
    theirs = TheirModel(
        TheirConfig(**{k: v for k, v in to_transformers(config).items() if k != "architectures"})
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    waveform, lengths = 0.1 * torch.randn(1, 8_000), torch.tensor([8_000])
    weight = torch.randn(ours.clock.count(8_000), 32)
    (ours(waveform, lengths).hidden_states[-1].values * weight).sum().backward()
    (theirs(ours.features(waveform, lengths).values[None]).last_hidden_state[0] * weight).sum().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if name != "masked_spec_embed":
            torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-4, rtol=1e-3, msg=name)


def test_config_round_trip_and_refusals() -> None:
    config = small(4)
    preprocessor = {"stride": 4, "num_mel_bins": 80}
    assert from_transformers(to_transformers(config), preprocessor) == config
    with pytest.raises(ConfigError, match="position_embeddings_type is 'rotary'; only 'relative_key'"):
        from_transformers({**to_transformers(config), "position_embeddings_type": "rotary"}, preprocessor)
    with pytest.raises(ConfigError, match="do not belong together"):
        from_transformers(to_transformers(config), {"stride": 2})
