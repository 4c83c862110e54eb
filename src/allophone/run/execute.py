"""The one place that wires parts together: a corpus and a config become a trained encoder in a folder.

Each stage leaves an artifact (codebook, units, checkpoints, model) and is skipped when its artifact is there, so the
same call after an interruption goes on where it stopped. Features are never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from allophone.config import to_dict, to_json
from allophone.data.corpus import Corpus
from allophone.data.loader import BatchStream, WaveformCache
from allophone.data.sampler import BatchSampler
from allophone.data.utterance import Utterance
from allophone.distributed import on_rank_zero, rank_zero_first
from allophone.errors import CheckpointError, DataError
from allophone.frames import FrameClock, seconds_to_samples
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.models.build import Encoder, build_encoder
from allophone.models.conversion import load_encoder, model_hash, save_encoder
from allophone.nn.codebook import Codebook
from allophone.run.config import DataConfig, RunConfig, TargetsConfig
from allophone.seeding import derive, numpy_generator
from allophone.train.loop import TrainResult, train
from allophone.units.encode import Units, encode_units
from allophone.units.extract import FrameCache
from allophone.units.fit import fit_codebook

Progress = Callable[[int, int, dict[str, float]], None]
Report = Callable[[str], Progress]
"""Given the name of a stage, what its progress is told to."""

HEADS = "heads.safetensors"
SMALL_ENCODER = 30_000_000
"""Parameters below which one CPU thread is faster than several."""


def silent(stage: str) -> Progress:
    """A :data:`Report` that tells nobody."""
    return lambda done, total, info: None


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

    Raises:
        DataError: None is left.
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


@rank_zero_first()
def prepare_targets(
    corpus: Corpus,
    targets: TargetsConfig,
    folder: Path,
    *,
    seed: int,
    teacher: Encoder | None,
    fit_on: Corpus | None = None,
    cache: FrameCache | None = None,
    report: Report = silent,
) -> tuple[Codebook, Units]:
    """Codebook and units of a corpus, from ``folder`` where they are already; rank 0 makes them for all processes.

    Args:
        corpus: What is labelled; all of its utterances, so that a voice is standardized by all that it said.
        fit_on: What is clustered; None = ``corpus``.
        cache: Frames of ``teacher`` at the targets' layer; None = one that lives as long as this call.
        targets: Front end and number of units.
        folder: Receives ``codebook.*`` and ``units.parquet``.
        seed: Of the clustering.
        teacher: For front end ``model``.
        report: Told how far it is.

    Raises:
        CheckpointError: ``folder`` holds a codebook of another encoder.
    """
    speakers = {row.id: row.speaker for row in corpus} if targets.normalization == "voice" else None
    cache = FrameCache() if cache is None and teacher is not None else cache
    if (folder / "codebook.json").exists():
        codebook = Codebook.load(folder)
        if teacher is not None and codebook.info.model_hash != model_hash(teacher):
            raise CheckpointError(f"{folder}: its codebook belongs to another encoder. Give the run another name.")
    else:
        source = corpus if fit_on is None else fit_on
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
            progress=counted(report("Clustering")),
        )
        folder.mkdir(parents=True, exist_ok=True)
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


def build_stream(corpus: Corpus, units: Units, encoder: Encoder, config: RunConfig) -> BatchStream:
    """Batches of a corpus for an encoder."""
    rows, data, clock = corpus.utterances, config.data, encoder.clock
    sampler = BatchSampler(
        [row.duration_seconds for row in rows],
        [row.language for row in rows],
        [row.source or "" for row in rows],
        batch_seconds=data.batch_seconds,
        crop_seconds=data.collate.crop_seconds,
        alpha=data.alpha,
        beta=data.beta,
        seed=config.seed,
    )
    aligned = aligned_units(units, rows, clock, config.targets.labels_per_frame)
    return BatchStream(
        corpus, rows, aligned, sampler, clock, data.collate, cache_bytes=int(data.cache_gibibytes * 2**30)
    )


def aligned_units(
    units: Units, rows: Sequence[Utterance], clock: FrameClock, labels_per_frame: int
) -> dict[str, NDArray[np.integer]]:
    """Units laid beside an encoder's frames, ``(T, labels_per_frame)`` by utterance id."""
    frames = {row.id: clock.count(seconds_to_samples(row.duration_seconds)) for row in rows}
    return units.aligned(frames, clock, labels_per_frame)


def execute(
    config: RunConfig, corpus: Corpus, run_dir: Path, *, teacher: Encoder | None = None, report: Report = silent
) -> Trained:
    """Train one iteration, or go on with it.

    Args:
        config: The run; written to ``run_dir/config.json``.
        corpus: Its training split is used.
        run_dir: Receives ``targets/``, ``metrics.jsonl``, ``checkpoints/`` and ``model/``.
        teacher: Earlier encoder whose layer gives the targets; None for MFCC.
        report: Told how far each stage is.

    Raises:
        AllophoneError: What the stages raise.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    on_rank_zero(lambda: (run_dir / "config.json").write_text(to_json(config), encoding="utf-8"))
    training, left_out = usable(corpus, config.data)
    codebook, units = prepare_targets(
        training, config.targets, run_dir / "targets", seed=config.seed, teacher=teacher, report=report
    )
    torch.manual_seed(derive(config.seed, "init"))
    encoder = build_encoder(config.encoder)
    fit_threads(encoder)
    if config.warm_start:
        assert teacher is not None
        encoder.load_state_dict(teacher.state_dict())
    method = MaskedPrediction(encoder, config.method())
    stream = build_stream(training, units, encoder, config)
    identity = {"config": to_dict(config), "codebook": codebook.hash, "corpus": training.hash}
    with closing(stream):
        result = train(method, stream, config.train, run_dir, identity=identity, progress=report("Training"))
    folder = run_dir / "model"
    if result.stopped == "finished":
        parents = [codebook.hash] if teacher is None else [model_hash(teacher), codebook.hash]
        on_rank_zero(lambda: _save(method, encoder, folder, config.name, parents))
    return Trained(folder=folder, result=result, left_out=left_out)


def _save(method: MaskedPrediction, encoder: Encoder, folder: Path, name: str, parents: Sequence[str]) -> None:
    card = f"# {name}\n\nEncoder pretrained with allophone; see config.json of the run.\n"
    save_heads(method, folder)
    save_encoder(encoder, folder, card, parents=parents, created_by="allophone pretrain")


def save_heads(method: MaskedPrediction, folder: Path) -> None:
    """Write projection and label table beside a model; others may ignore the file."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "final_proj.weight": method.final_proj.weight.detach().contiguous(),
        "final_proj.bias": method.final_proj.bias.detach().contiguous(),
        "label_embeddings": method.label_embeddings.detach().contiguous(),
    }
    (folder / HEADS).write_bytes(save(tensors))  # save_file would hide the file from other users


def load_heads(folder: Path) -> dict[str, Tensor] | None:
    """Projection and label table that :func:`save_heads` wrote; None where a model came without."""
    path = folder / HEADS
    return {name: value.float() for name, value in load_file(path).items()} if path.exists() else None


def load_finished(folder: Path) -> Encoder | None:
    """The encoder of a finished run, None before it is finished."""
    return load_encoder(folder) if (folder / "allophone.json").exists() else None


def fit_threads(encoder: Encoder) -> None:
    """Compute small encoders with one thread: their matrices are too small to share, and the loader has the other core.

    Measured on 2 cores with the 6-million-parameter starter: 0.26 s a step with one thread, 0.48 s with two (LOG.md).
    """
    if sum(parameter.numel() for parameter in encoder.parameters()) < SMALL_ENCODER:
        torch.set_num_threads(1)
