"""Tiny decoders with random weights and a tokenizer with language tokens, written by transformers, as folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_text import TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
LANGUAGES = {"mbart": ["en_XX", "fr_XX", "ru_RU"], "m2m_100": ["eng_Latn", "fra_Latn", "rus_Cyrl"]}
SIZES: dict[str, Any] = {
    "d_model": 24,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "init_std": 0.3,
    "dropout": 0.0,
}
"""Weights are far from zero, so that what is said depends on what is heard."""


def tokenizer(family: str, more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    built = Tokenizer(models.BPE(unk_token="<unk>"))
    built.pre_tokenizer, built.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = [*SPECIAL, *LANGUAGES[family], *more]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    built.train_from_iterator(TEXTS, trainer)
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=built, model_max_length=64, **names)


def decoder_folder(folder: Path, family: str = "mbart", more: Sequence[str] = ()) -> Path:
    """Write model and tokenizer, with tokens of more languages; every call writes the same."""
    words = tokenizer(family, more)
    words.save_pretrained(str(folder))
    torch.manual_seed(11)
    sizes = {"vocab_size": len(words), **SIZES}
    if family == "mbart":
        model: Any = MBartForConditionalGeneration(MBartConfig(**sizes))
    else:
        model = M2M100ForConditionalGeneration(M2M100Config(**sizes))
    model.save_pretrained(str(folder))
    return folder
