"""A tiny Whisper of transformers with random weights, as a folder; it hears one letter, again and again."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
LANGUAGES = ("en", "fr", "jw")
TASKS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{one}|>" for one in (*LANGUAGES, *TASKS))]
TIMES = [f"<|{step * 0.02:.2f}|>" for step in range(1501)]


def whisper_folder(folder: Path, letter: str = "b") -> Path:
    names = [*LETTERS, *SPECIAL, *TIMES]
    ids = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE({one: ids[one] for one in LETTERS}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(TIMES)
    end = "<|endoftext|>"
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, bos_token=end, unk_token=end, pad_token=end
    )
    fast.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    config = WhisperConfig(
        vocab_size=len(names),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        decoder_start_token_id=ids["<|startoftranscript|>"],
        bos_token_id=ids[end],
        eos_token_id=ids[end],
        pad_token_id=ids[end],
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():  # whatever it hears, the letter is what comes next
        norm, embedding = model.model.decoder.layer_norm, model.model.decoder.embed_tokens.weight
        embedding.copy_(torch.nn.functional.normalize(torch.randn_like(embedding), dim=-1))
        norm.weight.zero_()
        norm.bias.copy_(50 * embedding[ids[letter]])
    model.generation_config = GenerationConfig(
        decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=ids[end],
        pad_token_id=ids[end],
        max_length=448,
        is_multilingual=True,
        lang_to_id={f"<|{one}|>": ids[f"<|{one}|>"] for one in LANGUAGES},
        task_to_id={one: ids[f"<|{one}|>"] for one in ("transcribe", "translate")},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        suppress_tokens=[],
        begin_suppress_tokens=[ids[end]],
        alignment_heads=[[0, 0]],
    )
    model.save_pretrained(folder)
    written = json.loads((folder / "tokenizer_config.json").read_text())
    written["tokenizer_class"] = "WhisperTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(written))
    return folder
