"""Against ``transformers``: its own tokenizers, one text at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_translator import SIZES, decoder_folder
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    NllbTokenizer,
)

from allophone.errors import CheckpointError, DataError
from allophone.evaluate.text_translation import CHUNK, TextTranslator

pytestmark = pytest.mark.parity
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", "\u2581ab", *"abcdefg"]
TEXTS = ["", *(" ".join("abcdefg"[start % 6 : start % 6 + 1 + start % 4]) for start in range(20))]


def nllb() -> tuple[Any, Any]:
    vocabulary = {piece: place for place, piece in enumerate(PIECES)}
    tokenizer = NllbTokenizer(vocab=vocabulary, merges=[])
    return tokenizer, M2M100ForConditionalGeneration(M2M100Config(vocab_size=len(tokenizer), **SIZES))


def mbart50() -> tuple[Any, Any]:
    tokenizer = MBart50Tokenizer(vocab=[(piece, -float(place)) for place, piece in enumerate(PIECES)])
    return tokenizer, MBartForConditionalGeneration(MBartConfig(vocab_size=len(tokenizer), **SIZES))


@pytest.mark.parametrize(("make", "french", "english"), [(nllb, "fra_Latn", "eng_Latn"), (mbart50, "fr_XX", "en_XX")])
def test_texts_of_published_families(
    make: Callable[[], tuple[Any, Any]], french: str, english: str, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    tokenizer, model = make()
    with torch.no_grad():  # else it writes languages, which are most of its tokens
        model.get_input_embeddings().weight[len(PIECES) :] *= 0.1
    tokenizer.save_pretrained(str(tmp_path))
    model.eval().save_pretrained(str(tmp_path))
    assert len(TEXTS) > CHUNK and "" in TEXTS
    found = TextTranslator(tmp_path, beams=3).translate(TEXTS, "fra", "eng")
    tokenizer.src_lang = french
    for text, ours in zip(TEXTS, found, strict=True):
        written = model.generate(
            **tokenizer(text, return_tensors="pt"),
            forced_bos_token_id=tokenizer.convert_tokens_to_ids(english),
            num_beams=3,
            max_new_tokens=63,
        )
        assert ours == tokenizer.batch_decode(written, skip_special_tokens=True)[0].strip()
    assert len(set(found)) > 3  # what is written depends on what is read


def test_what_cannot_translate_says_so(tmp_path: Path) -> None:
    translator = TextTranslator(decoder_folder(tmp_path / "few", "m2m_100"))
    with pytest.raises(DataError, match=r"no token for swe \(swe_Latn\).*knows eng_Latn, fra_Latn, rus_Cyrl\."):
        translator.translate(["a"], "fra", "swe")
    with pytest.raises(CheckpointError, match="not a translator that transformers can load"):
        TextTranslator(tmp_path / "nothing")
