"""Training on what utterances say: who has a text, batches with texts, and a run that goes on where it stopped.

Distillation, translation and transcription differ in what they build and save; the rest is here. Like every run: what
is finished is not made again, and what was interrupted goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from allophone.data.corpus import Corpus
from allophone.data.loader import BatchStream
from allophone.data.texts import TextDraws, texts_of_row
from allophone.data.utterance import Utterance
from allophone.distributed import on_rank_zero
from allophone.errors import DataError, suggest
from allophone.frames import FrameClock
from allophone.run.config import DataConfig
from allophone.run.execute import fit_threads
from allophone.run.origin import begin_run, require_origin
from allophone.run.progress import Report, silent
from allophone.run.targets import build_sampler, usable
from allophone.seeding import derive
from allophone.text.languages import parse_language
from allophone.train.config import TrainConfig
from allophone.train.loop import CHECKPOINTS, TrainResult, train

CLOSE_SECONDS = 0.01
"""By which an utterance may be longer than the crop."""


class TextConfig(Protocol):
    """What the config of such a run has."""

    @property
    def seed(self) -> int:
        """Of initialization, sampling, texts and dropout."""
        ...

    @property
    def data(self) -> DataConfig:
        """What is heard."""
        ...

    @property
    def train(self) -> TrainConfig:
        """For how long and how."""
        ...


M = TypeVar("M", bound=nn.Module)
"""A :class:`~allophone.methods.base.Method`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """Utterances that are trained on."""

    corpus: Corpus
    left_out: dict[str, int]
    """Utterances of the training split that are too short, too long or have no text, per language."""
    languages: tuple[str, ...] | None
    """Languages of their texts; None = each in its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRun:
    """What a run leaves."""

    folder: Path
    """Model folder."""
    result: TrainResult
    """How training ended; ``signal`` means: call again to go on."""
    heard: Heard


def without(corpus: Corpus, languages: Sequence[str]) -> Corpus:
    """A corpus less the recordings in some languages; their texts stay, as translations of others.

    Raises:
        DataError: A language is not one of the corpus.
    """
    tags = {parse_language(language).tag for language in languages}
    unknown = sorted(tags - set(corpus.languages))
    if unknown:
        raise DataError(
            f"{corpus.name} has no recording in {unknown[0]}, so it cannot be left out. "
            f"{suggest(unknown[0], corpus.languages)}"
        )
    absent = {row.id for row in corpus if row.language in tags}
    return corpus.with_utterances(tuple(row for row in corpus if row.id not in absent))


def require_texts(corpus: Corpus, languages: Sequence[str]) -> None:
    """Refuse a language that no utterance of the training split has a text in; nothing of it could be learned.

    Raises:
        DataError: There is one.
    """
    training = [row for row in corpus if row.split in (None, "train")]
    there = {tag for row in training for tag in (*row.translations, *([row.language] if row.text else ()))}
    missing = [language for language in languages if language not in there]
    if missing:
        raise DataError(
            f"{corpus.name}: no utterance of the training split has a text in {', '.join(missing)}. There are texts in "
            f"{', '.join(sorted(there)) or 'no language'}. Name these alone, or add texts or translations."
        )


def heard_whole(row: Utterance, data: DataConfig) -> bool:
    """Whether no piece is cut out of an utterance; a piece does not say the whole text."""
    return row.duration_seconds <= data.collate.crop_seconds + CLOSE_SECONDS


def heard_with_texts(corpus: Corpus, data: DataConfig, languages: Sequence[str] | None = None) -> Heard:
    """The training utterances that say something in some languages (None = their own).

    Those longer than the crop are left out, because a piece does not say the whole text.

    Raises:
        DataError: None does.
    """
    training, short = usable(corpus, data)
    rows = tuple(row for row in training if texts_of_row(row, languages) and heard_whole(row, data))
    if not rows:
        wanted = "of their own words" if languages is None else f"in {', '.join(languages)}"
        raise DataError(
            f"{corpus.folder}: none of {len(training)} utterances of the training split has a text {wanted} and at "
            f"most {data.collate.crop_seconds:g} s. Add texts or translations to the corpus, or name other languages."
        )
    there = {row.id for row in rows}
    mute = Counter(row.language for row in training if row.id not in there)
    return Heard(
        corpus=training.with_utterances(rows),
        left_out=dict(Counter(short) + mute),
        languages=None if languages is None else tuple(languages),
    )


def undisturbed(data: DataConfig) -> bool:
    """Whether an utterance sounds the same each time, so that states of a frozen encoder can be kept."""
    return data.collate.augment is None and data.collate.reverb is None and data.collate.mix is None


def text_stream(heard: Heard, clock: FrameClock, config: TextConfig) -> BatchStream[Utterance]:
    """Batches of clips of similar length, with a text each."""
    rows, data = heard.corpus.utterances, config.data
    return BatchStream(
        heard.corpus,
        rows,
        None,
        build_sampler(heard.corpus, data, config.seed),
        clock,
        data.collate,
        cache_bytes=int(data.cache_gibibytes * 2**30),
        texts=TextDraws(rows, heard.languages),
    )


def execute_with_texts(
    config: TextConfig,
    heard: Heard,
    run_dir: Path,
    *,
    origin: Mapping[str, Any],
    clock: FrameClock,
    finished: Callable[[Path], bool],
    build: Callable[[], M],
    save: Callable[[M, Path], None],
    report: Report = silent,
) -> TextRun:
    """Train, or go on; nothing is done where the same run is finished.

    Args:
        config: The run; written to ``run_dir/config.json``.
        heard: What is trained on.
        run_dir: Receives ``metrics.jsonl``, ``checkpoints/``, ``used.parquet`` and ``model/``.
        origin: What the run is made from, as JSON values.
        clock: Of the encoder.
        finished: Whether a model folder is whole.
        build: Makes the method; random numbers come from the run's seed.
        save: Writes the model folder.
        report: Told how far each stage is.

    Raises:
        AllophoneError: What the stages raise.
    """
    folder = run_dir / "model"
    if finished(folder) or (run_dir / CHECKPOINTS).exists():
        require_origin(run_dir, origin)
    if finished(folder):
        done = TrainResult(steps=config.train.steps, stopped="finished")
        return TextRun(folder=folder, result=done, heard=heard)
    on_rank_zero(lambda: begin_run(run_dir, origin, config, heard.corpus))
    torch.manual_seed(derive(config.seed, "init"))
    method = build()
    fit_threads(method)
    with closing(text_stream(heard, clock, config)) as stream:
        result = train(method, stream, config.train, run_dir, identity=dict(origin), progress=report("Training"))
    if result.stopped == "finished":
        on_rank_zero(lambda: save(method, folder))
    return TextRun(folder=folder, result=result, heard=heard)
