"""Recordings that are to be written, and what writing them leaves."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from allophone.data.corpus import Corpus
from allophone.data.lines import grown_lines
from allophone.data.loader import WaveformCache
from allophone.data.texts import texts_of_row
from allophone.data.utterance import Utterance
from allophone.distributed import device
from allophone.evaluate.scores_page import Rows
from allophone.evaluate.text_retrieval import held_out
from allophone.seeding import derive, numpy_generator

BATCH = 16
EXAMPLES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRun:
    """What training and scoring leave."""

    folders: tuple[Path, ...]
    """Model folders, in the order of encoders and seeds."""
    finished: bool
    """False when a signal stopped it; the same call goes on."""
    tables: Path | None = None
    """``scores.md``; None where nothing is held out, or training is not finished."""
    rows: Rows = field(default_factory=dict)
    """Results by system."""


BEFORE_UNKNOWN = "What the encoder heard before, in its own training, is not looked at."
"""Stands in every lead: no record says of all encoders what they heard."""
STOPPED = ScoredRun(folders=(), finished=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A recording that is to be written in a language."""

    row: Utterance
    language: str
    """Of the text."""
    reference: str
    """What is right."""

    @property
    def content(self) -> str:
        """What is drawn together in an interval."""
        return self.row.group or self.row.id

    @property
    def direction(self) -> str:
        """``fra_Latn to eng_Latn``."""
        return f"{self.row.language} to {self.language}"


def unmet(corpus: Corpus, languages: Sequence[str] | None, most: int, least: int) -> list[Asked]:
    """Test (or else dev) recordings whose content and texts are in no other split, with what is to be written.

    Args:
        corpus: With splits.
        languages: To write, of each recording those that it is not spoken in; None = its own words.
        most: Recordings in each direction, drawn where there are more.
        least: Contents that a direction needs.
    """
    for split, known in (("test", (None, "train", "dev")), ("dev", (None, "train"))):
        rows = held_out([row for row in corpus if row.split == split], [row for row in corpus if row.split in known])
        directions: dict[str, list[Asked]] = defaultdict(list)
        for row in rows:
            for language, text in texts_of_row(row, languages).items():
                if languages is None or language != row.language:
                    one = Asked(row=row, language=language, reference=text)
                    directions[one.direction].append(one)
        found = []
        for direction, items in sorted(directions.items()):
            if len({one.content for one in items}) >= least:
                order = numpy_generator(0, "unmet", direction).permutation(len(items))[:most]
                found += [items[place] for place in sorted(order)]
        if found:
            return found
    return []


def nothing_held_out(corpus: Corpus, least: int = 1) -> str:
    """Why a training will not be scored, and what to do about it.

    Args:
        corpus: With splits.
        least: Contents that a direction needs.
    """
    splits = Counter(row.split or "no split" for row in corpus)
    there = ", ".join(f"{split} ({count})" for split, count in sorted(splits.items()))
    needed = "a content" if least == 1 else f"{least} contents of a direction"
    return (
        f"Nothing will be scored: there are recordings of {there}; needed is {needed} of test or dev with texts that "
        "no other split has. Give recordings of other speakers and contents the split test, or leave all splits out: "
        "then they are drawn."
    )


def write_all(
    asked: Sequence[Asked],
    cache: WaveformCache[Utterance],
    write: Callable[[Tensor, Tensor, Sequence[Asked]], Sequence[str]],
    kept: Path,
    progress: Callable[[int, int, dict[str, float]], None],
) -> list[str]:
    """Texts of all recordings, in order; those of similar length are written together.

    Args:
        asked: Recordings and languages.
        cache: Decodes them.
        write: From waveforms ``(B, S)``, their lengths ``(B,)``, both where this process computes, and what is asked to
            B texts.
        kept: File of :func:`kept_texts`; texts that it has are not written again.
        progress: Called with (done, all, {}).
    """
    known = {(line["id"], line["language"]): str(line["text"]) for line in map(json.loads, grown_lines(kept))}
    texts = [known.get((one.row.id, one.language), "") for one in asked]
    missing = [place for place, one in enumerate(asked) if (one.row.id, one.language) not in known]
    order = sorted(missing, key=lambda place: asked[place].row.duration_seconds)
    kept.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        waveforms = [cache.get(asked[place].row) for place in places]
        padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(device())
        lengths = torch.tensor([len(waveform) for waveform in waveforms], device=device())
        with kept.open("a", encoding="utf-8") as file:
            for place, text in zip(places, write(padded, lengths, [asked[place] for place in places]), strict=True):
                texts[place] = text
                line = {"id": asked[place].row.id, "language": asked[place].language, "text": text}
                file.write(json.dumps(line) + "\n")
        progress(min(start + BATCH, len(order)), len(order), {})
    return texts


def kept_texts(out: Path, *made_from: str | int) -> Path:
    """Where a folder keeps what was written by one model, in one way, of the same recordings."""
    return out / "written" / f"{derive(0, 'written', *made_from):016x}.jsonl"


def in_words(rows: Iterable[Utterance]) -> str:
    """How much there is, of which splits, and how much of it is synthetic speech."""
    every = list(rows)
    made = sum(row.synthetic for row in every)
    hours = sum(row.duration_seconds for row in every) / 3600
    return (
        f"{len(every)} utterances ({splits_in_words(every)}), {hours:.2f} h, {made or 'none'} of them synthetic speech"
    )


def splits_in_words(rows: Iterable[Utterance]) -> str:
    """The splits that rows are of; scores are of dev where nothing of test can be asked, and a reader must see it."""
    return ", ".join(sorted({row.split or "no split" for row in rows}))


def examples_of(asked: Sequence[Asked], texts: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    """Some recordings, evenly over all: name, what is right, what was written."""
    places = range(0, len(asked), max(1, len(asked) // EXAMPLES))
    return tuple((asked[place].row.id, asked[place].reference, texts[place]) for place in places)
