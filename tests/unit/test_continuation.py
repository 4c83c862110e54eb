"""The last layers alone: the same last state in every family, with gradients, and families that have no such layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_model import LASR

from allophone.errors import ConfigError
from allophone.models import wavlm
from allophone.models.build import EncoderConfig, build_encoder
from allophone.models.continuation import last_state, layers_of
from allophone.models.hubert import published_config
from allophone.models.mr_hubert import MrHubertConfig
from allophone.models.wav2vec2_bert import Wav2Vec2BertConfig
from allophone.models.whisper import WhisperConfig

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CONV: dict[str, Any] = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
CONFIGS: dict[str, EncoderConfig] = {
    "hubert": replace(published_config("hubert-base"), **SIZES, **CONV),
    "hubert, pre-norm": replace(published_config("hubert-large"), **SIZES, **CONV),
    "wavlm": replace(wavlm.published_config("wavlm-large"), **SIZES, **CONV, num_buckets=32, max_bucket_distance=60),
    "wav2vec2-bert": Wav2Vec2BertConfig(**SIZES, feature_stride=4),
    "lasr": LASR,
    "whisper": WhisperConfig(d_model=24, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32),
}
LENGTHS = torch.tensor([16_000, 7_000, 16_000])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_last_state_is_that_of_the_whole_encoder(config: EncoderConfig) -> None:
    encoder = build_encoder(config).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        states = encoder(0.1 * torch.randn(3, 16_000), LENGTHS).hidden_states
        assert len(layers_of(encoder)) == 2
        for layer in (0, 1):
            found = last_state(encoder, states[layer], layer)
            assert found.lengths == states[-1].lengths
            torch.testing.assert_close(found.values, states[-1].values, atol=1e-6, rtol=0)


def test_gradients_reach_the_last_layers() -> None:
    encoder = build_encoder(CONFIGS["whisper"])
    with torch.no_grad():
        state = encoder(0.1 * torch.randn(3, 16_000), LENGTHS, num_layers=1).hidden_states[1]
    last_state(encoder, state, 1).values.square().sum().backward()
    reached = {name.split(".")[0] + name.split(".")[1] for name, p in encoder.named_parameters() if p.grad is not None}
    assert reached == {"layers1", "layer_normweight", "layer_normbias"}


@pytest.mark.parametrize(
    "config",
    [MrHubertConfig(**{**SIZES, "num_hidden_layers": 3}, **CONV, block_layers=(1, 1, 1)),
     replace(published_config("hubert-base"), **SIZES, **CONV, published_padding=True)],
)  # fmt: skip
def test_branches_and_padding_have_no_last_layers(config: EncoderConfig) -> None:
    with pytest.raises(ConfigError, match=r"ubert has no single list of layers.*Train all of it, or LoRA"):
        layers_of(build_encoder(config))
