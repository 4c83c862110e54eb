"""Wiring of a language expansion: targets, data, LoRA run and the control without LoRA."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from allophone.batch import SpeechBatch
from allophone.config import to_dict, to_json
from allophone.data.corpus import Corpus, merge
from allophone.data.loader import BatchStream
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
from allophone.run.aside import Begin, later
from allophone.run.base import Base
from allophone.run.config import RunConfig
from allophone.run.expansion_config import ExpandConfig, run_config
from allophone.run.progress import Report, silent
from allophone.run.targets import build_stream, prepare_targets, usable
from allophone.seeding import derive
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
    begin: Begin = later,
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
        begin: Begins the controls, which LoRA does not wait for.
        report: Told how far each stage is.

    Returns:
        None when a signal stopped it; the same call goes on.
    """
    last = _last_iteration(base, new, kept, config, run_dir, cache, report)
    if last is None:
        return None
    waited = begin("Controls: head only", partial(_controls, base, config, last), report)
    expansion, result = _train(base, config, last, "lora", report)
    controls = None if result.stopped == "signal" else waited()
    if controls is None:
        return None
    results = {"lora": result, **{name: trained for name, (_, trained) in controls.items()}}
    trainable, parameters = expansion.trainable_share()
    return Expanded(
        expansion=expansion,
        control=controls["control"][0].method,
        random=controls["random"][0].method,
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
    last = _last_iteration(base, new, kept, config, run_dir, cache, report)
    if last is None:
        return None
    expansion, result = _train(base, config, last, "lora", report)
    return None if result.stopped == "signal" else (expansion, last, {"lora": result})


def _last_iteration(
    base: Base,
    new: Corpus,
    kept: Corpus | None,
    config: ExpandConfig,
    run_dir: Path,
    cache: FrameCache | None,
    report: Report,
) -> Iteration | None:
    """What the last LoRA is trained on; an earlier one is trained here. None when a signal stopped that."""
    first = run_config(base, config, name="iteration-1", targets=config.targets)
    teacher = None if config.targets == "mfcc39" else base.encoder
    shared = cache if teacher is not None else None
    given = base.own_units() if config.targets == "codebook" else None
    iteration = _prepare(new, kept, config, first, teacher, given, run_dir, shared, report)
    if config.iterations == 1:
        return iteration
    expansion, result = _train(base, config, iteration, "lora", report)
    if result.stopped == "signal":
        return None
    second = run_config(base, config, name="iteration-2", targets="base")
    adapted = expansion.artifact()
    return _prepare(new, kept, config, second, adapted, None, run_dir, None, report)  # type: ignore[arg-type]


def _controls(
    base: Base, config: ExpandConfig, on: Iteration, report: Report = silent
) -> dict[str, tuple[LanguageExpansion, TrainResult]] | None:
    """Heads alone on the base's encoder and on a random one; None when a signal stopped it."""
    found = {}
    for name in ("control", "random"):
        found[name] = _train(base, config, on, name, report)
        if found[name][1].stopped == "signal":
            return None
    return found


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
