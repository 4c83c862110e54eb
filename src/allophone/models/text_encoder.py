"""Text encoders of ``transformers``, opened so that no weight is missing unsaid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from allophone.errors import CheckpointError, ConfigError
from allophone.models.conversion import model_hash
from allophone.models.text_pooling import stated_pooler

POOLER = "pooler."
"""A layer for BERT's first task, which many checkpoints lack, rightly."""


@contextmanager
def quietly() -> Iterator[None]:
    """Without the reports of ``transformers`` about weights; whoever opens a model here checks them."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def open_text_encoder(folder_or_hub_id: str | Path, *, pooler: bool = False) -> tuple[Any, Any]:
    """Tokenizer and encoder, in float32; the encoder's pooler is None where the checkpoint has no weights for it.

    Args:
        folder_or_hub_id: The model.
        pooler: Whether its pooler is read; that of a sentence-transformers model may lie in a folder of its own.

    Raises:
        CheckpointError: There is no such model, it is damaged, or weights are missing.
        ConfigError: Its pooler is asked for, and it has none, or one that is not known here.
    """
    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(folder_or_hub_id)
            model, report = AutoModel.from_pretrained(folder_or_hub_id, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder_or_hub_id}: not a text encoder that transformers can load ({' '.join(str(error).split())}). "
            "Check the name; without a network, download it where there is one and name the folder."
        ) from error
    missing = sorted(report["missing_keys"])
    needed = [name for name in missing if not name.startswith(POOLER)]
    if needed:
        raise CheckpointError(f"{folder_or_hub_id}: weights are missing: {', '.join(needed[:8])}. Copy it again.")
    if missing:
        model.pooler = None
    own = stated_pooler(folder_or_hub_id) if pooler else None
    if own is not None and hasattr(model, "pooler"):
        model.pooler = own
    if pooler and getattr(model, "pooler", None) is None:
        raise ConfigError(f"{folder_or_hub_id} has no pooler. Take 'mean' or 'cls', as the model's card says.")
    return tokenizer, model


def text_model_hash(tokenizer: Any, model: Any) -> str:
    """First 16 hex digits of the SHA-256 over a model's weights and its tokenizer's vocabulary."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(f"{model_hash(model)} {vocabulary}".encode()).hexdigest()[:16]
