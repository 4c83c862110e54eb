"""One vector a text: the same alone and in company, trained as far as asked for, and the same from its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_text import TEXTS, text_encoder
from torch import nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, ModernBertConfig, ModernBertModel

from allophone.errors import CheckpointError, ConfigError
from allophone.models.text_embedder import (
    INFO_FILE,
    TextEmbedder,
    TextEmbedderConfig,
    build_text_embedder,
    load_text_embedder,
    save_text_embedder,
)

CONFIG = TextEmbedderConfig(dim=10, lora_rank=2)


@pytest.fixture(scope="module", params=["bert", "xlm-roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_encoder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_alone_is_in_company_and_as_transformers_has_it(folder: Path, pooling: str) -> None:
    model = build_text_embedder(folder, replace(CONFIG, pooling=pooling))  # type: ignore[arg-type]
    together = model.embed(TEXTS, batch_size=4)
    assert together.shape == (len(TEXTS), 10)
    tokenizer, peer = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for row, text in zip(together, TEXTS, strict=True):
        with torch.inference_mode():
            hidden = peer(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            expected = model.projection(hidden[0] if pooling == "cls" else hidden.mean(dim=0))
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-4)


def test_frozen_stays_as_it_is(folder: Path) -> None:
    model = build_text_embedder(folder, CONFIG).train()
    assert not model.encoder.training and model.projection.training
    model(*model.tokenize(TEXTS)).sum().backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.projection.parameters())


def test_a_frozen_encoder_reads_a_text_once(folder: Path) -> None:
    model, calls = build_text_embedder(folder, CONFIG).train(), []
    model.encoder.register_forward_hook(lambda *given: calls.append(len(given[2].last_hidden_state)))
    for _ in range(2):
        again = model.embed_again([*TEXTS, TEXTS[0]])
        torch.testing.assert_close(again, model.embed([*TEXTS, TEXTS[0]]), atol=1e-5, rtol=1e-4)
    assert calls == [len(TEXTS), len(TEXTS) + 1, len(TEXTS) + 1]  # one of embed_again, two of embed
    again.sum().backward()
    assert all(parameter.grad is not None for parameter in model.projection.parameters())
    with pytest.raises(ConfigError, match="Only a frozen text encoder gives the same again; this one is full"):
        build_text_embedder(folder, replace(CONFIG, training="full")).embed_again(TEXTS)


def test_full_trains_all_but_the_unused_pooler(folder: Path) -> None:
    model = build_text_embedder(folder, replace(CONFIG, training="full")).train()
    assert model.encoder.training
    model(*model.tokenize(TEXTS)).square().sum().backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert untouched and all("pooler." in name or "key.bias" in name for name in untouched)
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_lora_alone_is_trained_and_every_b_moves(folder: Path) -> None:
    model = build_text_embedder(folder, replace(CONFIG, training="lora", lora_layers=("query", "value"))).eval()
    frozen = build_text_embedder(folder, CONFIG)
    frozen.projection.load_state_dict(model.projection.state_dict())
    assert torch.equal(model.embed(TEXTS), frozen.embed(TEXTS))
    model(*model.tokenize(TEXTS)).square().sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith("projection.") for name in trained)
    bs = [p for name, p in trained.items() if "lora_B" in name]
    assert len(bs) == 4 and all(p.grad is not None and p.grad.abs().max() > 0 for p in bs)


@pytest.mark.parametrize("training", ["frozen", "lora", "full"])
def test_saved_is_loaded(folder: Path, tmp_path: Path, training: str) -> None:
    model = build_text_embedder(folder, replace(CONFIG, training=training, prefix="query: ")).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_text_embedder(model, tmp_path, "# A card")
    again = load_text_embedder(tmp_path)
    assert again.config == model.config and not again.training
    torch.testing.assert_close(again.embed(TEXTS), model.embed(TEXTS), atol=1e-5, rtol=1e-4)
    changed = not torch.allclose(again.embed(TEXTS), build_text_embedder(folder, model.config).embed(TEXTS), atol=1e-2)
    assert changed


def test_damaged_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    save_text_embedder(build_text_embedder(folder, CONFIG), tmp_path, "# A card")
    info = json.loads((tmp_path / INFO_FILE).read_text())
    (tmp_path / INFO_FILE).write_text(json.dumps(info | {"encoder": "0123"}))
    with pytest.raises(CheckpointError, match="was written for encoder 0123"):
        load_text_embedder(tmp_path)
    (tmp_path / INFO_FILE).write_text(json.dumps(info | {"format": "other"}))
    with pytest.raises(CheckpointError, match="format is 'other'"):
        load_text_embedder(tmp_path)
    with pytest.raises(CheckpointError, match="not a text encoder that transformers can load"):
        build_text_embedder(tmp_path / "nowhere", CONFIG)


def test_what_cannot_work_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"No linear layer named q_proj in .*; it has .*query.*Set lora_layers"):
        build_text_embedder(folder, replace(CONFIG, training="lora", lora_layers=("q_proj",)))
    with pytest.raises(ConfigError, match="max_tokens >= 3"):
        TextEmbedderConfig(max_tokens=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    decoder: nn.Module = BertModel(BertConfig(**sizes, is_decoder=True))
    with pytest.raises(ConfigError, match="not a text encoder"):
        TextEmbedder(decoder, tokenizer, CONFIG)
    tokenizer.pad_token = None
    with pytest.raises(ConfigError, match="no padding token"):
        TextEmbedder(BertModel(BertConfig(**sizes)), tokenizer, CONFIG)


def test_a_text_longer_than_the_positions_of_the_encoder_is_cut(folder: Path) -> None:
    model = build_text_embedder(folder, CONFIG)
    long = "ma mo " * 200
    ids, _ = model.tokenize([long])
    assert ids.shape[1] <= model.encoder.config.max_position_embeddings < model.config.max_tokens
    assert model.embed([long]).isfinite().all()


def test_a_padding_token_behind_all_words_takes_no_positions(folder: Path) -> None:
    """ModernBERT's is the last of its vocabulary, number 50,283, and its positions are turned, not counted from it."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    places = {"vocab_size": 500, "pad_token_id": 499, "max_position_embeddings": 66}
    modern = ModernBertModel(ModernBertConfig(**sizes, **places))
    model = TextEmbedder(modern, AutoTokenizer.from_pretrained(folder), CONFIG)
    ids, _ = model.tokenize(["ma mo " * 200])
    assert ids.shape[1] == 66
    assert model.embed([*TEXTS]).isfinite().all()
