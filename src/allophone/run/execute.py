"""The one place that wires parts together: a corpus and a config become a trained encoder in a folder.

Each stage leaves an artifact (codebook, units, checkpoints, model) and is skipped when an artifact made from the same
settings, corpus and teacher is there, so the same call after an interruption goes on where it stopped. Features are
never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from allophone.config import to_dict, to_json
from allophone.data.balance import balanced_subset
from allophone.data.corpus import Corpus
from allophone.data.loader import BatchStream, WaveformCache
from allophone.data.noise import NO_SOUNDS, Sounds
from allophone.data.sampler import BatchSampler
from allophone.data.utterance import Utterance
from allophone.errors import CheckpointError, DataError
from allophone.frames import FrameClock, seconds_to_samples
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.models.build import Encoder, build_encoder
from allophone.models.conversion import model_hash, save_encoder
from allophone.nn.codebook import Codebook
from allophone.run.config import DataConfig, RunConfig, TargetsConfig
from allophone.run.origin import require_origin, write_origin
from allophone.run.start import HEADS, Start, carry_over
from allophone.seeding import derive, numpy_generator
from allophone.train.journal import note_once
from allophone.train.loop import CHECKPOINTS, TrainResult, train
from allophone.units.encode import Units, encode_units
from allophone.units.extract import FrameCache
from allophone.units.fit import fit_codebook

Progress = Callable[[int, int, dict[str, float]], None]
Report = Callable[[str], Progress]
"""Given the name of a stage, what its progress is told to."""
Tell = Callable[[str], None]
"""Takes a sentence that a user should read."""

SMALL_ENCODER = 30_000_000
"""Parameters below which one CPU thread is faster than several."""


def silent(stage: str) -> Progress:
    """A :data:`Report` that tells nobody."""
    return lambda done, total, info: None


def to_nobody(sentence: str) -> None:
    """A :data:`Tell` that keeps it to itself; the journal has it all the same."""


def counted(progress: Progress) -> Callable[[int, int], None]:
    """The same for work that only counts."""
    return lambda done, total: progress(done, total, {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a finished run leaves."""

    folder: Path
    """Model folder, with ``heads.safetensors`` and the codebook of its targets."""
    result: TrainResult
    """How training ended; ``signal`` means: call again to go on."""
    left_out: dict[str, int]
    """Utterances too short for training, per language."""


def usable(corpus: Corpus, data: DataConfig) -> tuple[Corpus, dict[str, int]]:
    """Utterances of the training split that are long enough, and how many are not, per language.

    Where ``data`` asks for a balanced subset, only that.

    Raises:
        DataError: None is left, or no language has as much as the subset asks for.
    """
    training = [row for row in corpus if row.split in (None, "train")]
    rows = tuple(row for row in training if row.duration_seconds >= data.min_seconds)
    left_out: dict[str, int] = {}
    for row in training:
        if row.duration_seconds < data.min_seconds:
            left_out[row.language] = left_out.get(row.language, 0) + 1
    if not rows:
        raise DataError(
            f"{corpus.folder}: none of {len(corpus)} utterances is in the training split and at least "
            f"{data.min_seconds} s long. Add recordings, or lower data.min_seconds."
        )
    if data.subset is not None:
        rows = balanced_subset(rows, data.subset, crop_seconds=data.collate.crop_seconds)
    return corpus.with_utterances(rows), left_out


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


def prepare_targets(
    corpus: Corpus,
    targets: TargetsConfig,
    folder: Path,
    *,
    seed: int,
    teacher: Encoder | None,
    fit_on: Corpus | None = None,
    parent: Codebook | None = None,
    cache: FrameCache | None = None,
    report: Report = silent,
) -> tuple[Codebook, Units]:
    """Codebook and units of a corpus, from ``folder`` where they are already.

    Args:
        corpus: What is labelled; all of its utterances, so that a voice is standardized by all that it said.
        fit_on: What is clustered; None = ``corpus``.
        cache: Frames of ``teacher`` at the targets' layer; None = one that lives as long as this call.
        targets: Front end and number of units.
        folder: Receives ``codebook.*`` and ``units.parquet``.
        seed: Of the clustering.
        teacher: For front end ``model``.
        parent: Codebook whose centroids the clustering starts from; None starts anew.
        report: Told how far it is.

    Raises:
        CheckpointError: ``folder`` holds a codebook of other settings, another corpus or another encoder.
    """
    source = corpus if fit_on is None else fit_on
    origin = {
        "targets": to_dict(targets),
        "seed": seed,
        "corpus": corpus.hash,
        "fitted_on": source.hash,
        "teacher": None if teacher is None else model_hash(teacher),
        "parent": None if parent is None else parent.hash,
    }
    speakers = {row.id: row.speaker for row in corpus} if targets.normalization == "voice" else None
    cache = FrameCache() if cache is None and teacher is not None else cache
    if (folder / "codebook.json").exists():
        require_origin(folder, origin)
        codebook = Codebook.load(folder)
        if teacher is not None and codebook.info.model_hash != model_hash(teacher):
            raise CheckpointError(f"{folder}: its codebook belongs to another encoder. Give the run another name.")
    else:
        rows = subset(source.utterances, targets.fit_hours, seed)
        codebook = fit_codebook(
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
        codebook.save(folder)
    path = folder / "units.parquet"
    if not path.exists():
        encode_units(
            waveforms(corpus, corpus.utterances),
            codebook,
            encoder=teacher,
            speakers=speakers,
            cache=cache,
            progress=counted(report("Encoding units")),
            total=len(corpus),
        ).check(codebook).save(path)
    return codebook, Units.load(path, codebook)


def build_sampler(corpus: Corpus, config: RunConfig) -> BatchSampler:
    """Who is heard when: languages, sources and durations decide, nothing is decoded."""
    rows, data = corpus.utterances, config.data
    return BatchSampler(
        [row.duration_seconds for row in rows],
        [row.language for row in rows],
        [row.source or "" for row in rows],
        batch_seconds=data.batch_seconds,
        crop_seconds=data.collate.crop_seconds,
        alpha=data.alpha,
        beta=data.beta,
        seed=config.seed,
    )


def build_stream(
    corpus: Corpus, units: Units, encoder: Encoder, config: RunConfig, sounds: Sounds = NO_SOUNDS
) -> BatchStream:
    """Batches of a corpus for an encoder, disturbed by ``sounds`` as far as the config says so."""
    rows, data, clock = corpus.utterances, config.data, encoder.clock
    sampler = build_sampler(corpus, config)
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


def execute(
    config: RunConfig,
    corpus: Corpus,
    run_dir: Path,
    *,
    teacher: Encoder | None = None,
    start: Start | None = None,
    sounds: Sounds = NO_SOUNDS,
    report: Report = silent,
    tell: Tell = to_nobody,
) -> Trained:
    """Train one iteration or stage, or go on with it; nothing is done where the same one is finished.

    Args:
        config: The run; written to ``run_dir/config.json``.
        corpus: Its training split is used.
        run_dir: Receives ``targets/`` (unless another run's are taken), ``metrics.jsonl``, ``checkpoints/`` and
            ``model/``.
        teacher: Earlier encoder whose layer gives the targets; None for MFCC.
        start: What the run goes on from: the run that ``config.continues`` names, or the model that a warm start
            begins with (None = the teacher without heads).
        sounds: Noise and rooms that the config's mixing and reverberation draw from.
        report: Told how far each stage is.
        tell: Told once, before the first step, what was taken over and what begins anew.

    Raises:
        AllophoneError: What the stages raise.
    """
    training, left_out = usable(corpus, config.data)
    if start is None and config.warm_start:
        assert teacher is not None
        start = Start(name="the earlier iteration", encoder=teacher)
    folder, origin = run_dir / "model", _origin(config, training, teacher, start, sounds)
    if is_finished(folder) or (run_dir / CHECKPOINTS).exists():
        require_origin(run_dir, origin)
    if is_finished(folder):
        done = TrainResult(steps=config.train.steps, stopped="finished")
        return Trained(folder=folder, result=done, left_out=left_out)
    write_origin(run_dir, origin)
    (run_dir / "config.json").write_text(to_json(config), encoding="utf-8")
    codebook, units = _targets(config, training, run_dir, teacher, start, report)
    torch.manual_seed(derive(config.seed, "init"))
    encoder = build_encoder(config.encoder)
    fit_threads(encoder)
    method = MaskedPrediction(encoder, config.method())
    carried = None if start is None else carry_over(method, start, codebook, config)
    if not (run_dir / CHECKPOINTS).exists():
        _announce(config, corpus, run_dir, carried, tell)
    stream = build_stream(training, units, encoder, config, sounds)
    identity = {"config": to_dict(config), "codebook": codebook.hash, "corpus": training.hash, **sounds.hashes()}
    if origin["start"] is not None:
        identity["start"] = origin["start"]
    with closing(stream):
        result = train(method, stream, config.train, run_dir, identity=identity, progress=report("Training"))
    if result.stopped == "finished":
        card = f"# {config.name}\n\nEncoder pretrained with allophone; see config.json of the run.\n"
        before = teacher if start is None else start.encoder
        parents = [codebook.hash] if before is None else [model_hash(before), codebook.hash]
        save_heads(method, folder)
        save_encoder(encoder, folder, card, parents=parents, created_by="allophone pretrain")
    return Trained(folder=folder, result=result, left_out=left_out)


def _origin(
    config: RunConfig, training: Corpus, teacher: Encoder | None, start: Start | None, sounds: Sounds
) -> dict[str, Any]:
    """What a run is made from, as JSON values; a warm start begins with the teacher, which is named once."""
    return {
        "config": to_dict(config),
        "corpus": training.hash,
        "teacher": None if teacher is None else model_hash(teacher),
        "start": model_hash(start.encoder) if start is not None and config.continues is not None else None,
        **sounds.hashes(),
    }


def _targets(
    config: RunConfig,
    training: Corpus,
    run_dir: Path,
    teacher: Encoder | None,
    start: Start | None,
    report: Report,
) -> tuple[Codebook, Units]:
    """Those of the run that is continued, or the run's own."""
    if config.continues is not None:
        assert start is not None and start.targets is not None and start.codebook is not None
        return start.codebook, Units.load(start.targets / "units.parquet", start.codebook)
    return prepare_targets(
        training,
        config.targets,
        run_dir / "targets",
        seed=config.seed,
        teacher=teacher,
        parent=None if start is None else start.parent(config.targets),
        report=report,
    )


def _announce(config: RunConfig, corpus: Corpus, run_dir: Path, carried: str | None, tell: Tell) -> None:
    """Write into the journal, once, which subset is heard and what was taken over, and tell it."""
    notes = {} if carried is None else {"start": carried}
    wanted = config.data.subset
    if wanted is not None:
        everything = _hours_heard(usable(corpus, replace(config.data, subset=None))[0], config)
        heard = _hours_heard(usable(corpus, config.data)[0], config)
        notes["subset"] = f"{config.name} hears {sum(heard.values()):.4f} h, balanced over {len(heard)} languages."
        short = [f"{name} {hours:.4f}" for name, hours in everything.items() if hours < (wanted.hours or 0.0)]
        if short:
            notes["subset"] += f" Whole, because there is less than {wanted.hours:g} h of it: {', '.join(short)}."
    for name, message in sorted(notes.items()):
        if note_once(run_dir, name, message):
            tell(message)


def _hours_heard(corpus: Corpus, config: RunConfig) -> dict[str, float]:
    """Hours of each language, clips counted up to the crop."""
    hours: dict[str, float] = {}
    for (language, _), seconds in build_sampler(corpus, config).seconds_there().items():
        hours[language] = hours.get(language, 0.0) + seconds / 3600
    return hours


def save_heads(method: MaskedPrediction, folder: Path) -> None:
    """Write projection and label table beside a model; others may ignore the file."""
    tensors = {
        "final_proj.weight": method.final_proj.weight.detach().contiguous(),
        "final_proj.bias": method.final_proj.bias.detach().contiguous(),
        "label_embeddings": method.label_embeddings.detach().contiguous(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEADS).write_bytes(save(tensors))  # save_file would hide the file from other users


def is_finished(folder: Path) -> bool:
    """Whether a model folder is complete; ``allophone.json`` is written last."""
    return (folder / "allophone.json").exists()


def fit_threads(encoder: Encoder) -> None:
    """Compute small encoders with one thread: their matrices are too small to share, and the loader has the other core.

    Measured on 2 cores with the 6-million-parameter starter: 0.26 s a step with one thread, 0.48 s with two (LOG.md).
    """
    if sum(parameter.numel() for parameter in encoder.parameters()) < SMALL_ENCODER:
        torch.set_num_threads(1)
