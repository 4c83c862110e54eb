"""What a run hears and what it predicts: usable utterances, batches, codebook and units."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from allophone.config import to_dict
from allophone.data.balance import balanced_subset
from allophone.data.corpus import Corpus
from allophone.data.loader import BatchStream, WaveformCache
from allophone.data.noise import NO_SOUNDS, Sounds
from allophone.data.sampler import BatchSampler
from allophone.data.utterance import Utterance
from allophone.distributed import device, rank_zero_first
from allophone.errors import CheckpointError, DataError
from allophone.frames import FrameClock, seconds_to_samples
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash
from allophone.nn.codebook import Codebook
from allophone.run.config import DataConfig, RunConfig, TargetsConfig
from allophone.run.origin import ORIGIN, origin_differences, require_origin, write_origin
from allophone.run.progress import Report, counted, silent
from allophone.run.used import record_use
from allophone.seeding import numpy_generator
from allophone.units.encode import Units, encode_units
from allophone.units.extract import FrameCache
from allophone.units.fit import fit_codebook


def usable(corpus: Corpus, data: DataConfig) -> tuple[Corpus, dict[str, int]]:
    """Utterances of the training split that are long enough, and how many are not, per language.

    Where ``data`` asks for a balanced subset, only that.

    Raises:
        DataError: None is left, or no language has as much as the subset asks for.
    """
    rows = tuple(row for row in _to_train_on(corpus) if row.duration_seconds >= data.min_seconds)
    if not rows:
        raise DataError(
            f"{corpus.folder}: none of {len(corpus)} utterances is in the training split and at least "
            f"{data.min_seconds} s long. Add recordings, or lower data.min_seconds."
        )
    if data.subset is not None:
        rows = balanced_subset(rows, data.subset, crop_seconds=data.collate.crop_seconds)
    return corpus.with_utterances(rows), dict(Counter(row.language for row in too_short(corpus, data)))


def too_short(corpus: Corpus, data: DataConfig) -> list[Utterance]:
    """Utterances of the training split that are left out because they are shorter than ``data.min_seconds``."""
    return [row for row in _to_train_on(corpus) if row.duration_seconds < data.min_seconds]


def _to_train_on(corpus: Corpus) -> list[Utterance]:
    return [row for row in corpus if row.split in (None, "train")]


def left_out_note(corpus: Corpus, data: DataConfig) -> str | None:
    """What is left out because it is too short, in words, by language; None where that is nothing."""
    short, there = too_short(corpus, data), Counter(row.language for row in _to_train_on(corpus))
    if not short:
        return None
    count = sorted(Counter(row.language for row in short).items())
    languages = ", ".join(f"{language} {number} of {there[language]}" for language, number in count)
    return (
        f"Left out, because they are shorter than {data.min_seconds:g} s: {len(short)} of {sum(there.values())} "
        f"recordings to train on ({languages})."
    )


def subset(rows: Sequence[Utterance], hours: float, seed: int) -> list[Utterance]:
    """At most ``hours`` of audio, the same share of every language, drawn by seed."""
    by_language: dict[str, list[Utterance]] = {}
    for row in rows:
        by_language.setdefault(row.language, []).append(row)
    share = hours * 3600 / sum(row.duration_seconds for row in rows)
    chosen: list[Utterance] = []
    for language, members in sorted(by_language.items()):
        budget = share * sum(row.duration_seconds for row in members)
        for index in numpy_generator(seed, "subset", language).permutation(len(members)):
            if budget <= 0:
                break
            chosen.append(members[index])
            budget -= members[index].duration_seconds
    return chosen


def waveforms(corpus: Corpus, rows: Sequence[Utterance]) -> Callable[[], Iterator[tuple[str, Tensor]]]:
    """The stream that codebooks and units are made from, in order of duration so that encoders batch well.

    Audio is decoded once and kept for later passes, as far as the loader's budget goes.
    """
    ordered = sorted(rows, key=lambda row: (row.duration_seconds, row.id))
    audio = WaveformCache(corpus)
    return lambda: ((row.id, audio.get(row)) for row in ordered)


def targets_origin(
    corpus: Corpus,
    targets: TargetsConfig,
    *,
    seed: int,
    teacher: Encoder | None = None,
    fit_on: Corpus | None = None,
    parent: Codebook | None = None,
    given: Codebook | None = None,
) -> dict[str, Any]:
    """What :func:`prepare_targets` makes its folder from, as JSON values."""
    return {
        "targets": to_dict(targets),
        "seed": seed,
        "corpus": corpus.hash,
        "fitted_on": (corpus if fit_on is None else fit_on).hash,
        "teacher": None if teacher is None else model_hash(teacher),
        "parent": None if parent is None else parent.hash,
        **({} if given is None else {"given": given.hash}),
    }


def lend_targets(lender: Path, folder: Path, origin: Mapping[str, Any]) -> bool:
    """Copy targets that another run has made from the very same, so that they are not made again.

    Args:
        lender: The other run's ``targets/``.
        folder: Own ``targets/``; left alone where it is there.
        origin: What it is to be made from (:func:`targets_origin`).

    Returns:
        Whether ``folder`` is there now.
    """
    if folder.exists():
        return True
    if not all((lender / name).exists() for name in (ORIGIN, "units.parquet")) or origin_differences(lender, origin):
        return False
    partial = folder.with_name(folder.name + ".partial")
    shutil.copytree(lender, partial, dirs_exist_ok=True)
    partial.rename(folder)
    return True


@rank_zero_first()
def prepare_targets(
    corpus: Corpus,
    targets: TargetsConfig,
    folder: Path,
    *,
    seed: int,
    teacher: Encoder | None,
    fit_on: Corpus | None = None,
    parent: Codebook | None = None,
    given: Codebook | None = None,
    cache: FrameCache | None = None,
    report: Report = silent,
) -> tuple[Codebook, Units]:
    """Codebook and units of a corpus, from ``folder`` where they are already; rank 0 makes them for all processes.

    Units that cannot be read are encoded again.

    Args:
        corpus: What is labelled; all of its utterances, so that a voice is standardized by all that it said.
        fit_on: What is clustered; None = ``corpus``.
        cache: Frames of ``teacher`` at the targets' layer; None = one that lives as long as this call.
        targets: Front end and number of units.
        folder: Receives ``codebook.*`` and ``units.parquet``.
        seed: Of the clustering.
        teacher: For front end ``model``.
        parent: Codebook whose centroids the clustering starts from; None starts anew.
        given: Codebook that is taken as it is; nothing is clustered then.
        report: Told how far it is.

    Raises:
        CheckpointError: ``folder`` holds a codebook of other settings, another corpus or another encoder.
    """
    source = corpus if fit_on is None else fit_on
    origin = targets_origin(corpus, targets, seed=seed, teacher=teacher, fit_on=source, parent=parent, given=given)
    speakers = {row.id: row.speaker for row in corpus} if targets.normalization == "voice" else None
    cache = FrameCache() if cache is None and teacher is not None else cache
    if (folder / "codebook.json").exists():
        require_origin(folder, origin)
        codebook = Codebook.load(folder)
        if teacher is not None and codebook.info.model_hash != model_hash(teacher):
            raise CheckpointError(f"{folder}: its codebook belongs to another encoder. Give the run another name.")
    else:
        rows = [] if given is not None else subset(source.utterances, targets.fit_hours, seed)
        with _at_work(teacher):
            codebook = given or fit_codebook(
                waveforms(source, rows),
                targets.front_end,
                targets.num_units,
                seed=seed,
                iterations=targets.iterations,
                encoder=teacher,
                layer=targets.layer,
                normalization=targets.normalization,
                speakers=speakers,
                init_frames=2**20 if teacher is None else 2**18,
                cache=cache,
                start=parent,
                progress=counted(report("Clustering")),
            )
        write_origin(folder, origin)
        record_use(folder, {"clustered": rows, "labelled": corpus})
        codebook.save(folder)
    path = folder / "units.parquet"

    def encoded() -> Units:
        with _at_work(teacher):
            return _encoded(corpus, codebook, teacher, speakers, cache, report)

    return codebook, kept_units(path, codebook, encoded)


@contextmanager
def _at_work(encoder: Encoder | None) -> Iterator[None]:
    """Have an encoder where this process trains, and afterwards where it was."""
    if encoder is None:
        yield
        return
    before = next(encoder.parameters()).device
    encoder.to(device())
    try:
        yield
    finally:
        encoder.to(before)


def kept_units(path: Path, codebook: Codebook, make: Callable[[], Units]) -> Units:
    """Units from a file; made and kept there where there is none, or one that is damaged or of another format.

    Raises:
        DataError: The units belong to another codebook or are collapsed.
    """
    try:
        return Units.load(path, codebook)
    except CheckpointError:
        make().save(path)
        return Units.load(path, codebook)


def _encoded(
    corpus: Corpus,
    codebook: Codebook,
    teacher: Encoder | None,
    speakers: dict[str, str | None] | None,
    cache: FrameCache | None,
    report: Report,
) -> Units:
    """Units of every utterance, checked not to be collapsed."""
    return encode_units(
        waveforms(corpus, corpus.utterances),
        codebook,
        encoder=teacher,
        speakers=speakers,
        cache=cache,
        progress=counted(report("Encoding units")),
        total=len(corpus),
    ).check(codebook)


def build_sampler(corpus: Corpus, data: DataConfig, seed: int) -> BatchSampler:
    """Who is heard when: languages, sources and durations decide, nothing is decoded."""
    rows = corpus.utterances
    return BatchSampler(
        [row.duration_seconds for row in rows],
        [row.language for row in rows],
        [row.source or "" for row in rows],
        batch_seconds=data.batch_seconds,
        crop_seconds=data.collate.crop_seconds,
        alpha=data.alpha,
        beta=data.beta,
        equal_lengths=data.collate.equal_lengths,
        seed=seed,
    )


def build_stream(
    corpus: Corpus, units: Units, encoder: Encoder, config: RunConfig, sounds: Sounds = NO_SOUNDS
) -> BatchStream:
    """Batches of a corpus for an encoder, disturbed by ``sounds`` as far as the config says so."""
    rows, data, clock = corpus.utterances, config.data, encoder.clock
    sampler = build_sampler(corpus, data, config.seed)
    aligned = aligned_units(units, rows, clock, config.targets.labels_per_frame)
    return BatchStream(
        corpus,
        rows,
        aligned,
        sampler,
        clock,
        data.collate,
        cache_bytes=int(data.cache_gibibytes * 2**30),
        noise=sounds.noise,
        responses=sounds.responses,
    )


def aligned_units(
    units: Units, rows: Sequence[Utterance], clock: FrameClock, labels_per_frame: int
) -> dict[str, NDArray[np.integer]]:
    """Units laid beside an encoder's frames, ``(T, labels_per_frame)`` by utterance id."""
    frames = {row.id: clock.count(seconds_to_samples(row.duration_seconds)) for row in rows}
    return units.aligned(frames, clock, labels_per_frame)
