"""A short real run: starter clips and their texts in several languages come together, in the one loop."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path

import pytest
import torch

pytest.importorskip("allophone_starter", reason="needs the starter corpus")

import allophone_starter
from tiny_text import text_encoder

from allophone.data.captioning import CaptionConfig, Captioner, content_facts
from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus
from allophone.data.loader import BatchStream
from allophone.data.sampler import BatchSampler
from allophone.data.utterance import Utterance
from allophone.methods.audio_text_contrast import AudioTextContrast, AudioTextContrastConfig
from allophone.models.conversion import load_encoder
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig
from allophone.models.text_embedder import TextEmbedderConfig, build_text_embedder
from allophone.train import TrainConfig, train

LANGUAGES = ("ita_Latn", "rus_Cyrl", "spa_Latn")
CLIPS = 12


def clips() -> Corpus:
    """Short recordings in three languages, each of a content of its own."""
    corpus = Corpus.open(allophone_starter.corpus_path())
    short = [row for row in corpus if row.text and 0.5 < row.duration_seconds < 1.2 and len(row.translations) > 3]
    found: dict[str, Utterance] = {}
    for language in LANGUAGES:
        fresh = [row for row in short if row.language == language and row.group and row.group not in found]
        found |= {str(row.group): row for row in fresh[:: len(fresh) // 4][:4]}
    return corpus.with_utterances(tuple(found.values()))


def stream(corpus: Corpus) -> BatchStream[Utterance]:
    rows = corpus.utterances
    durations, captions = [1.0] * len(rows), Captioner(rows, CaptionConfig(languages=LANGUAGES))
    sampler = BatchSampler(durations, ["all"] * len(rows), ["all"] * len(rows), batch_seconds=CLIPS, crop_seconds=1.0)
    config = CollateConfig(crop_seconds=1.0, equal_lengths=False, mask_probability=0.0)
    clock = load_encoder(allophone_starter.encoder_path()).clock
    return BatchStream(corpus, rows, None, sampler, clock, config, captions=captions)


def test_the_loss_falls_below_chance(tmp_path: Path) -> None:
    corpus = clips()
    assert len(corpus) == CLIPS and len(corpus.languages) == 3
    texts = [text for facts in content_facts(corpus, LANGUAGES).values() for fact in facts for _, text in fact.wordings]
    torch.manual_seed(0)
    speech = SpeechEmbedder(load_encoder(allophone_starter.encoder_path()), SpeechEmbedderConfig(dim=32))
    text = build_text_embedder(
        text_encoder(tmp_path / "text", texts=texts), TextEmbedderConfig(dim=32, training="full", projection="linear")
    )
    method = AudioTextContrast(speech, text, AudioTextContrastConfig(chunk_rows=6))
    config = TrainConfig(
        steps=30,
        learning_rate=1e-3,
        warmup_steps=5,
        schedule="constant",
        log_every=10,
        save_every=30,
        tensorboard=False,
    )
    with closing(stream(corpus)) as batches:
        train(method, batches, config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    last = lines[-1]
    assert lines[-1]["contrasted"] == CLIPS
    assert losses[-1] < 0.6 * math.log(CLIPS) and losses[-1] < losses[0], losses
    assert last["accuracy_text_of_audio"] > 4 * last["chance_accuracy"], last
