"""Translations by another model: the second half of the cascade that translation of speech is compared with.

The cascade transcribes first and translates the transcript. Any translator of ``transformers`` with tokens for its
languages will do (NLLB, mBART-50, M2M-100); all three were trained on texts of language, pieces and end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from allophone.distributed import device
from allophone.errors import CheckpointError, DataError
from allophone.models.text_encoder import text_model_hash
from allophone.models.token_decoder import language_tokens
from allophone.text.languages import parse_language

CHUNK = 16
"""Texts translated at once."""
MAX_TOKENS = 200
"""Most tokens of a text, read or written."""


class TextTranslator:
    """A translator of ``transformers``, in float32; its weights are read when they are first needed.

    Args:
        folder_or_hub_id: Which.
        beams: Texts kept in the search.

    Raises:
        CheckpointError: There is no such model, or its tokenizer has no tokens for languages.
    """

    def __init__(self, folder_or_hub_id: str | Path, *, beams: int = 5) -> None:
        self.name = str(folder_or_hub_id)
        self.beams = beams
        self._tokenizer: Any = self._read(AutoTokenizer.from_pretrained)
        self._known = language_tokens(self._tokenizer)
        if not self._known:
            raise CheckpointError(
                f"{self.name}: its tokenizer has no tokens for languages, so it cannot be told which to write. Take "
                "NLLB, mBART-50 or M2M-100."
            )

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 over weights and vocabulary.

        Raises:
            CheckpointError: The weights cannot be read.
        """
        return text_model_hash(self._tokenizer, self._model)

    def language_id(self, language: str) -> int:
        """Number of the token of a language.

        Raises:
            DataError: There is none.
        """
        tag = parse_language(language).tag
        if tag not in self._known:
            names = sorted(self._known)
            raise DataError(
                f"{self.name} has no token for {language} ({tag}). Leave the language out, or take another translator; "
                f"this one knows {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}."
            )
        return int(self._tokenizer.convert_tokens_to_ids(self._known[tag]))

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Texts of one language in another, in order.

        Args:
            texts: What is said.
            source: Their language, in any tag.
            target: The wanted one.

        Raises:
            CheckpointError: The weights cannot be read.
            DataError: The model has no token for a language.
        """
        spoken, wanted = self.language_id(source), self.language_id(target)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found = [""] * len(texts)
        for start in range(0, len(order), CHUNK):
            places = order[start : start + CHUNK]
            for place, text in zip(places, self._write([texts[p] for p in places], spoken, wanted), strict=True):
                found[place] = text
        return found

    def _write(self, texts: Sequence[str], spoken: int, wanted: int) -> list[str]:
        pieces = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        end, pad = self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        rows = [[spoken, *row[: MAX_TOKENS - 2], end] for row in pieces]
        width = max(map(len, rows))
        with torch.inference_mode():
            written = self._model.generate(
                input_ids=torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device()),
                attention_mask=torch.tensor(
                    [[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device()
                ),
                forced_bos_token_id=wanted,
                num_beams=self.beams,
                do_sample=False,
                max_length=None,
                max_new_tokens=min(MAX_TOKENS, self._model.config.max_position_embeddings - 1),
            )
        return [text.strip() for text in self._tokenizer.batch_decode(written, skip_special_tokens=True)]

    @cached_property
    def _model(self) -> Any:
        return self._read(partial(AutoModelForSeq2SeqLM.from_pretrained, dtype=torch.float32)).eval().to(device())

    def _read(self, from_pretrained: Callable[[str], Any]) -> Any:
        try:
            return from_pretrained(self.name)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.name}: not a translator that transformers can load ({' '.join(str(error).split())}). Name one "
                "such as facebook/nllb-200-distilled-600M, or its folder."
            ) from error
