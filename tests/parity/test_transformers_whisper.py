"""Our Whisper encoder beside the one of transformers, on weights that transformers drew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import WhisperConfig as TheirConfig
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from allophone.audio.mel import whisper_mel
from allophone.errors import AudioError, ConfigError, ShapeError
from allophone.models.build import build_encoder
from allophone.models.conversion import load_encoder, save_encoder
from allophone.models.cost import multiplications
from allophone.models.whisper import Whisper, WhisperConfig, from_transformers, preprocessor_to_transformers

pytestmark = pytest.mark.parity

SIZES = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "max_source_positions": 50,
}
"""Small, with a window of one second."""


@pytest.fixture
def published(tmp_path):
    """A whole model with its decoder, as transformers writes it."""
    torch.manual_seed(0)
    theirs = WhisperForConditionalGeneration(
        TheirConfig(
            **SIZES, vocab_size=60, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=32, pad_token_id=0
        )
    ).eval()
    theirs.save_pretrained(tmp_path)
    WhisperFeatureExtractor(chunk_length=1).save_pretrained(tmp_path)
    return tmp_path, theirs.model.encoder


def test_whole_window_equals_transformers_in_every_state(published) -> None:
    folder, theirs = published
    torch.manual_seed(1)
    waveform, lengths = 0.1 * torch.randn(3, 16_000), torch.tensor([15_400, 9_000, 500])
    ours = Whisper(WhisperConfig(**SIZES, whole_window=True)).eval()
    ours.load_state_dict(load_encoder(folder).state_dict())
    states = ours(waveform, lengths).hidden_states
    extractor = WhisperFeatureExtractor(chunk_length=1)
    for row, length in enumerate(lengths.tolist()):
        inputs = extractor(np.asarray(waveform[row, :length]), sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            expected = theirs(inputs.input_features, output_hidden_states=True).hidden_states
        assert len(expected) == len(states) == 3
        for mine, their in zip(states, expected, strict=True):
            frames = mine.split()[row]
            assert len(frames) == length // 320
            torch.testing.assert_close(frames, their[0, : len(frames)], atol=1e-4, rtol=0)


def test_log_mels_equal_the_feature_extractor() -> None:
    waveform = 0.3 * torch.randn(12_800, generator=torch.Generator().manual_seed(0))
    waveform[4_000:6_000] = 0.0
    inputs = WhisperFeatureExtractor(chunk_length=1)(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    torch.testing.assert_close(whisper_mel(waveform), inputs.input_features[0].T[:80], atol=1e-4, rtol=0)
    with pytest.raises(AudioError, match="got 319 samples, need 320"):
        whisper_mel(torch.zeros(319))


def test_a_clip_alone_depends_on_nothing_else(published) -> None:
    ours = load_encoder(published[0])
    assert isinstance(ours, Whisper) and not ours.embed_positions.weight.requires_grad
    torch.manual_seed(1)
    waveform, lengths = 0.1 * torch.randn(2, 16_000), torch.tensor([16_000, 6_400])
    together = ours(waveform, lengths).hidden_states[-1].split()
    alone = ours(waveform[1:, :6_400], lengths[1:]).hidden_states[-1].values
    torch.testing.assert_close(together[1], alone, atol=1e-5, rtol=0)
    masked = torch.zeros(2, 50, dtype=torch.bool)
    masked[1, 5:9] = True
    changed = waveform.clone()
    changed[1, 5 * 320 + 200 : 9 * 320 - 200] *= 3.0  # what only hidden log-mels hear, beside their neighbors' windows
    one, other = (ours(wave, lengths, masked).hidden_states[-1].split()[1] for wave in (waveform, changed))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    with pytest.raises(ShapeError, match=r"utterance 0 .* 51 frames .* has positions for 50 \(1 s\). Cut it"):
        ours(torch.zeros(1, 51 * 320), torch.tensor([51 * 320]))


def test_gradients_equal_transformers(published) -> None:
    ours, theirs = load_encoder(published[0]), published[1]
    waveform, lengths = 0.1 * torch.randn(1, 16_000), torch.tensor([16_000])
    weight = torch.randn(50, 32)
    (ours(waveform, lengths).hidden_states[-1].values * weight).sum().backward()
    (theirs(whisper_mel(waveform).transpose(1, 2)).last_hidden_state[0] * weight).sum().backward()
    gradients = dict(theirs.named_parameters())
    assert gradients.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-4, rtol=1e-3, msg=name)


def test_folder_opens_here_and_in_transformers(tmp_path) -> None:
    config = WhisperConfig(**SIZES, whole_window=True)
    ours = build_encoder(config).eval()
    save_encoder(ours, tmp_path, "card")
    again, theirs = load_encoder(tmp_path), WhisperEncoder.from_pretrained(tmp_path).eval()
    assert again.config == config
    waveform = 0.1 * torch.randn(1, 16_000)
    expected = ours(waveform, torch.tensor([16_000])).hidden_states[-1].values
    with torch.no_grad():
        found = theirs(whisper_mel(waveform).transpose(1, 2)).last_hidden_state[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(again(waveform, torch.tensor([16_000])).hidden_states[-1].values, expected)


def test_what_does_not_fit_is_refused() -> None:
    config = WhisperConfig(**SIZES)
    with pytest.raises(ConfigError, match="activation_function is 'relu'; only 'gelu'"):
        from_transformers({"activation_function": "relu"}, {})
    with pytest.raises(ConfigError, match="feature_size 128, expected 80"):
        from_transformers({}, {**preprocessor_to_transformers(config), "feature_size": 128})
    with pytest.raises(ConfigError, match="multiple of encoder_attention_heads 5"):
        WhisperConfig(encoder_attention_heads=5)


def test_cost_counts_the_window_that_is_heard() -> None:
    base = WhisperConfig()
    assert multiplications(WhisperConfig(whole_window=True), 16_000) == multiplications(base, 480_000)
    layer = 50 * (4 * 512**2 + 2 * 512 * 2048) + 2 * 50**2 * 512
    assert multiplications(base, 16_000) == 100 * 3 * 80 * 512 + 50 * 3 * 512**2 + 6 * layer
