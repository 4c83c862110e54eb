"""Wiring of a language expansion: targets, data, LoRA run and the control without LoRA."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from allophone.audio.augment import AugmentConfig
from allophone.batch import SpeechBatch
from allophone.config import to_dict, to_json
from allophone.data.collate import CollateConfig
from allophone.data.corpus import Corpus, merge
from allophone.data.loader import BatchStream
from allophone.errors import ConfigError
from allophone.methods.language_expansion import (
    ExpansionConfig,
    LanguageExpansion,
    check_adaptation,
    initialize_table,
)
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.models.build import Encoder, attention_projections, build_encoder, feed_forward_projections
from allophone.models.multi_resolution import FusedEncoder
from allophone.models.waveform_encoder import WaveformEncoder
from allophone.nn.codebook import Codebook
from allophone.nn.masking import span_frames
from allophone.run.base import Base
from allophone.run.config import DataConfig, RunConfig, TargetsConfig
from allophone.run.progress import Report, silent
from allophone.run.targets import build_stream, prepare_targets, usable
from allophone.seeding import derive
from allophone.train.config import TrainConfig
from allophone.train.loop import TrainResult, train
from allophone.units.encode import Units
from allophone.units.extract import FrameCache

TABLE_BATCHES = 12
"""Batches from which the label table's first values are averaged."""
TITLES = {
    "random": "Control: head only, random encoder",
    "control": "Control: head only",
    "lora": "Adapting by LoRA",
}
"""What is told of each training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpandConfig:
    """How a language is added."""

    seed: int = 0
    """Of clustering, sampling, masks and initialization."""
    rank: int = 24
    """Rank of LoRA (arXiv:2406.14092: 24)."""
    adapt: Literal["attention", "linear"] | None = None
    """What gets LoRA: attention's projections as in the paper, or the feed-forward modules' layers too. None =
    attention in HuBERT, wav2vec 2.0 and WavLM; both in Conformers, where attention alone left probes as they were
    (docs/LOG.md)."""
    steps: int = 1000
    """Updates of LoRA, and as many of the control."""
    learning_rate: float = 1e-3
    """Peak, for LoRA and label table."""
    unmasked_weight: float = 1.0
    """Weight of the loss on visible frames; 0 as in the paper. 1 is how the starter encoder was pretrained, and kept
    languages and few labels fare better with it (docs/LOG.md)."""
    batch_seconds: float = 32.0
    """Audio in a batch."""
    crop_seconds: float = 6.0
    """Longest piece of an utterance in a batch."""
    targets: Literal["base", "codebook", "mfcc39"] = "base"
    """First targets: new clusters of the base's own layer; the base's codebook as it is, with its own table to begin
    with, so that what the base has learned to predict goes on; or clusters of MFCC as in the paper."""
    iterations: int = 1
    """2 repeats LoRA from zero on clusters of the encoder that the first iteration adapted."""
    layer: int | None = None
    """Hidden state that is clustered; None = that of the base's codebook, or the middle."""
    num_units: int | None = None
    """Units; None = as many as the base's codebook has, or 500; of MFCC then at most 100."""
    normalization: Literal["none", "voice"] = "voice"
    """Standardize frames per speaker before clustering."""
    fit_hours: float = 0.5
    """Audio that the clusters are fitted on, evenly over languages."""
    combine: bool = True
    """Preservation by data combination: kept languages' training audio is mixed in."""
    recluster: bool = True
    """Preservation by re-clustering: clusters are fitted on new and kept languages together."""
    kept_hours: float = 0.25
    """Most training audio of each kept language that is combined and clustered."""
    replay: float | None = None
    """Hours of all kept languages together over those of the new one, instead of kept_hours; 1 = as much of both, which
    alpha 1 draws so."""
    alpha: float = 0.5
    """Exponent between languages when data are combined; 0 = all equal, 1 = by hours."""
    units: Literal["refit", "anchored", "frozen"] = "refit"
    """Units of the adapted encoder: fitted anew; the base's ids, placed where their frames lie now, and new ones after
    them; or the base's centroids as they are."""
    new_units: int | None = None
    """Units that anchored ones are extended by; None = a tenth as many as there are."""
    move: float = 0.0
    """How far anchored units may follow all frames that are nearest to them: 0 not at all, 1 as in k-means."""
    head_steps: int = 300
    """Updates of a label table for the adapted encoder's own units, so that the next language can be added to it; 0
    makes none."""

    def __post_init__(self) -> None:
        if self.iterations not in (1, 2):
            raise ConfigError(f"An expansion has 1 or 2 iterations; got {self.iterations}.")
        if self.steps < 1 or self.rank < 1:
            raise ConfigError(f"steps and rank must be at least 1; got {self.steps} and {self.rank}.")
        if self.targets == "codebook" and (self.layer is not None or self.num_units is not None):
            raise ConfigError(
                "targets 'codebook' are the base's own units; their layer and number cannot be chosen. Leave layer and "
                "num_units out, or take targets 'base'."
            )
        if (self.replay is not None and self.replay < 0) or not 0 <= self.move <= 1 or (self.new_units or 0) < 0:
            raise ConfigError(
                f"replay and new_units must not be negative and move lie between 0 and 1; got {self.replay}, "
                f"{self.new_units} and {self.move}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Expanded:
    """What the runs of one expansion leave."""

    expansion: LanguageExpansion
    """Adapted encoder with its heads."""
    control: MaskedPrediction
    """Base encoder with heads that were trained alone for as many steps."""
    random: MaskedPrediction
    """Random encoder of the same kind with heads that were trained alone for as many steps."""
    codebook: Codebook
    """Targets of the last iteration."""
    units: Units
    """Of every utterance of the new and the kept languages, held-out ones included."""
    config: RunConfig
    """Data, masks and training of the last iteration."""
    teacher: Encoder | None
    """Encoder whose units are the targets; None for MFCC."""
    results: dict[str, TrainResult]
    """``lora``, ``control`` and ``random``."""
    trainable: int
    """Trained parameters."""
    parameters: int
    """All parameters, heads included."""


def run_config(
    base: Base, config: ExpandConfig, *, name: str, targets: Literal["base", "codebook", "mfcc39"]
) -> RunConfig:
    """The masked-prediction run behind one iteration of an expansion."""
    encoder = base.encoder
    layer = base.unit_layer() if config.layer is None else config.layer
    num_units = config.num_units or base.num_units()
    of_mfcc = targets == "mfcc39"
    normalization = base.own_units().info.normalization if targets == "codebook" else config.normalization
    return RunConfig(
        name=name,
        seed=config.seed,
        encoder=encoder.config,
        targets=TargetsConfig(
            front_end="mfcc39" if of_mfcc else "model",
            layer=None if of_mfcc else layer,
            num_units=min(num_units, 100) if of_mfcc and config.num_units is None else num_units,
            normalization=normalization,
            fit_hours=config.fit_hours,
        ),
        data=DataConfig(
            collate=CollateConfig(
                crop_seconds=config.crop_seconds,
                mask_probability=0.65,
                mask_length=span_frames(encoder.clock),
                augment=AugmentConfig(),
            ),
            batch_seconds=config.batch_seconds,
            alpha=config.alpha,
            beta=1.0,
        ),
        train=TrainConfig(
            steps=config.steps,
            learning_rate=config.learning_rate,
            warmup_steps=max(1, config.steps // 12),
            weight_decay=0.0,
            max_grad_norm=5.0,
            save_every=max(50, config.steps // 4),
            log_every=max(1, config.steps // 40),
            seed=config.seed,
        ),
        projection_dim=base.heads["label_embeddings"].shape[1] if base.heads is not None else 256,
        unmasked_weight=config.unmasked_weight,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Iteration:
    """What LoRA and its controls are trained on."""

    run: RunConfig
    """Data, masks and training."""
    folder: Path
    """Receives a folder each training."""
    training: Corpus
    """Recordings that are heard."""
    codebook: Codebook
    """Targets."""
    units: Units
    """Of every utterance, held-out ones included."""
    teacher: Encoder | None
    """Encoder whose units they are; None for MFCC."""
    known: bool
    """Whether they are the base's own, for which it has a table."""


def expand_encoder(
    base: Base,
    new: Corpus,
    kept: Corpus | None,
    config: ExpandConfig,
    run_dir: Path,
    *,
    cache: FrameCache | None = None,
    report: Report = silent,
) -> Expanded | None:
    """Adapt a copy of the base's encoder to a language, with its controls; the base itself is not changed.

    Args:
        base: What is expanded.
        new: Audio of the new language; its training split is used.
        kept: Audio of the languages to keep, or None.
        config: How.
        run_dir: Receives one folder an iteration, with one for each training in it.
        cache: Frames of the base at the layer that is clustered, shared between expansions.
        report: Told how far each stage is.

    Returns:
        None when a signal stopped it; the same call goes on.
    """
    adapted = adapt_encoder(base, new, kept, config, run_dir, cache=cache, report=report)
    if adapted is None:
        return None
    expansion, last, results = adapted
    controls: dict[str, LanguageExpansion] = {}
    for name in ("control", "random"):
        controls[name], results[name] = _train(base, config, last, name, report)
        if results[name].stopped == "signal":
            return None
    trainable, parameters = expansion.trainable_share()
    return Expanded(
        expansion=expansion,
        control=controls["control"].method,
        random=controls["random"].method,
        codebook=last.codebook,
        units=last.units,
        config=last.run,
        teacher=last.teacher,
        results=results,
        trainable=trainable,
        parameters=parameters,
    )


def adapt_encoder(
    base: Base,
    new: Corpus,
    kept: Corpus | None,
    config: ExpandConfig,
    run_dir: Path,
    *,
    cache: FrameCache | None = None,
    report: Report = silent,
) -> tuple[LanguageExpansion, Iteration, dict[str, TrainResult]] | None:
    """As :func:`expand_encoder`, without the controls; None when a signal stopped it."""
    first = run_config(base, config, name="iteration-1", targets=config.targets)
    teacher = None if config.targets == "mfcc39" else base.encoder
    shared = cache if teacher is not None else None
    given = base.own_units() if config.targets == "codebook" else None
    last = _prepare(new, kept, config, first, teacher, given, run_dir, shared, report)
    expansion, result = _train(base, config, last, "lora", report)
    if config.iterations == 2 and result.stopped != "signal":
        second = run_config(base, config, name="iteration-2", targets="base")
        adapted = expansion.artifact()
        last = _prepare(new, kept, config, second, adapted, None, run_dir, None, report)  # type: ignore[arg-type]
        expansion, result = _train(base, config, last, "lora", report)
    return None if result.stopped == "signal" else (expansion, last, {"lora": result})


def _prepare(
    new: Corpus,
    kept: Corpus | None,
    config: ExpandConfig,
    run: RunConfig,
    teacher: Encoder | None,
    given: Codebook | None,
    run_dir: Path,
    cache: FrameCache | None,
    report: Report,
) -> Iteration:
    """Targets of one iteration, and what is heard."""
    folder = run_dir / run.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(to_json(run), encoding="utf-8")
    both = new if kept is None else merge(new, kept)
    training, _ = usable(both if config.combine else new, run.data)
    clustered, _ = usable(both if config.recluster else new, run.data)
    codebook, units = prepare_targets(
        both,
        run.targets,
        folder / "targets",
        seed=run.seed,
        teacher=teacher,
        fit_on=clustered,
        given=given,
        cache=cache,
        report=report,
    )
    return Iteration(
        run=run,
        folder=folder,
        training=training,
        codebook=codebook,
        units=units,
        teacher=teacher,
        known=given is not None,
    )


def _train(
    base: Base, config: ExpandConfig, on: Iteration, name: str, report: Report
) -> tuple[LanguageExpansion, TrainResult]:
    """LoRA from zero (``lora``), or heads alone, on the base's encoder (``control``) or a random one (``random``)."""
    run, rank, layers = on.run, config.rank if name == "lora" else 0, adapted_layers(base.encoder, config.adapt)
    encoder = random_encoder(base.encoder, run.seed) if name == "random" else copy.deepcopy(base.encoder)
    expansion = _fresh(base, encoder, run, rank, layers)
    stream = build_stream(on.training, on.units, encoder, run)
    _start_table(expansion.method, stream, base, known=on.known and name != "random")
    check_adaptation(expansion, stream.batch(stream.state()))
    identity = {"config": to_dict(run), "codebook": on.codebook.hash, "corpus": on.training.hash, "rank": rank}
    identity |= {"layers": layers} if rank > 0 else {}
    with closing(stream):
        result = train(expansion, stream, run.train, on.folder / name, identity=identity, progress=report(TITLES[name]))
    return expansion, result


def _start_table(method: MaskedPrediction, stream: BatchStream, base: Base, *, known: bool) -> None:
    """Begin with the base's own table where its units are the targets, else with the mean frame of each unit."""
    if known:
        assert base.heads is not None
        method.label_embeddings.data.copy_(base.heads["label_embeddings"])
    else:
        initialize_table(method, first_batches(stream, TABLE_BATCHES))


def _fresh(base: Base, encoder: Encoder, run: RunConfig, rank: int, layers: tuple[str, ...]) -> LanguageExpansion:
    """Heads for the run's units around ``encoder``; the base's projection where it has one that fits."""
    torch.manual_seed(derive(run.seed, "expansion"))
    method = MaskedPrediction(encoder, run.method())
    known = base.heads is not None and base.heads["final_proj.weight"].shape == method.final_proj.weight.shape
    if known:
        assert base.heads is not None
        projection = {name: base.heads[name] for name in ("final_proj.weight", "final_proj.bias")}
        method.load_state_dict({**method.state_dict(), **projection})
    settings = ExpansionConfig(rank=rank, train_projection=not known)
    return LanguageExpansion(method, settings, layers)


def adapted_layers(encoder: Encoder, adapt: str | None) -> tuple[str, ...]:
    """Names of the layers that get LoRA; ``adapt`` as in :class:`ExpandConfig`."""
    attention = attention_projections(encoder)
    if adapt == "attention" or (adapt is None and isinstance(encoder, WaveformEncoder | FusedEncoder)):
        return attention
    return attention + feed_forward_projections(encoder)


def random_encoder(like: Encoder, seed: int) -> Encoder:
    """An encoder of the same kind with random weights, in evaluation mode."""
    torch.manual_seed(derive(seed, "random encoder"))
    return build_encoder(like.config).eval()


def first_batches(stream: BatchStream, count: int) -> Iterator[SpeechBatch]:
    """The first batches of a stream, which stays where it is."""
    state = stream.state()
    for _ in range(count):
        yield stream.batch(state)
        state = stream.advance(state)
