"""LASR: batch mates, masks, early stop, fixed statistics, initialization."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from allophone.errors import ConfigError, ShapeError
from allophone.models.lasr import Lasr, LasrConfig
from allophone.nn.convolution import FixedBatchNorm

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "subsampling_conv_channels": 16,
    "conv_kernel_size": 5,
    "num_mel_bins": 40,
    "attention_bias": True,
}


@pytest.fixture
def encoder() -> Lasr:
    torch.manual_seed(0)
    return Lasr(LasrConfig(**SIZES)).eval()


def test_frames_are_those_of_the_clock(encoder: Lasr) -> None:
    assert (encoder.clock.hop, encoder.clock.receptive_field) == (640, 2_320)
    for samples in (2_320, 2_959, 2_960, 16_000, 33_333):
        output = encoder(0.1 * torch.randn(1, samples), torch.tensor([samples]))
        assert output.hidden_states[-1].lengths == (encoder.clock.count(samples),)


def test_an_utterance_does_not_depend_on_batch_mates_or_padding(encoder: Lasr) -> None:
    lengths = torch.tensor([16_000, 4_000, 16_000])
    waveform = 0.1 * torch.randn(3, 16_000)
    together = encoder(waveform, lengths).hidden_states[-1].split()
    waveform[1, 4_000:] = 7.0
    other = encoder(waveform, lengths).hidden_states[-1].split()
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(waveform[row : row + 1, :length], lengths[row : row + 1]).hidden_states[-1].values
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(together[row], other[row], atol=1e-6, rtol=0)


def test_masked_frames_hide_the_audio(encoder: Lasr) -> None:
    lengths = torch.tensor([8_000])
    everything = torch.ones(1, encoder.clock.count(8_000), dtype=torch.bool)
    state = encoder(0.1 * torch.randn(1, 8_000), lengths, everything).hidden_states[0].values
    assert not bool(state.any())


def test_no_frame_hears_the_middle_of_a_masked_span(encoder: Lasr) -> None:
    """Frames overlap, so hiding only their outputs would leave the span to the ears of its neighbors."""
    lengths = torch.tensor([16_000])
    masked = torch.zeros(1, encoder.clock.count(16_000), dtype=torch.bool)
    masked[0, 8:13] = True
    waveform = 0.1 * torch.randn(1, 16_000)
    changed = waveform.clone()
    first, last = encoder.clock.center(8), encoder.clock.center(12)
    changed[:, round(first) : round(last)] = torch.randn(1, round(last) - round(first))
    before, after = (encoder(one, lengths, masked).hidden_states[-1].values for one in (waveform, changed))
    assert torch.equal(before, after)
    assert not torch.equal(encoder(changed, lengths).hidden_states[-1].values, after)


def test_refuses_what_has_no_frame_and_layers_that_are_not_there(encoder: Lasr) -> None:
    with pytest.raises(ShapeError, match="utterance 1 of the batch has 2319 samples; expected 2320"):
        encoder(torch.zeros(2, 8_000), torch.tensor([8_000, 2_319]))
    with pytest.raises(ConfigError, match="the encoder has 2 layers; got 3"):
        encoder(torch.zeros(1, 8_000), torch.tensor([8_000]), num_layers=3)


def test_stops_early(encoder: Lasr) -> None:
    waveform, lengths = 0.1 * torch.randn(1, 8_000), torch.tensor([8_000])
    early, full = encoder(waveform, lengths, num_layers=1), encoder(waveform, lengths)
    assert len(early.hidden_states) == 2
    assert torch.equal(early.hidden_states[1].values, full.hidden_states[1].values)


def test_training_leaves_statistics_of_the_norms_alone(encoder: Lasr) -> None:
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    encoder.train()
    encoder(0.1 * torch.randn(2, 8_000), torch.tensor([8_000, 6_000])).hidden_states[-1].values.sum().backward()
    assert len(before) == 6
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())


def test_fixed_norm_is_a_batch_norm_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    ours, theirs = FixedBatchNorm(8), torch.nn.BatchNorm1d(8).eval()
    for tensor in (ours.weight.data, ours.bias.data, ours.running_mean, ours.running_var):
        assert tensor is not None
        tensor.add_(torch.rand_like(tensor))
    theirs.load_state_dict(ours.state_dict())
    values = torch.randn(11, 8)
    torch.testing.assert_close(ours.train()(values), theirs(values))


def test_local_heads_look_at_their_own_offset() -> None:
    torch.manual_seed(0)
    config = LasrConfig(**{**SIZES, "hidden_size": 128}, local_attention_init=True, rope_theta=100.0)
    encoder = Lasr(config)
    attention = encoder.layers[0].self_attn
    frames, middle, size = 41, 20, 32
    angles = torch.arange(frames).float()[:, None] * 100.0 ** (-torch.arange(0, size, 2).float() / size)
    for head, expected in enumerate([-1, 1, -2, 2]):
        part = slice(head * size, (head + 1) * size)
        query, key = (torch.complex(*bias[part].chunk(2)) for bias in (attention.q_proj.bias, attention.k_proj.bias))
        turned = torch.polar(torch.ones_like(angles), angles)
        scores = ((query * turned[middle]) * (key * turned).conj()).real.sum(-1)
        assert int(scores.argmax()) - middle == expected


def test_refuses_contradictions() -> None:
    with pytest.raises(ConfigError, match="hidden_size 36 must be a multiple of twice num_attention_heads 4"):
        LasrConfig(**{**SIZES, "hidden_size": 36})
    with pytest.raises(ConfigError, match="set attention_bias"):
        LasrConfig(**{**SIZES, "attention_bias": False}, local_attention_init=True)


def test_it_is_built_on_the_meta_device_while_linspace_defaults_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))  # as transformers 5
    with torch.device("meta"):
        assert Lasr(LasrConfig(**SIZES)).subsampler.dense_0.bias.is_meta
