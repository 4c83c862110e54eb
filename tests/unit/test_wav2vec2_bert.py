"""Wav2Vec2-BERT: batch mates, masks, early stop, initialization."""

from __future__ import annotations

import pytest
import torch

from allophone.errors import ConfigError
from allophone.models.wav2vec2_bert import Wav2Vec2Bert, Wav2Vec2BertConfig

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "feature_stride": 4,
    "left_max_position_embeddings": 8,
    "right_max_position_embeddings": 8,
    "conv_depthwise_kernel_size": 5,
}


@pytest.fixture
def encoder() -> Wav2Vec2Bert:
    torch.manual_seed(0)
    return Wav2Vec2Bert(Wav2Vec2BertConfig(**SIZES)).eval()


def test_frames_are_those_of_the_clock(encoder: Wav2Vec2Bert) -> None:
    for samples in (880, 1_519, 1_520, 16_000, 33_333):
        output = encoder(0.1 * torch.randn(1, samples), torch.tensor([samples]))
        assert output.hidden_states[-1].lengths == (encoder.clock.count(samples),)


def test_an_utterance_does_not_depend_on_batch_mates_or_padding(encoder: Wav2Vec2Bert) -> None:
    lengths = torch.tensor([16_000, 4_000, 16_000])
    waveform = 0.1 * torch.randn(3, 16_000)
    together = encoder(waveform, lengths).hidden_states[-1].split()
    waveform[1, 4_000:] = 7.0
    other = encoder(waveform, lengths).hidden_states[-1].split()
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(waveform[row : row + 1, :length], lengths[row : row + 1]).hidden_states[-1].values
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)
        assert torch.equal(together[row], other[row])


def test_masked_frames_hide_the_audio(encoder: Wav2Vec2Bert) -> None:
    lengths = torch.tensor([8_000])
    frames = encoder.clock.count(8_000)
    everything = torch.ones(1, frames, dtype=torch.bool)
    first = encoder(0.1 * torch.randn(1, 8_000), lengths, everything).hidden_states[-1].values
    second = encoder(0.1 * torch.randn(1, 8_000), lengths, everything).hidden_states[-1].values
    assert torch.equal(first, second)
    state = encoder(0.1 * torch.randn(1, 8_000), lengths, everything).hidden_states[0].values
    assert torch.equal(state, encoder.masked_spec_embed.expand_as(state))


def test_stops_early(encoder: Wav2Vec2Bert) -> None:
    waveform, lengths = 0.1 * torch.randn(1, 8_000), torch.tensor([8_000])
    early, full = encoder(waveform, lengths, num_layers=1), encoder(waveform, lengths)
    assert len(early.hidden_states) == 2
    assert torch.equal(early.hidden_states[1].values, full.hidden_states[1].values)


def test_local_heads_look_at_their_own_offset() -> None:
    torch.manual_seed(0)
    attention = Wav2Vec2Bert(Wav2Vec2BertConfig(**SIZES, local_attention_init=True)).encoder.layers[0].self_attn
    bias = attention.linear_q.bias.view(4, 8)
    preferred = (bias @ attention.distance_embedding.weight.T).argmax(dim=-1) - attention.left
    assert preferred.tolist() == [-1, 1, -2, 2]


def test_refuses_contradictions() -> None:
    with pytest.raises(ConfigError, match="hidden_size 32 is not a multiple of num_attention_heads 5"):
        Wav2Vec2BertConfig(**{**SIZES, "num_attention_heads": 5})
    with pytest.raises(ConfigError, match="conv_depthwise_kernel_size must be odd; got 4"):
        Wav2Vec2BertConfig(**{**SIZES, "conv_depthwise_kernel_size": 4})
