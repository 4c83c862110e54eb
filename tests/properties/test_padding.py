"""Padding and batch mates never change a result, in any variant, with or without gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_model import LASR
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from allophone.models import wavlm
from allophone.models.build import Encoder, EncoderConfig, build_encoder
from allophone.models.hubert import published_config
from allophone.models.mr_hubert import MrHubertConfig
from allophone.models.wav2vec2_bert import Wav2Vec2BertConfig
from allophone.models.whisper import WhisperConfig

Speech = Callable[..., Tensor]
SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}
CONV: dict[str, Any] = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
CONFIGS: dict[str, EncoderConfig] = {
    **{
        name: replace(published_config(name), **SIZES, **CONV)
        for name in (
            "hubert-base",
            "hubert-base-40ms",
            "hubert-base-80ms",
            "hubert-large",
            "wav2vec2-base",
            "xls-r-300m",
        )
    },
    **{
        name: replace(wavlm.published_config(name), **SIZES, **CONV, num_buckets=32, max_bucket_distance=60)
        for name in ("wavlm-base", "wavlm-large")
    },
    "wav2vec2-bert": Wav2Vec2BertConfig(**SIZES, conformer_conv_dropout=0.0, feature_stride=4),
    "lasr": LASR,
    "whisper": WhisperConfig(d_model=24, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32),
    "mr-hubert": MrHubertConfig(**{**SIZES, "num_hidden_layers": 3}, **CONV, block_layers=(1, 1, 1)),
}
SECONDS = (3.1, 0.5, 1.7, 1.7, 6.2, 0.9)
"""Two are equal; one is longer than a piece of the front end."""


@pytest.fixture(params=CONFIGS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    model = build_encoder(CONFIGS[request.param])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, parameter in model.named_parameters():
            if "rel_attn" in name:
                parameter.add_(torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def clips(speech: Speech) -> list[Tensor]:
    return [speech(seconds, seed=index) for index, seconds in enumerate(SECONDS)]


def padded(clips: list[Tensor], filling: float = 0.0) -> tuple[Tensor, Tensor]:
    waveform = pad_sequence(clips, batch_first=True, padding_value=filling)
    return waveform, torch.tensor([len(clip) for clip in clips])


def alone(encoder: Encoder, clip: Tensor) -> Tensor:
    return encoder(clip[None], torch.tensor([len(clip)])).hidden_states[-1].values


def test_a_ragged_batch_gives_what_each_clip_gives_alone(encoder: Encoder, clips: list[Tensor]) -> None:
    with torch.inference_mode():
        states = encoder(*padded(clips)).hidden_states
        for index, clip in enumerate(clips):
            own = encoder(clip[None], torch.tensor([len(clip)])).hidden_states
            for together, single in zip(states, own, strict=True):
                part = together.split()[index]
                torch.testing.assert_close(part, single.values, atol=2e-5, rtol=1e-4)
                assert torch.cosine_similarity(part, single.values).min() > 0.9999


def test_what_lies_beyond_the_lengths_is_never_read(encoder: Encoder, clips: list[Tensor]) -> None:
    with torch.inference_mode():
        clean = encoder(*padded(clips)).hidden_states[-1].values
        dirty = encoder(*padded(clips, filling=float("nan"))).hidden_states[-1].values
        waveform, lengths = padded(clips)
        wider = encoder(torch.nn.functional.pad(waveform, (0, 5000)), lengths).hidden_states[-1].values
    assert torch.equal(clean, dirty)
    assert torch.equal(clean, wider)


def test_order_does_not_matter(encoder: Encoder, clips: list[Tensor]) -> None:
    order = [4, 2, 0, 5, 1, 3]
    with torch.inference_mode():
        states = encoder(*padded(clips)).hidden_states[-1].split()
        shuffled = encoder(*padded([clips[index] for index in order])).hidden_states[-1].split()
    for position, index in enumerate(order):
        torch.testing.assert_close(shuffled[position], states[index], atol=2e-5, rtol=1e-4)


def test_gradients_of_a_batch_are_the_sum_of_those_of_its_clips(encoder: Encoder, clips: list[Tensor]) -> None:
    some = [clips[index] for index in (1, 2, 3, 5)]
    parameters = {name: value for name, value in encoder.named_parameters() if name != "masked_spec_embed"}

    def gradients(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, list(parameters.values()), allow_unused=True))

    together = gradients(encoder(*padded(some)).hidden_states[-1].values.square().sum())
    apart = [gradients(alone(encoder, clip).square().sum()) for clip in some]
    for index, name in enumerate(parameters):
        expected = sum(clip[index] for clip in apart)
        scale = max(float(expected.abs().max()), 1e-3)
        assert (together[index] - expected).abs().max() < 2e-3 * scale, name


def test_published_padding_is_where_they_differ(clips: list[Tensor]) -> None:
    """The option reproduces what padding does to released group-norm weights; without it nothing changes."""
    torch.manual_seed(0)
    plain = build_encoder(CONFIGS["hubert-base"]).eval()
    as_published = build_encoder(replace(CONFIGS["hubert-base"], published_padding=True)).eval()
    as_published.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        one, other = (model(*padded(clips)).hidden_states[-1].split() for model in (plain, as_published))
        assert all(a.shape == b.shape for a, b in zip(one, other, strict=True))
        torch.testing.assert_close(one[4], other[4], atol=2e-5, rtol=1e-4)  # the longest has no padding
        assert (one[1] - other[1]).abs().max() > 1e-3
