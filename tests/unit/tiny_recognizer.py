"""A tiny speech recognizer of transformers with random weights, as a folder; it hears one letter and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdef"]


def recognizer_folder(folder: Path, letter: str = "b") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    words = folder / "letters.json"
    words.write_text(json.dumps({letter: place for place, letter in enumerate(LETTERS)}))
    Wav2Vec2CTCTokenizer(str(words)).save_pretrained(str(folder))
    Wav2Vec2FeatureExtractor().save_pretrained(str(folder))
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(LETTERS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(40, 43),
        conv_stride=(20, 32),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    model = Wav2Vec2ForCTC(config)
    model.lm_head.bias.data[LETTERS.index(letter)] = 100.0
    model.save_pretrained(str(folder))
    return folder
