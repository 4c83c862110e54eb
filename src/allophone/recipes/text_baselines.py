"""What writing has to be compared with: a training text at random, and the text of the nearest training recording.

Nearest by plain sound (filter banks), by an encoder with random weights and by the encoder as it was before: a model
that was trained to write and is no better has learned to remember, not to hear.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from allophone.data.corpus import Corpus
from allophone.data.loader import WaveformCache
from allophone.data.texts import texts_of_row
from allophone.data.utterance import Utterance
from allophone.distributed import device
from allophone.evaluate.sources import EncoderSource, FilterbankSource
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash
from allophone.recipes.align_scores import pooled_frames
from allophone.recipes.kept_vectors import FOLDER, KeptVectors
from allophone.recipes.written import Asked
from allophone.run.expansion import random_encoder
from allophone.run.progress import Report
from allophone.run.ridge import drawn_rows
from allophone.seeding import numpy_generator

CHANCE = "chance: a training text"


def baseline_texts(
    before: Encoder,
    heard: Corpus,
    corpus: Corpus,
    asked: Sequence[Asked],
    *,
    same_language: bool,
    out: Path,
    report: Report,
) -> dict[str, list[str]]:
    """Texts of every baseline, in the order of ``asked``.

    Args:
        before: The encoder as it was.
        heard: What was trained on; at most 3,000 of its recordings are searched.
        corpus: Decodes what is asked.
        asked: Recordings and languages.
        same_language: Whether only recordings in the same language are searched, as for transcripts.
        out: Keeps vectors, so that an interrupted scoring goes on.
        report: Told how far each stage is.
    """
    known = drawn_rows(heard, 0)
    rows = list({one.row.id: one.row for one in asked}.values())
    data_hash = corpus.with_utterances(tuple(rows)).hash
    keep = KeptVectors(folder=out / FOLDER, made_from=f"{model_hash(before)} {heard.hash} {data_hash}")
    before.to(device())
    random = random_encoder(before, 0).to(device())
    places = {row.id: place for place, row in enumerate(rows)}
    sources: dict[str, EncoderSource | FilterbankSource] = {
        "nearest recording, filter bank": FilterbankSource.near(before.clock.rate),
        "nearest recording, random encoder": EncoderSource("random", random, (before.num_layers,)),
        "nearest recording, encoder before": EncoderSource("before", before, (before.num_layers,)),
    }
    texts = [texts_of_row(row, sorted({one.language for one in asked})) for row in known]
    may = {
        language: torch.tensor([language in found for found in texts]) for language in {one.language for one in asked}
    }
    spoken = {
        language: torch.tensor([row.language == language or not same_language for row in known])
        for language in {row.language for row in rows}
    }
    found = {CHANCE: [_at_random(one, texts, may[one.language] & spoken[one.row.language]) for one in asked]}
    for name, source in sources.items():
        near = _similarity(source, heard, known, corpus, rows, keep, report)
        found[name] = []
        for one in asked:
            there = may[one.language] & spoken[one.row.language]
            if not bool(there.any()):
                there = may[one.language]
            nearest = int(near[places[one.row.id]].masked_fill(~there, -torch.inf).argmax())
            found[name].append(texts[nearest].get(one.language, ""))
    return found


def _at_random(one: Asked, texts: Sequence[dict[str, str]], there: Tensor) -> str:
    choices = there.nonzero()[:, 0]
    if not len(choices):
        return ""
    drawn = int(numpy_generator(0, "chance text", one.language, one.row.id).integers(len(choices)))
    return texts[int(choices[drawn])][one.language]


def _similarity(
    source: EncoderSource | FilterbankSource,
    heard: Corpus,
    known: Sequence[Utterance],
    corpus: Corpus,
    rows: Sequence[Utterance],
    keep: KeptVectors,
    report: Report,
) -> Tensor:
    """Cosines of pooled frames, standardized over what was heard. Shape ``(asked, known)``."""
    clips = f"{source.name}: training"
    first = keep(clips, pooled_frames, WaveformCache(heard), known, source, report(clips)).double()
    second = keep(source.name, pooled_frames, WaveformCache(corpus), rows, source, report(source.name)).double()
    mean, deviation = first.mean(dim=0), first.std(dim=0) + 1e-8
    known_unit, asked_unit = (F.normalize((part - mean) / deviation, dim=-1) for part in (first, second))
    return asked_unit @ known_unit.T
