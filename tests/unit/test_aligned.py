from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_model import LASR
from tiny_text import TEXTS, text_encoder
from transformers import AutoModel, AutoTokenizer

from allophone.errors import CheckpointError, ConfigError, DataError
from allophone.models.aligned import Aligned, AlignedInfo, HeardCorpus, aligned_hash, load_aligned, save_aligned
from allophone.models.conversion import read_lineage
from allophone.models.lasr import Lasr
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig
from allophone.models.text_embedder import TextEmbedderConfig, build_text_embedder
from allophone.models.text_tower import TextTowerConfig, write_text_tower


def towers(folder: Path) -> Aligned:
    torch.manual_seed(0)
    speech = SpeechEmbedder(Lasr(LASR), SpeechEmbedderConfig(dim=8, pooling_dim=4)).eval()
    text = build_text_embedder(text_encoder(folder / "source"), TextEmbedderConfig(dim=8)).eval()
    heard = HeardCorpus(
        name="tiny",
        hash="a",
        whole_hash="b",
        utterances=3,
        hours=0.5,
        languages=("fra_Latn",),
        used_for="contrast with text",
    )
    info = AlignedInfo(hash=aligned_hash(speech, text), temperature=0.05, seed=0, heard=(heard,))
    return Aligned(speech=speech, text=text, info=info)


def test_a_folder_opens_as_it_was_saved(tmp_path: Path) -> None:
    model = towers(tmp_path)
    waves = [torch.randn(8_000), torch.randn(12_000), torch.randn(9_000)]
    save_aligned(model, tmp_path / "model", "# card\n", parents=("p",), created_by="test")
    again = load_aligned(tmp_path / "model")
    assert again.info == model.info
    assert torch.equal(again.embed_speech(waves), model.embed_speech(waves))
    assert torch.equal(again.embed_texts(TEXTS), model.embed_texts(TEXTS))
    assert again.embed_texts(TEXTS).norm(dim=1).tolist() == pytest.approx([1.0] * len(TEXTS))
    lineage = read_lineage(tmp_path / "model")
    assert lineage is not None and lineage["parents"] == ["p"]
    assert AutoTokenizer.from_pretrained(tmp_path / "model" / "text")("bonjour")["input_ids"]
    assert AutoModel.from_pretrained(tmp_path / "model" / "text").config.hidden_size == 32


def test_recordings_are_embedded_alike_alone_and_together() -> None:
    torch.manual_seed(0)
    embedder = SpeechEmbedder(Lasr(LASR), SpeechEmbedderConfig(dim=8, pooling_dim=4)).train()
    waves = [torch.randn(length) for length in (8_000, 20_000, 9_000, 16_000)]
    together = embedder.embed(waves, batch_seconds=2.0)
    assert embedder.training
    torch.testing.assert_close(together, torch.cat([embedder.embed([wave]) for wave in waves]))


def test_a_tower_that_was_replaced_is_refused(tmp_path: Path) -> None:
    folder = save_aligned(towers(tmp_path), tmp_path / "model", "x", parents=(), created_by="test")
    values = json.loads((folder / "aligned.json").read_text())
    (folder / "aligned.json").write_text(json.dumps({**values, "hash": "0" * 16}))
    with pytest.raises(CheckpointError, match="was written for model 0000000000000000, the towers beside it are"):
        load_aligned(folder)
    (folder / "aligned.json").unlink()
    with pytest.raises(CheckpointError, match="make one with `allophone align`"):
        load_aligned(folder)


def test_a_text_tower_from_nothing_is_the_same_each_time(tmp_path: Path) -> None:
    config = TextTowerConfig(vocabulary=80, dim=16, heads=2, layers=1)
    folders = [write_text_tower(TEXTS, tmp_path / name, config, seed=3) for name in "ab"]
    for name in ("model.safetensors", "tokenizer.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    embedder = build_text_embedder(folders[0], TextEmbedderConfig(dim=8, training="full"))
    found = embedder.embed(["a happy voice", "A HAPPY voice", "bonjour", "bonjour et plus"])
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    torch.testing.assert_close(embedder.embed(["bonjour"])[0], found[2])
    with pytest.raises(DataError, match="the corpus has none"):
        write_text_tower([], tmp_path / "c", config, seed=0)
    with pytest.raises(ConfigError, match="a dim that its heads divide"):
        TextTowerConfig(dim=10, heads=4)
