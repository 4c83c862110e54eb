"""A corpus of made-up words: each content is two pitches, spoken in two languages and written in three."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import soundfile
import torch

from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance

CONTENTS = 40
LANGUAGES = ("eng_Latn", "fra_Latn")


def corpus(folder: Path) -> Corpus:
    """Each content is two pitches; the languages differ in their overtone, the texts name the pitches."""
    rows = []
    for number in range(CONTENTS):
        first, second = number % 7, number // 7
        for place, language in enumerate(LANGUAGES):
            time = torch.arange(4_800) / 16_000
            pitches = [200 * 1.3**step for step in (first, second)]
            parts = [torch.sin(6.28 * p * time) + 0.5 * torch.sin(6.28 * p * (2 + place) * time) for p in pitches]
            path = folder / f"{language}-{number}.wav"
            soundfile.write(path, (0.3 * torch.cat(parts)).numpy(), 16_000)
            words = [f"{'abcdefg'[step]}{'lo' if place else 'ri'}" for step in (first, second)]
            rows.append(
                Utterance(
                    id=path.stem,
                    path=path.name,
                    duration_seconds=0.6,
                    sample_rate=16_000,
                    language=language,
                    speaker=f"voice {place}",
                    text=" ".join(words),
                    group=f"content {number}",
                    translations={"spa_Latn": f"numero {first} {second}"},
                    split="test" if number % 4 == 3 else "train",
                )
            )
    return Corpus(folder=folder, utterances=tuple(rows), name="pitches").save(folder)


def all_in_training(spoken: Corpus, folder: Path) -> Path:
    """Write a corpus of the same recordings, of which nothing is held out."""
    spoken.with_utterances(tuple(replace(row, split="train") for row in spoken)).save(folder)
    return folder
