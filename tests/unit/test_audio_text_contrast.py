"""The method that joins two towers: what it counts, trains, refuses, and that chunks change nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch
from tiny_text import TEXTS, text_encoder

from allophone.batch import Captions, SpeechBatch
from allophone.errors import ConfigError, DataError
from allophone.methods.audio_text_contrast import AudioTextContrast, AudioTextContrastConfig
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig
from allophone.models.text_embedder import TextEmbedderConfig, build_text_embedder
from allophone.train.config import TrainConfig
from allophone.train.optimizer import build_optimizer

CONFIG = AudioTextContrastConfig()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_encoder(tmp_path_factory.mktemp("text"))


def method(folder: Path, config: AudioTextContrastConfig = CONFIG, training: str = "full") -> AudioTextContrast:
    torch.manual_seed(4)
    speech = SpeechEmbedder(tiny_model.lasr(), SpeechEmbedderConfig(dim=8, pooling_dim=4))
    text = build_text_embedder(folder, TextEmbedderConfig(dim=8, training=training, lora_rank=2))  # type: ignore[arg-type]
    return AudioTextContrast(speech, text, config)


def batch() -> SpeechBatch:
    facts = torch.tensor([1, 2, 3])
    return replace(tiny_model.batch(), captions=Captions(TEXTS[:3], facts, facts[:, None]).validate())


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_one_step_counts_rows_and_reaches_every_trained_tensor(folder: Path, loss: str) -> None:
    trained = method(folder, replace(CONFIG, loss=loss))  # type: ignore[arg-type]
    build_optimizer(trained, trained.parameter_groups(), TrainConfig(steps=1))  # everything is in one group
    output = trained.step(batch())
    assert int(trained.count(batch())) == 3
    output.loss_sum.backward()
    assert not [name for name, p in trained.named_parameters() if p.requires_grad and p.grad is None]
    sums = {name: float(total) / float(count) for name, (total, count) in output.sums.items()}
    assert sums["chance_accuracy"] == pytest.approx(1 / 3) and sums["contrasted"] == 3
    assert sums["temperature"] == pytest.approx(0.07) and 0 <= sums["accuracy_text_of_audio"] <= 1


def test_chunks_change_neither_loss_nor_gradients(folder: Path) -> None:
    found = []
    for rows in (3, 1):
        trained = method(folder, replace(CONFIG, chunk_rows=rows)).eval()  # without dropout, which chunks draw apart
        loss = trained.step(batch()).loss_sum
        loss.backward()
        gradients = [p.grad.flatten() for p in trained.parameters() if p.grad is not None]
        found.append((loss.detach(), torch.cat(gradients)))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


def test_the_temperature_has_a_floor(folder: Path) -> None:
    trained = method(folder)
    with torch.no_grad():
        trained.log_temperature.fill_(math.log(1e-4))
    assert float(trained.step(batch()).sums["temperature"][0]) / 3 == pytest.approx(0.01)
    assert float(trained.log_temperature.detach().exp()) == pytest.approx(0.01)


def test_frozen_encoders_stay(folder: Path) -> None:
    trained = method(folder, replace(CONFIG, train_encoder=False), training="frozen").train()
    assert not trained.speech.encoder.training and not trained.text.encoder.training and trained.speech.pooling.training
    trained.step(batch()).loss_sum.backward()
    moved = {name.split(".")[1] for name, p in trained.named_parameters() if p.grad is not None and "." in name}
    assert moved == {"layer_weights", "pooling", "projection"}
    trained.eval()
    whole = method(folder, replace(CONFIG, train_encoder=True), training="frozen").eval()
    whole.load_state_dict(trained.state_dict())
    for _ in range(2):  # what was kept is what would be computed
        torch.testing.assert_close(trained.step(batch()).loss_sum, whole.step(batch()).loss_sum, atol=1e-5, rtol=1e-4)
    assert trained.artifact() is trained.speech


def test_the_text_encoder_has_a_rate_of_its_own(folder: Path) -> None:
    trained = method(folder, replace(CONFIG, text_lr_scale=0.1), training="lora")
    scaled = [p for group in trained.parameter_groups() if group.lr_scale == 0.1 for p in group.parameters]
    assert {id(p) for p in scaled} == {id(p) for name, p in trained.named_parameters() if "lora_" in name}


def test_what_cannot_work_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="remember_gibibytes is -1"):
        AudioTextContrastConfig(remember_gibibytes=-1)
    with pytest.raises(DataError, match="needs captions"):
        method(folder).step(tiny_model.batch())
    speech = SpeechEmbedder(tiny_model.lasr(), SpeechEmbedderConfig(dim=9))
    with pytest.raises(ConfigError, match="9 dims for speech and 8 for text"):
        AudioTextContrast(speech, method(folder).text, CONFIG)
    with pytest.raises(ConfigError, match="min_temperature <= temperature"):
        AudioTextContrastConfig(temperature=0.001)
