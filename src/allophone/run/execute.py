"""The one place that wires parts together: a corpus and a config become a trained encoder in a folder.

Each stage leaves an artifact (codebook, units, checkpoints, model) and is skipped when an artifact made from the same
settings, corpus and teacher is there, so the same call after an interruption goes on where it stopped. Features are
never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.data.noise import NO_SOUNDS, Sounds
from allophone.distributed import on_rank_zero
from allophone.errors import CheckpointError
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.methods.two_rate_prediction import TwoRatePrediction, prediction
from allophone.models.build import Encoder, build_encoder
from allophone.models.conversion import model_hash, save_encoder
from allophone.nn.codebook import Codebook
from allophone.run.config import RunConfig
from allophone.run.origin import begin_run, require_origin
from allophone.run.progress import Report, Tell, silent, to_nobody
from allophone.run.start import HEADS, Start, carry_over
from allophone.run.targets import build_sampler, build_stream, prepare_targets, usable
from allophone.seeding import derive
from allophone.train.journal import note_once
from allophone.train.loop import CHECKPOINTS, TrainResult, train
from allophone.units.encode import Units

SMALL_ENCODER = 30_000_000
"""Parameters below which one CPU thread is faster than several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a finished run leaves."""

    folder: Path
    """Model folder, with ``heads.safetensors`` and the codebook of its targets."""
    result: TrainResult
    """How training ended; ``signal`` means: call again to go on."""
    left_out: dict[str, int]
    """Utterances too short for training, per language."""


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
    on_rank_zero(lambda: begin_run(run_dir, origin, config, training))
    torch.manual_seed(derive(config.seed, "init"))
    encoder = build_encoder(config.encoder)
    method = prediction(encoder, config.method())
    fit_threads(encoder)  # before the targets: sums over other numbers of threads are rounded differently
    codebook, units = _targets(config, training, run_dir, teacher, start, report)
    carried = None if start is None else carry_over(method, start, codebook, config)
    if not (run_dir / CHECKPOINTS).exists():
        _announce(config, corpus, training, run_dir, carried, tell)
    stream = build_stream(training, units, encoder, config, sounds)
    identity = {"config": to_dict(config), "codebook": codebook.hash, "corpus": training.hash, **sounds.hashes()}
    if origin["start"] is not None:
        identity["start"] = origin["start"]
    with closing(stream):
        result = train(method, stream, config.train, run_dir, identity=identity, progress=report("Training"))
    if result.stopped == "finished":
        before = teacher if start is None else start.encoder
        parents = [codebook.hash] if before is None else [model_hash(before), codebook.hash]
        on_rank_zero(lambda: _save(method, encoder, folder, config.name, parents))
    return Trained(folder=folder, result=result, left_out=left_out)


def _save(method: MaskedPrediction, encoder: Encoder, folder: Path, name: str, parents: Sequence[str]) -> None:
    card = f"# {name}\n\nEncoder pretrained with allophone; see config.json of the run.\n"
    save_heads(method, folder)
    save_encoder(encoder, folder, card, parents=parents, created_by="allophone pretrain")


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
        return start.codebook, _units_before(start.targets / "units.parquet", start.codebook)
    return prepare_targets(
        training,
        config.targets,
        run_dir / "targets",
        seed=config.seed,
        teacher=teacher,
        parent=None if start is None else start.parent(config.targets),
        report=report,
    )


def _units_before(path: Path, codebook: Codebook) -> Units:
    """Units of the run that is continued. Once they are damaged, only that run can make them again: it has the teacher.

    Raises:
        CheckpointError: They cannot be read.
    """
    try:
        return Units.load(path, codebook)
    except CheckpointError as error:
        model = path.parents[1] / "model"
        raise CheckpointError(
            f"{error} Here: delete {model} and start the same command again; it encodes the units anew and writes the "
            f"model from its last checkpoint."
        ) from error


def _announce(
    config: RunConfig, corpus: Corpus, training: Corpus, run_dir: Path, carried: str | None, tell: Tell
) -> None:
    """Write into the journal, once, which subset is heard and what was taken over, and tell it."""
    notes = {} if carried is None else {"start": carried}
    wanted = config.data.subset
    if wanted is not None:
        everything = _hours_heard(usable(corpus, replace(config.data, subset=None))[0], config)
        heard = _hours_heard(training, config)
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
    for (language, _), seconds in build_sampler(corpus, config.data, config.seed).seconds_there().items():
        hours[language] = hours.get(language, 0.0) + seconds / 3600
    return hours


def save_heads(method: MaskedPrediction, folder: Path) -> None:
    """Write projection and label table beside a model, of the slow rate too where it has one; others may ignore it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "final_proj.weight": method.final_proj.weight.detach().contiguous(),
        "final_proj.bias": method.final_proj.bias.detach().contiguous(),
        "label_embeddings": method.label_embeddings.detach().contiguous(),
    }
    if isinstance(method, TwoRatePrediction):
        tensors["coarse_proj.weight"] = method.coarse_proj.weight.detach().contiguous()
        tensors["coarse_proj.bias"] = method.coarse_proj.bias.detach().contiguous()
        tensors["coarse_embeddings"] = method.coarse_embeddings.detach().contiguous()
    (folder / HEADS).write_bytes(save(tensors))  # save_file would hide the file from other users


def is_finished(folder: Path) -> bool:
    """Whether a model folder is complete; ``allophone.json`` is written last."""
    return (folder / "allophone.json").exists()


def fit_threads(model: nn.Module) -> None:
    """Compute small models with one thread: their matrices are too small to share, and the loader has the other core.

    Measured on 2 cores with the 6-million-parameter starter: 0.26 s a step with one thread, 0.48 s with two (LOG.md).
    """
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL_ENCODER:
        torch.set_num_threads(1)
