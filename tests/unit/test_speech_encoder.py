"""The user's encoder: vectors, frames and units of audio in any form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from allophone.errors import AudioError, CheckpointError, ConfigError
from allophone.models.build import build_encoder
from allophone.models.conversion import save_encoder
from allophone.models.hubert import published_config
from allophone.models.speech_encoder import SpeechEncoder
from allophone.nn.codebook import Codebook, CodebookInfo

CONFIG = replace(
    published_config("hubert-base"),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    conv_dim=(8,) * 7,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
)


@pytest.fixture
def model() -> SpeechEncoder:
    torch.manual_seed(0)
    return SpeechEncoder(build_encoder(CONFIG))


@pytest.fixture
def clips(speech: Callable[..., Tensor]) -> list[Tensor]:
    return [speech(seconds, seed=index) for index, seconds in enumerate((1.3, 0.4, 2.2, 0.4, 0.9))]


def codebook(model: SpeechEncoder, **changes: Any) -> Codebook:
    info: dict[str, Any] = {
        "front_end": "model",
        "model_hash": model.model_hash,
        "layer": 1,
        "hop": 320,
        "receptive_field": 400,
        "num_units": 5,
        "seed": 0,
        "usage_entropy": 1.0,
        "frames_fitted": 5,
        "normalization": "none",
        "parent": None,
        "corpus_hash": "none",
    }
    return Codebook(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), CodebookInfo(**{**info, **changes}))


def test_vectors_are_the_mean_of_the_last_frames_in_any_batch_size(model: SpeechEncoder, clips: list[Tensor]) -> None:
    vectors = model.encode(clips, batch_size=2)
    assert vectors.shape == (5, 16) and vectors.dtype == np.float32
    for vector, clip in zip(vectors, clips, strict=True):
        np.testing.assert_allclose(vector, model.frames(clip).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(model.encode(clips, batch_size=5), vectors, atol=1e-5)
    first = model.frames(clips[0], layer=0).mean(axis=0)
    np.testing.assert_allclose(model.encode(clips[:1], layer=0)[0], first, atol=1e-5)
    assert model.encode([]).shape == (0, 16)


def test_normalized_vectors_have_length_one_and_the_same_direction(model: SpeechEncoder, clips: list[Tensor]) -> None:
    plain, unit = model.encode(clips), model.encode(clips, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-5)


def test_audio_may_be_a_path_an_array_or_a_mapping(model: SpeechEncoder, clips: list[Tensor], tmp_path: Path) -> None:
    samples = clips[0].numpy()
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    path, mapping = tmp_path / "a.wav", {"array": samples, "sampling_rate": 16_000}
    vectors = model.encode([path, str(path), samples, clips[0], mapping])
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], 5, axis=0), atol=1e-5)


def test_frames_follow_the_clock_and_the_layers_of_the_model(model: SpeechEncoder, clips: list[Tensor]) -> None:
    states = model.encoder(clips[0][None], torch.tensor([len(clips[0])])).hidden_states
    for layer, state in enumerate(states):
        frames = model.frames(clips[0], layer=layer)
        assert frames.shape == (model.encoder.clock.count(len(clips[0])), 16) and frames.dtype == np.float32
        np.testing.assert_allclose(frames, state.values.detach().numpy(), atol=1e-6)
    np.testing.assert_array_equal(model.frames(clips[0]), model.frames(clips[0], layer=2))


@pytest.mark.parametrize("normalization", ["none", "voice"])
def test_units_are_the_nearest_centroids(model: SpeechEncoder, clips: list[Tensor], normalization: str) -> None:
    book = codebook(model, normalization=normalization)
    units = SpeechEncoder(model.encoder, book).units(clips[0])
    frames = model.frames(clips[0], layer=1)
    if normalization == "voice":
        frames = (frames - frames.mean(axis=0)) / (frames.std(axis=0) + 1e-5)
    distances = ((frames[:, None] - book.centroids.numpy()) ** 2).sum(axis=-1)
    assert units.dtype == np.int64
    np.testing.assert_array_equal(units, distances.argmin(axis=1))


def test_load_takes_the_codebook_beside_the_model(model: SpeechEncoder, clips: list[Tensor], tmp_path: Path) -> None:
    save_encoder(model.encoder, tmp_path, "card")
    with pytest.raises(CheckpointError, match="no codebook beside it"):
        SpeechEncoder.load(tmp_path).units(clips[0])
    codebook(model).save(tmp_path)
    loaded = SpeechEncoder.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.units(clips[0]), SpeechEncoder(model.encoder, codebook(model)).units(clips[0]))
    np.testing.assert_allclose(loaded.encode(clips), model.encode(clips), atol=1e-6)


def test_a_codebook_of_another_model_is_refused(model: SpeechEncoder, tmp_path: Path) -> None:
    save_encoder(model.encoder, tmp_path, "card")
    codebook(model, model_hash="0" * 16).save(tmp_path)
    with pytest.raises(CheckpointError, match=f"frames of model 0000000000000000 .* is {model.model_hash}"):
        SpeechEncoder.load(tmp_path)
    with pytest.raises(CheckpointError, match="frames of mfcc39"):
        SpeechEncoder(model.encoder, codebook(model, front_end="mfcc39", model_hash=None, layer=None))


def test_random_like_is_a_repeatable_stranger_and_leaves_the_generator_alone(
    model: SpeechEncoder, clips: list[Tensor]
) -> None:
    before = torch.get_rng_state()
    one, again, other = model.random_like(1), model.random_like(1), model.random_like(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.encoder.config == model.encoder.config and not one.encoder.training
    np.testing.assert_array_equal(one.encode(clips), again.encode(clips))
    assert len({model.model_hash, one.model_hash, other.model_hash}) == 3


def test_progress_and_mode(model: SpeechEncoder, clips: list[Tensor]) -> None:
    seen: list[tuple[int, int]] = []
    model.encode(clips, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert not model.encoder.training


def test_unusable_input_is_explained(model: SpeechEncoder, clips: list[Tensor], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes a list of recordings; got one Tensor"):
        model.encode(clips[0])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="layer 3: the encoder has hidden states 0 to 2"):
        model.frames(clips[0], layer=3)
    with pytest.raises(AudioError, match="samples"):
        model.encode([clips[0], torch.randn(399)])
    with pytest.raises(AudioError, match="no such file"):
        model.encode([tmp_path / "nothing.wav"])
    long_frames = replace(CONFIG, conv_kernel=(10, 3, 3, 3, 3, 2, 4), conv_stride=(5, 2, 2, 2, 2, 2, 4))
    with pytest.raises(AudioError, match=r"500 samples; one frame of this encoder needs \d+"):
        SpeechEncoder(build_encoder(long_frames)).frames(torch.randn(500))
