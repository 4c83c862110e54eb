"""One vector a recording: the same alone and in company, and the same from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from allophone.errors import CheckpointError, ConfigError
from allophone.models.conversion import load_encoder
from allophone.models.speech_embedder import (
    INFO_FILE,
    WEIGHTS_FILE,
    CorrectedLinear,
    SpeechEmbedder,
    SpeechEmbedderConfig,
    load_speech_embedder,
    save_speech_embedder,
)

CONFIGS = [
    SpeechEmbedderConfig(dim=12, pooling_dim=6, pooling_heads=2),
    SpeechEmbedderConfig(dim=5, layers="last", pooling="mean", projection="linear"),
    SpeechEmbedderConfig(dim=16, layers="last", pooling="mean", projection="none"),
    SpeechEmbedderConfig(dim=5, layers="last", context_layers=2, pooling_dim=6),
    SpeechEmbedderConfig(dim=12, normalize=True),
    SpeechEmbedderConfig(dim=5, pooling="statistics", pooling_dim=6, projection="corrected"),
]


def embedder(config: SpeechEmbedderConfig, family: str = "lasr") -> SpeechEmbedder:
    model = SpeechEmbedder(getattr(tiny_model, family)(), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoder."):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("family", ["lasr", "wavlm", "encoder"])
def test_alone_is_in_company_whatever_the_padding(config: SpeechEmbedderConfig, family: str) -> None:
    model, batch = embedder(config, family), tiny_model.batch()
    with torch.no_grad():
        together = model(batch.waveform, batch.waveform_lengths)
        louder = batch.waveform.clone()
        for row, length in zip(louder, batch.waveform_lengths.tolist(), strict=True):
            row[length:] = 9.0
        assert torch.equal(model(louder, batch.waveform_lengths), together)
        for row, length in enumerate(batch.waveform_lengths.tolist()):
            alone = model(batch.waveform[row : row + 1, :length], torch.tensor([length]))
            torch.testing.assert_close(alone[0], together[row], atol=2e-5, rtol=1e-4)
    assert together.shape == (3, config.dim)


@pytest.mark.parametrize("config", CONFIGS)
def test_saved_is_loaded(config: SpeechEmbedderConfig, tmp_path: Path) -> None:
    model, batch = embedder(config), tiny_model.batch()
    save_speech_embedder(model, tmp_path, "# A card")
    again = load_speech_embedder(tmp_path)
    assert again.config == config and not again.training
    with torch.no_grad():
        expected = model(batch.waveform, batch.waveform_lengths)
        assert torch.equal(again(batch.waveform, batch.waveform_lengths), expected)
    lengths = batch.waveform_lengths.tolist()
    waveforms = [row[:length] for row, length in zip(batch.waveform, lengths, strict=True)]
    torch.testing.assert_close(again.embed(waveforms), expected, atol=2e-5, rtol=1e-4)
    encoder = load_encoder(tmp_path)  # the folder is an encoder's too
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), model.encoder.parameters(), strict=True))


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    model = embedder(CONFIGS[0])
    save_speech_embedder(model, tmp_path, "# A card")
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    save_file({name: value for name, value in tensors.items() if "layer_weights" not in name}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=r"expected .*layer_weights.logits"):
        load_speech_embedder(tmp_path)
    info = (tmp_path / INFO_FILE).read_text()
    (tmp_path / INFO_FILE).write_text(info.replace('"encoder": "', '"encoder": "0'))
    with pytest.raises(CheckpointError, match="was written for encoder 0"):
        load_speech_embedder(tmp_path)
    (tmp_path / INFO_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match="format is None"):
        load_speech_embedder(tmp_path)
    (tmp_path / INFO_FILE).unlink()
    with pytest.raises(CheckpointError, match="plain encoder has none"):
        load_speech_embedder(tmp_path)


def test_what_diverged_is_not_saved(tmp_path: Path) -> None:
    model = embedder(CONFIGS[0])
    nn.init.constant_(model.projection[0].weight, float("nan"))
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in projection.0.weight"):
        save_speech_embedder(model, tmp_path, "# A card")
    with pytest.raises(ConfigError, match="at least 1"):
        SpeechEmbedderConfig(dim=0)


def test_without_a_projection_dims_are_the_encoders() -> None:
    config = SpeechEmbedderConfig(dim=9, projection="none")
    with pytest.raises(ConfigError, match="has the 16 dims that are pooled; got 9"):
        SpeechEmbedder(tiny_model.lasr(), config)


def test_a_corrected_map_starts_as_what_it_is_given_and_both_parts_learn() -> None:
    projection, values = CorrectedLinear(6, 4, 3), torch.randn(5, 6)
    weight, bias, mean, deviation = torch.randn(3, 6), torch.randn(3), torch.randn(6), torch.rand(6) + 0.5
    projection.begin_as(mean, deviation, weight, bias)
    torch.testing.assert_close(projection(values), (values - mean) / deviation @ weight.T + bias)
    projection(values).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in projection.linear.parameters())
    assert projection.correction[-1].weight.grad is not None


def test_layers_count_alike_where_states_are_normalized() -> None:
    model, batch = embedder(SpeechEmbedderConfig(dim=7, normalize=True)), tiny_model.batch()
    with torch.no_grad():
        states = model.encoder(batch.waveform, batch.waveform_lengths).hidden_states
        larger = [one.with_values(one.values * 100 ** (number % 2) + number) for number, one in enumerate(states)]
        torch.testing.assert_close(model.pool(larger), model.pool(states), atol=1e-3, rtol=1e-3)
        plain = embedder(SpeechEmbedderConfig(dim=7))
        assert not torch.allclose(plain.pool(larger), plain.pool(states), atol=0.1)
