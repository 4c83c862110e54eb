"""Wiring of a tuning run: data in batches of classes, a method around a copy of an encoder, and its stopping points."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import nn

from allophone.config import to_dict
from allophone.data.class_sampler import ClassBatches, ClassSampler
from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus
from allophone.data.loader import BatchStream
from allophone.errors import CheckpointError, ConfigError
from allophone.frames import seconds_to_samples
from allophone.losses.mining import MiningConfig
from allophone.methods.cross_entropy_tuning import CrossEntropyTuning, CrossEntropyTuningConfig
from allophone.methods.pair_tuning import PairTuning, PairTuningConfig
from allophone.methods.tuning import TuningConfig, frozen_layers
from allophone.models.build import Encoder, attention_projections, feed_forward_projections
from allophone.models.conversion import model_hash
from allophone.models.frozen import FrozenStates
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig
from allophone.run.progress import Report, silent
from allophone.seeding import derive
from allophone.train.checkpoint import MODEL
from allophone.train.config import TrainConfig
from allophone.train.journal import METRICS
from allophone.train.loop import CHECKPOINTS, train

Trained = Literal["pair", "contrast", "cross-entropy"]
"""Supervised contrast with mining, the same without, and a linear classifier."""
Criterion = Literal["knn", "gap", "silhouette", "isoscore"]
"""What a stopping point is picked by, all on dev: accuracy of the nearest neighbors, or a measure of the geometry."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """How an encoder is tuned to tell classes apart. What PairTune (arXiv:2309.11895) did not publish is our choice."""

    steps: int = 1000
    """Updates of each method."""
    learning_rate: float = 1e-3
    """Peak, for heads and LoRA."""
    encoder_lr_scale: float = 0.1
    """Learning rate of the encoder's own weights over that."""
    training: Literal["full", "lora", "last"] = "full"
    """What of the encoder is trained: all weights, LoRA, or the last layers. Those below the last ones hear every
    utterance once, whole; crops are taken of what they say."""
    last_layers: int = 2
    """Layers of last."""
    lora_rank: int = 16
    """Rank of LoRA, on attention and feed-forward layers."""
    pooling: Literal["mean", "attention"] = "mean"
    """How frames become one vector."""
    layers: Literal["last", "weighted"] = "last"
    """The last hidden state, or a learned mean of all."""
    temperature: float = 0.1
    """Of the contrast (the paper's)."""
    mining: Literal["none", "multi-similarity", "batch-hard", "hardest", "margin"] = "multi-similarity"
    """Which pairs of a batch are kept by the method pair."""
    guard: float | None = None
    """For unsure labels: leave out negatives more similar than the closest positive less this share (0.05)."""
    classes: int = 16
    """Classes of a batch."""
    per_class: int = 4
    """Utterances of each class in a batch."""
    crop_seconds: float = 4.0
    """Longest piece of an utterance in a batch; probes hear whole utterances."""
    unmined_share: float = 0.1
    """Share of the steps, from the first, in which every pair counts."""
    head_only_share: float = 0.1
    """Share of the steps, from the first, in which the encoder waits for its head."""
    points: int = 4
    """Stopping points that are compared on dev, evenly over the run; the last is its end."""
    select: Literal["knn", "gap", "silhouette", "isoscore"] = "knn"
    """What the stopping point is picked by, on dev."""
    chunk_rows: int = 64
    """Utterances embedded at once while training; fewer need less memory and one more forward pass."""

    def __post_init__(self) -> None:
        shares = self.unmined_share, self.head_only_share
        if not 0 <= min(shares) <= max(shares) <= 1 or not 1 <= self.points <= self.steps:
            raise ConfigError(
                f"Tuning needs shares from 0 to 1 and from 1 to `steps` stopping points; got {shares} and "
                f"{self.points} points in {self.steps} steps."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedRun:
    """What one method leaves after one seed."""

    name: Trained
    seed: int
    points: dict[int, Path]
    """Stopping points by step."""
    journal: dict[str, float]
    """The last line of ``metrics.jsonl``: means over the last steps, and the seconds that training took."""
    method: PairTuning | CrossEntropyTuning = field(repr=False)

    def at(self, step: int) -> SpeechEmbedder:
        """The embedder as it was after a step that is one of ``points``, in evaluation mode.

        Raises:
            CheckpointError: Its weights cannot be read.
        """
        try:
            self.method.load_state_dict(load_file(self.points[step] / MODEL))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{self.points[step]}: {' '.join(str(error).split())} Tune again.") from error
        self.method.eval()
        artifact = self.method.artifact()
        assert isinstance(artifact, SpeechEmbedder)
        return copy.deepcopy(artifact).eval()


def fresh_embedder(encoder: Encoder, config: TuneConfig) -> SpeechEmbedder:
    """A copy of an encoder with untrained pooling, which is a plain mean; on its device, in evaluation mode."""
    settings = SpeechEmbedderConfig(
        dim=encoder.dim, layers=config.layers, pooling=config.pooling, projection="none", pooling_heads=1
    )
    return SpeechEmbedder(copy.deepcopy(encoder), settings).to(next(encoder.parameters()).device).eval()


def shared_layers(encoder: Encoder, config: TuneConfig) -> FrozenStates | None:
    """What all methods and seeds hear through, so that it is computed once; None where no layer is frozen."""
    return frozen_layers(fresh_embedder(encoder, config), config.last_layers) if config.training == "last" else None


def build_method(
    name: Trained,
    encoder: Encoder,
    num_classes: int,
    config: TuneConfig,
    *,
    seed: int,
    frozen: FrozenStates | None = None,
) -> PairTuning | CrossEntropyTuning:
    """A method around a copy of the encoder; all methods of one seed begin with the same pooling."""
    torch.manual_seed(derive(seed, "tuning"))
    speech = fresh_embedder(encoder, config)
    tuning = TuningConfig(
        training=config.training,
        last_layers=config.last_layers,
        lora_rank=config.lora_rank,
        lora_layers=attention_projections(encoder) + feed_forward_projections(encoder),
        encoder_lr_scale=config.encoder_lr_scale,
        head_only_batches=round(config.head_only_share * config.steps),
        chunk_rows=config.chunk_rows,
        crop_frames=max(1, encoder.clock.count(seconds_to_samples(config.crop_seconds))),
    )
    if name == "cross-entropy":
        return CrossEntropyTuning(speech, CrossEntropyTuningConfig(num_classes=num_classes, tuning=tuning), frozen)
    return PairTuning(
        speech,
        PairTuningConfig(
            tuning=tuning,
            temperature=config.temperature,
            mining=MiningConfig(rule=config.mining if name == "pair" else "none", guard=config.guard),
            unmined_batches=round(config.unmined_share * config.steps),
        ),
        frozen,
    )


def build_tuning_stream(
    training: Corpus, classes: Mapping[str, Sequence[int]], encoder: Encoder, config: TuneConfig, *, seed: int
) -> BatchStream:
    """Batches of P x K utterances with their classes, not masked, each cut to ``crop_seconds`` by itself.

    Where the last layers are trained, utterances stay whole: what the frozen ones say of them is cut.
    """
    rows = training.utterances
    longest = max((row.duration_seconds for row in rows), default=0.0) + 1.0
    crop = longest if config.training == "last" else config.crop_seconds
    sampler = ClassSampler(
        [classes[row.id] for row in rows],
        [row.duration_seconds for row in rows],
        [row.language for row in rows],
        ClassBatches(classes=config.classes, per_class=config.per_class),
        crop_seconds=config.crop_seconds,
        seed=seed,
    )
    collate = CollateConfig(crop_seconds=crop, equal_lengths=False, mask_probability=0.0)
    return BatchStream(training, rows, None, sampler, encoder.clock, collate, classes=classes)


def tune_encoder(
    name: Trained,
    encoder: Encoder,
    training: Corpus,
    classes: Mapping[str, Sequence[int]],
    config: TuneConfig,
    run_dir: Path,
    *,
    label: str,
    seed: int,
    frozen: FrozenStates | None = None,
    report: Report = silent,
) -> TunedRun | None:
    """Tune a copy of an encoder; the same call again goes on where it stopped.

    Args:
        name: The method.
        encoder: Where it begins; not changed.
        training: What it hears.
        classes: Numbers of the classes of each utterance, by id, from 0 without a gap.
        config: How.
        run_dir: Receives ``metrics.jsonl`` and ``checkpoints/``.
        label: What the classes are, such as the column that holds them.
        seed: Of head, batches, crops and dropout.
        frozen: What :func:`shared_layers` made; None = of its own.
        report: Told how far it is.

    Returns:
        None when a signal stopped it.

    Raises:
        CheckpointError: ``run_dir`` has another run, such as one of another label or other classes.
    """
    num_classes = 1 + max(number for numbers in classes.values() for number in numbers)
    method = build_method(name, encoder, num_classes, config, seed=seed, frozen=frozen)
    every = -(-config.steps // config.points)
    wanted = {*range(every, config.steps, every), config.steps}
    settings = TrainConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.steps // 10,
        schedule="cosine",
        weight_decay=0.01,
        max_grad_norm=5.0,
        log_every=max(1, config.steps // 40),
        save_every=every,
        keep_checkpoints=len(wanted) + 2,  # what a signal saves evicts none: one to go on from, and the next
        seed=seed,
    )
    identity = {"method": name, **tuning_origin(encoder, training, label, classes, config)}
    stream = build_tuning_stream(training, classes, encoder, config, seed=seed)
    with closing(stream):
        result = train(method, stream, settings, run_dir, identity=identity, progress=report(f"Tuning: {name}"))
    points = _saved(run_dir, wanted)
    if result.stopped == "signal":
        return None
    return TunedRun(name=name, seed=seed, points=points, journal=_last_line(run_dir / METRICS), method=method)


def tuning_origin(
    encoder: Encoder, training: Corpus, label: str, classes: Mapping[str, Sequence[int]], config: TuneConfig
) -> dict[str, Any]:
    """What tells runs of tuning apart, besides method and seed, as JSON values."""
    told = json.dumps([(row.id, list(classes[row.id])) for row in sorted(training, key=lambda row: row.id)])
    return {
        "base": model_hash(encoder),
        "corpus": training.hash,
        "label": label,
        "classes": hashlib.sha256(told.encode()).hexdigest()[:16],
        "config": to_dict(config),
    }


def _saved(run_dir: Path, wanted: Collection[int]) -> dict[int, Path]:
    """Checkpoints of wanted steps, by step; others, which a signal saved, are removed once there is a later one."""
    slots = sorted((run_dir / CHECKPOINTS).glob("step-*"))
    saved = {int(slot.name.removeprefix("step-")): slot for slot in slots if slot.name[5:].isdigit()}
    for step in sorted(saved)[:-1]:
        if step not in wanted:
            shutil.rmtree(saved[step])
    return {step: slot for step, slot in saved.items() if step in wanted}


def _last_line(path: Path) -> dict[str, float]:
    """The numbers of the last line of a journal."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: value for name, value in lines[-1].items() if isinstance(value, int | float)}


def random_embedder(encoder: Encoder, config: TuneConfig, random: nn.Module) -> SpeechEmbedder:
    """The same pooling over another encoder of the same kind, such as a random one."""
    embedder = fresh_embedder(encoder, config)
    embedder.encoder = random  # type: ignore[assignment]
    return embedder.to(next(encoder.parameters()).device).eval()
