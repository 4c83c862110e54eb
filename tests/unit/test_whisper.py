"""Whisper's encoder: windows, masks, early stop, and folders that are not what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from allophone.audio.mel import whisper_log_mel
from allophone.errors import AudioError, CheckpointError, ConfigError, ShapeError
from allophone.models.conversion import load_encoder, save_encoder
from allophone.models.whisper import Whisper, WhisperConfig

SIZES = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "num_mel_bins": 40,
    "max_source_positions": 25,
}


@pytest.fixture
def encoder() -> Whisper:
    return Whisper(WhisperConfig(**SIZES)).eval()


def test_frames_are_those_of_the_clock(encoder: Whisper) -> None:
    assert (encoder.clock.hop, encoder.clock.receptive_field) == (320, 160)
    for samples in (160, 161, 479, 480, 3_333, 8_000, 8_100, 8_160, 16_000, 19_999):
        output = encoder(0.1 * torch.randn(1, samples), torch.tensor([samples]))
        assert output.hidden_states[-1].lengths == (encoder.clock.count(samples),)


def test_what_is_longer_than_a_window_is_encoded_window_by_window(encoder: Whisper) -> None:
    waveform = 0.1 * torch.randn(2, 20_000)
    both = encoder(waveform, torch.tensor([20_000, 9_000])).hidden_states[-1].split()
    pieces = [encoder(piece[None], torch.tensor([len(piece)])) for piece in waveform[0].split(8_000)]
    expected = torch.cat([piece.hidden_states[-1].values for piece in pieces])
    torch.testing.assert_close(both[0], expected, atol=1e-5, rtol=0)
    assert len(both[1]) == encoder.clock.count(9_000)


def test_masked_frames_hide_the_audio(encoder: Whisper) -> None:
    lengths = torch.tensor([16_000, 5_001])
    waveform = 0.1 * torch.randn(2, 16_000)
    masked = torch.zeros(2, encoder.clock.count(16_000), dtype=torch.bool)
    masked[0, 8:13] = True
    changed = waveform.clone()
    changed[0, 8 * 320 + 200 : 12 * 320 - 200] = 0.05
    before, after = (encoder(one, lengths, masked).hidden_states[-1].values for one in (waveform, changed))
    torch.testing.assert_close(before, after, atol=1e-6, rtol=0)
    assert not torch.allclose(encoder(changed, lengths).hidden_states[-1].values, after, atol=1e-3)
    everything = torch.ones_like(masked)
    state = encoder(waveform, lengths, everything).hidden_states[0]
    positions = encoder.embed_positions.weight
    torch.testing.assert_close(state.split()[1], positions[:16])


def test_stops_early_and_refuses_what_is_not_there(encoder: Whisper) -> None:
    waveform, lengths = 0.1 * torch.randn(1, 8_000), torch.tensor([8_000])
    early, full = encoder(waveform, lengths, num_layers=1), encoder(waveform, lengths)
    assert len(early.hidden_states) == 2
    assert torch.equal(early.hidden_states[1].values, full.hidden_states[1].values)
    with pytest.raises(ConfigError, match="the encoder has 2 layers; got 3"):
        encoder(waveform, lengths, num_layers=3)
    with pytest.raises(ShapeError, match="utterance 0 of the batch has 159 samples; expected 160"):
        encoder(torch.zeros(1, 159), torch.tensor([159]))
    with pytest.raises(AudioError, match="got 159 samples, need 160"):
        whisper_log_mel(torch.zeros(159))
    with pytest.raises(ConfigError, match="d_model 30 must be even and a multiple"):
        WhisperConfig(**{**SIZES, "d_model": 30})


def test_positions_are_neither_trained_nor_left_behind(encoder: Whisper, tmp_path: Path) -> None:
    assert "embed_positions.weight" not in dict(encoder.named_parameters())
    encoder.embed_positions.weight += 1.0
    save_encoder(encoder, tmp_path, "card")
    assert torch.equal(load_encoder(tmp_path).embed_positions.weight, encoder.embed_positions.weight)


def test_a_folder_of_two_models_is_refused(encoder: Whisper, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path, "card")
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "feature_size": 80}))
    with pytest.raises(CheckpointError, match=r"feature_size 80, expected 40.*do not belong together"):
        load_encoder(tmp_path)
