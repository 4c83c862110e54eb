"""A small text encoder with random weights, and a tokenizer fitted on given texts: where no pretrained one can be had.

It knows no word that its texts did not hold. A multilingual encoder that was trained on much text (LaBSE, BGE-M3, E5)
is the better tower wherever there is one. All sizes are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from allophone.errors import ConfigError, DataError
from allophone.seeding import derive

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
WEIGHTS = "model.safetensors"
"""Written last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTowerConfig:
    """Sizes of a text encoder that is trained from nothing."""

    vocabulary: int = 6_000
    """Most pieces of words that the tokenizer learns."""
    dim: int = 192
    """Values of a hidden state."""
    layers: int = 2
    """Transformer layers."""
    heads: int = 4
    """Attention heads."""
    dropout: float = 0.1
    """Of everything in it."""
    max_tokens: int = 64
    """Longest text."""

    def __post_init__(self) -> None:
        if min(self.vocabulary, self.dim, self.layers, self.heads) < 1 or self.dim % self.heads or self.max_tokens < 3:
            raise ConfigError(f"A text tower needs sizes of at least 1 and a dim that its heads divide; got {self}.")


def write_text_tower(texts: Sequence[str], folder: Path, config: TextTowerConfig, seed: int) -> Path:
    """Fit the tokenizer, draw the weights, and write both as ``transformers`` reads them; equal calls write the same.

    Args:
        texts: What the tokenizer is fitted on; case is folded.
        folder: Where to; what is there is replaced.
        config: Sizes.
        seed: Of the weights.

    Returns:
        The folder.

    Raises:
        DataError: There is no text.
    """
    if not texts:
        raise DataError("A text tower needs texts to fit its tokenizer on; the corpus has none.")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary, special_tokens=list(SPECIAL), min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", SPECIAL.index("<s>")), ("</s>", SPECIAL.index("</s>"))]
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, model_max_length=config.max_tokens, **names
    )
    settings = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=config.dim,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.dim,
        max_position_embeddings=config.max_tokens + 2,
        pad_token_id=SPECIAL.index("<pad>"),
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "text tower"))
        model = BertModel(settings)
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(str(folder))
    model.save_pretrained(str(folder))
    return folder
