"""Folders of sentence-transformers say how a vector is made of tokens, and it is made so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from tiny_text import TEXTS, text_encoder

from allophone.errors import CheckpointError, ConfigError
from allophone.models import text_pooling
from allophone.models.text_embedder import (
    TextEmbedderConfig,
    build_text_embedder,
    load_text_embedder,
    save_text_embedder,
)
from allophone.models.text_pooling import stated_pooling
from allophone.models.text_teacher import TextTeacher

WIDTH = 32


def sentence_folder(folder: Path, settings: dict[str, Any], dense: tuple[int, str] | None = None) -> Path:
    """Write a text encoder with its pooling and, given its width and activation, a dense layer behind it."""
    text_encoder(folder)
    parts = ["Transformer", "Pooling", *(["Dense"] if dense else []), "Normalize"]
    listed = [
        {"idx": place, "name": str(place), "path": f"{place}_{kind}" if place else "", "type": f"st.models.{kind}"}
        for place, kind in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": WIDTH, **settings}))
    if dense is not None:
        width, activation = dense
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense" / "config.json").write_text(json.dumps({"activation_function": f"torch.nn.{activation}"}))
        generator = torch.Generator().manual_seed(0)
        weight, bias = torch.randn(width, WIDTH, generator=generator) / 5, torch.randn(width, generator=generator)
        save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    return folder


CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


@pytest.mark.parametrize(
    ("settings", "dense", "expected"),
    [
        (MEAN, None, "mean"),
        (CLS, None, "cls"),
        ({"pooling_mode": "cls"}, None, "cls"),
        (CLS, (WIDTH, "Tanh"), "pooler"),
    ],
)
def test_the_folder_says_how(
    tmp_path: Path, settings: dict[str, Any], dense: tuple[int, str] | None, expected: str
) -> None:
    folder = sentence_folder(tmp_path / "text", settings, dense)
    assert stated_pooling(folder) == expected
    stated, named = TextTeacher(folder), TextTeacher(folder, pooling=expected)  # type: ignore[arg-type]
    assert stated.name == named.name and expected in stated.name
    assert torch.equal(stated(TEXTS), named(TEXTS))


def test_a_dense_layer_behind_the_first_token_makes_the_vector(tmp_path: Path) -> None:
    """As in LaBSE, also through the embedder that `align` trains, and in its folder."""
    folder = sentence_folder(tmp_path / "text", CLS, (WIDTH, "Tanh"))
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(WIDTH, WIDTH, generator=generator) / 5, torch.randn(WIDTH, generator=generator)
    expected = torch.tanh(TextTeacher(folder, pooling="cls")(TEXTS) @ weight.T + bias)
    torch.testing.assert_close(TextTeacher(folder)(TEXTS), expected)
    embedder = build_text_embedder(folder, TextEmbedderConfig(dim=8, pooling="pooler")).eval()
    torch.testing.assert_close(embedder.embed(TEXTS), embedder.projection(expected).detach())
    saved = save_text_embedder(embedder, tmp_path / "saved", "# tiny\n")
    assert torch.equal(load_text_embedder(saved).embed(TEXTS), embedder.embed(TEXTS))


def test_what_cannot_be_pooled_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"made by pooling_mode_max_tokens and no dense layer; known are mean, cls"):
        stated_pooling(sentence_folder(tmp_path / "max", {"pooling_mode_max_tokens": True}))
    with pytest.raises(ConfigError, match=r"made by mean and a dense layer"):
        TextTeacher(sentence_folder(tmp_path / "behind", MEAN, (WIDTH, "Tanh")))
    with pytest.raises(ConfigError, match=r"2_Dense is no square layer with a bias and a tanh"):
        TextTeacher(sentence_folder(tmp_path / "narrow", CLS, (8, "Tanh")))
    with pytest.raises(ConfigError, match=r"2_Dense is no square layer with a bias and a tanh"):
        TextTeacher(sentence_folder(tmp_path / "linear", CLS, (WIDTH, "Identity")))
    (tmp_path / "max" / "1_Pooling" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"modules.json names 1_Pooling/config.json, which is not there"):
        stated_pooling(tmp_path / "max")
    (tmp_path / "max" / "modules.json").write_text("[{}]")
    with pytest.raises(CheckpointError, match="expected a JSON list of parts with type and path"):
        stated_pooling(tmp_path / "max")
    assert stated_pooling(text_encoder(tmp_path / "plain")) == "mean"


def test_a_hub_model_says_so_too_or_is_named_where_nobody_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Exception] = [LocalEntryNotFoundError("no network"), NoSuchEntry("404")]

    def fetch(name: str, file: str) -> str:
        raise answers.pop(0)

    monkeypatch.setattr(text_pooling, "hf_hub_download", fetch)
    with pytest.raises(CheckpointError, match=r"some/model: neither a folder nor a model whose modules.json"):
        stated_pooling("some/model")
    assert stated_pooling("some/model") == "mean"


class NoSuchEntry(EntryNotFoundError):
    """What the hub says of a file that a model lacks, without the answer of a server."""

    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)
