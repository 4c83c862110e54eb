"""Our Whisper encoder beside the one of transformers, on weights that transformers drew and wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import WhisperConfig as TheirConfig
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from allophone.audio.mel import whisper_log_mel
from allophone.models.conversion import load_encoder, save_encoder
from allophone.models.whisper import Whisper, WhisperConfig

pytestmark = pytest.mark.parity

WINDOW = 50
"""Frames of the tiny model's window: 1 s instead of 30."""


def extractor(mels: int = 80) -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=mels, chunk_length=1)


def written_by_transformers(folder: Path) -> WhisperForConditionalGeneration:
    torch.manual_seed(2)
    config = TheirConfig(
        vocab_size=64,
        d_model=32,
        encoder_layers=3,
        encoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_source_positions=WINDOW,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():  # fresh biases are zero and fresh weights do little in so narrow a model
        for parameter in model.model.encoder.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    extractor().save_pretrained(folder)
    return model


def cut_short(encoder: WhisperEncoder, frames: int) -> WhisperEncoder:
    """Their encoder with a window of so many frames, the first ones."""
    config = TheirConfig(**{**encoder.config.to_dict(), "max_source_positions": frames})
    shorter = WhisperEncoder(config).eval()
    weights = dict(encoder.state_dict())
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:frames]
    shorter.load_state_dict(weights)
    return shorter


def speechlike(samples: int) -> Tensor:
    return 0.1 * torch.randn(samples) * (1 + torch.sin(torch.arange(samples) / 900.0))


def test_every_hidden_state_equals_transformers_on_its_own_folder(tmp_path: Path) -> None:
    theirs = written_by_transformers(tmp_path).model.encoder
    ours = load_encoder(tmp_path)
    assert isinstance(ours, Whisper)
    lengths = [320 * WINDOW, 320 * 17, 320 * 31 + 150]
    waveform = torch.nn.utils.rnn.pad_sequence([speechlike(length) for length in lengths], batch_first=True)
    output = ours(waveform, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        clip = waveform[row, :length].numpy()
        mels = extractor()(clip, sampling_rate=16_000, padding="do_not_pad", return_tensors="pt").input_features
        with torch.no_grad():
            found = cut_short(theirs, length // 320)(mels, output_hidden_states=True).hidden_states
        assert len(found) == len(output.hidden_states) == 4
        for mine, their in zip(output.hidden_states, found, strict=True):
            torch.testing.assert_close(mine.split()[row], their[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("mels", [80, 128])
def test_log_mels_equal_the_feature_extractor(mels: int) -> None:
    waveform = torch.stack([speechlike(16_000), speechlike(16_000)])
    waveform[1, 2_000:3_000] = 0.0
    expected = extractor(mels)(list(waveform.numpy()), sampling_rate=16_000, return_tensors="pt").input_features
    torch.testing.assert_close(whisper_log_mel(waveform, mels), expected.transpose(1, 2), atol=1e-5, rtol=0)
    short = extractor(mels)(
        waveform[0, :5_001].numpy(), sampling_rate=16_000, padding="do_not_pad", return_tensors="pt"
    ).input_features
    torch.testing.assert_close(whisper_log_mel(waveform[0, :5_001], mels), short[0].T, atol=1e-5, rtol=0)


def test_gradients_equal_transformers(tmp_path: Path) -> None:
    theirs = written_by_transformers(tmp_path).model.encoder
    ours = load_encoder(tmp_path)
    waveform, lengths = speechlike(16_000)[None], torch.tensor([16_000])
    weight = torch.randn(WINDOW, 32)
    (ours(waveform, lengths).hidden_states[-1].values * weight).sum().backward()
    mels = ours.features(waveform, lengths).values.T[None]
    (theirs(mels).last_hidden_state[0] * weight).sum().backward()
    gradients = dict(theirs.named_parameters())
    assert gradients.keys() - dict(ours.named_parameters()).keys() == {"embed_positions.weight"}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-4, rtol=1e-3, msg=name)


def test_saved_folder_opens_in_transformers(tmp_path: Path) -> None:
    ours = Whisper(WhisperConfig(d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=48)).eval()
    save_encoder(ours, tmp_path, "card")
    theirs = WhisperEncoder.from_pretrained(tmp_path).eval()
    waveform = speechlike(480_000)
    mels = WhisperFeatureExtractor.from_pretrained(tmp_path)(
        waveform.numpy(), sampling_rate=16_000, return_tensors="pt"
    ).input_features
    with torch.no_grad():
        expected = theirs(mels).last_hidden_state[0]
        mine = ours(waveform[None], torch.tensor([480_000])).hidden_states[-1].values
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=0)
    again = load_encoder(tmp_path)
    assert again.config == ours.config
    torch.testing.assert_close(again.embed_positions.weight, theirs.embed_positions.weight, atol=0, rtol=0)
