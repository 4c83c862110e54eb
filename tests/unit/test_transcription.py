"""Transcription: an alphabet, spelling, what is counted, and the same from its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch
from safetensors.torch import save_file
from torch import nn

from allophone.batch import SpeechBatch, Texts
from allophone.errors import CheckpointError, ConfigError, DataError
from allophone.methods.transcription import Transcription, TranscriptionConfig
from allophone.models.conversion import load_encoder
from allophone.models.transcriber import (
    INFO_FILE,
    WEIGHTS_FILE,
    Transcriber,
    alphabet_of,
    best_path,
    load_transcriber,
    save_transcriber,
)
from allophone.train.config import TrainConfig
from allophone.train.optimizer import build_optimizer

TEXTS = Texts(("Oui!", "non", "да"), ("fra_Latn", "fra_Latn", "rus_Cyrl"))
ALPHABET = alphabet_of(TEXTS.texts, TEXTS.languages)


def batch() -> SpeechBatch:
    return replace(tiny_model.batch(), texts=TEXTS).validate()


def transcriber() -> Transcriber:
    torch.manual_seed(3)
    return Transcriber(tiny_model.lasr(), ALPHABET, dropout=0.0)


def test_an_alphabet_is_what_normalized_texts_have() -> None:
    assert ALPHABET == ("i", "n", "o", "u", "а", "д")
    model = transcriber()
    assert model.spell(model.symbols("NON!", "fr")) == "non"
    with pytest.raises(DataError, match=r"\[' ', 'z'\] of 'z oui' \(fra_Latn\) are not in the alphabet of 6"):
        model.symbols("z oui", "fra_Latn")
    with pytest.raises(ConfigError, match="single characters, each once"):
        Transcriber(tiny_model.lasr(), ["a", "a"])


def test_counts_characters_and_learns_to_spell() -> None:
    trained = Transcription(transcriber(), TranscriptionConfig()).train()
    build_optimizer(trained, trained.parameter_groups(), TrainConfig(steps=1))  # everything is in one group
    assert int(trained.count(batch())) == 8
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        output = trained.step(batch())
        output.loss_sum.backward()
        optimizer.step()
    assert not [name for name, p in trained.named_parameters() if p.requires_grad and p.grad is None]
    assert int(output.sums["impossible"][0]) == 0
    for width in (1, 8):
        heard = trained.artifact().transcribe(batch().waveform, batch().waveform_lengths, width=width)
        assert [found.text for found in heard] == ["oui", "non", "да"]
        assert all(0.5 < found.confidence <= 1 for found in heard)


def test_a_frozen_encoder_stays() -> None:
    trained = Transcription(transcriber(), TranscriptionConfig(train_encoder=False)).train()
    assert not trained.model.encoder.training
    trained.step(batch()).loss_sum.backward()
    assert {name for name, p in trained.named_parameters() if p.grad is not None} == {
        "model.lm_head.weight",
        "model.lm_head.bias",
    }
    with pytest.raises(DataError, match="needs texts"):
        trained.step(tiny_model.batch())
    with pytest.raises(ConfigError, match="encoder_lr_scale must be positive"):
        TranscriptionConfig(encoder_lr_scale=0.0)


def test_best_path_keeps_what_a_blank_parts() -> None:
    frames = torch.full((6, 4), -9.0)
    for frame, symbol in enumerate([1, 1, 0, 1, 3, 0]):
        frames[frame, symbol] = 0.0
    assert best_path(frames) == [1, 1, 3] and best_path(frames[2:3]) == []


def test_saved_is_loaded(tmp_path: Path) -> None:
    model = transcriber().eval()
    save_transcriber(model, tmp_path, "# A card")
    again = load_transcriber(tmp_path)
    arguments = (batch().waveform, batch().waveform_lengths)
    assert again.alphabet == model.alphabet and again.transcribe(*arguments) == model.transcribe(*arguments)
    load_encoder(tmp_path)
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=r"transcriber.json: .*lm_head|transcriber.json: .*bias"):
        load_transcriber(tmp_path)
    (tmp_path / INFO_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match="format is not 'allophone-transcriber-1'"):
        load_transcriber(tmp_path)
    nn.init.constant_(model.lm_head.bias, float("nan"))
    with pytest.raises(CheckpointError, match="NaN or infinite values in lm_head"):
        save_transcriber(model, tmp_path, "# A card")
