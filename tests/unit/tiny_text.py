"""Tiny text encoders with random weights and a tokenizer trained on the spot, as folders, for tests offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXTS = ("une voix joyeuse", "a happy voice", "счастливый голос", "a person says: good morning", "bonjour")


def text_encoder(folder: Path, family: str = "bert", texts: Sequence[str] = TEXTS) -> Path:
    """Write model and tokenizer; every call writes the same."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(str(folder))
    torch.manual_seed(11)
    size = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 66, "pad_token_id": 1, **SIZES}
    model = BertModel(BertConfig(**size)) if family == "bert" else XLMRobertaModel(XLMRobertaConfig(**size))
    model.save_pretrained(str(folder))
    return folder
