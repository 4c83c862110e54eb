"""Tuning an encoder to tell classes apart, beside its baselines, and what two probes and the geometry say of each.

One call trains every method that is asked for with as many steps on the same batches, and scores them in one table with
chance, filter banks, the random encoder and the frozen one. Stopping points are picked on dev; test is scored at every
one only to say which way of picking would have been better.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from allophone.config import config_hash, to_dict
from allophone.data.corpus import Corpus
from allophone.data.labelled import Label, LabelledParts, label_parts
from allophone.data.loader import WaveformCache
from allophone.distributed import device
from allophone.errors import ConfigError
from allophone.evaluate.sources import EncoderSource, FilterbankSource
from allophone.metrics.intervals import Interval
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash
from allophone.models.frozen import FrozenStates
from allophone.models.speech_embedder import INFO_FILE, SpeechEmbedder, save_speech_embedder
from allophone.recipes.ledger import FILTER_BANK_CLOCK, draw_rows
from allophone.recipes.tune_page import markdown, tuning_facts, tuning_page
from allophone.recipes.tune_scores import (
    READERS,
    Heard,
    SystemScore,
    chance_score,
    change_cells,
    embed_parts,
    embedder_of,
    geometry_dict,
    interval_groups,
    mistakes,
    pooled,
    score_cells,
    score_layers,
    score_system,
)
from allophone.run.execute import fit_threads
from allophone.run.expansion import random_encoder
from allophone.run.origin import begin_run, require_origin
from allophone.run.plan import plan_tuning
from allophone.run.progress import Report, silent
from allophone.run.starter import open_base
from allophone.run.tuning import (
    Criterion,
    Trained,
    TuneConfig,
    TunedRun,
    fresh_embedder,
    random_embedder,
    shared_layers,
    tune_encoder,
    tuning_origin,
)
from allophone.train.checkpoint import has_checkpoint
from allophone.train.loop import CHECKPOINTS

Method = Literal["frozen", "pair", "contrast", "cross-entropy"]
FROZEN: Final = "frozen"
DEV_READER = READERS[2]
"""Neighbors whose dev accuracy picks a stopping point."""
GEOMETRIC: tuple[Criterion, ...] = ("gap", "silhouette", "isoscore")


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneData:
    """How much is probed, and what counts as a class."""

    min_train: int = 8
    """Classes with fewer training utterances are left out."""
    share_speakers: bool = False
    """Where splits are drawn: let speakers be in several parts."""
    fold: int = 1
    """Official fold that is tested, where the corpus has folds; the one after it chooses, the others teach."""
    most_train: int = 3000
    """Training utterances that probes learn from; tuning hears all."""
    most_dev: int = 500
    """Dev utterances."""
    most_test: int = 1500
    """Test utterances."""
    few_shot: bool = True
    """Whether the few-shot curve is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """What a tuning leaves in its folder."""

    tables: Path
    """``scores.md``."""
    result: Path
    """``result.json``."""
    page: Path
    """``report.html``, offline: confusions and neighbors with players, results by class and voice, the space."""
    cells: dict[str, dict[str, Interval]]
    """Percent right by system and reader."""


def tune(
    base: str | Path,
    corpus: Corpus | Path | str,
    *,
    label: Label,
    out: Path,
    methods: Sequence[Method] = ("pair",),
    seeds: Sequence[int] = (0,),
    config: TuneConfig | None = None,
    data: TuneData | None = None,
    report: Report = silent,
) -> Tuned | None:
    """Tune, probe and measure.

    Args:
        base: ``starter``, a model folder or a hub id.
        corpus: A corpus, or anything that ``Corpus.open`` reads.
        label: Column of the classes.
        out: Run folder; the same call again goes on where it stopped.
        methods: What is trained; ``frozen`` trains nothing and is a row of every table.
        seeds: Of training, random encoder and few-shot draws.
        config: How it is trained, the same for all methods.
        data: How much is probed.
        report: Told how far each stage is.

    Returns:
        None when a signal stopped it.

    Raises:
        AllophoneError: The corpus has too few classes, a model cannot be read, ``out`` holds runs of something else,
            ...
    """
    if not methods or not seeds:
        raise ConfigError(f"tune needs at least one method and one seed; got {list(methods)} and {list(seeds)}.")
    started, config, data = time.monotonic(), config or TuneConfig(), data or TuneData()
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    parts = labelled(opened, label, data)
    loaded, _ = open_base(base)
    encoder = loaded.encoder.to(device())
    fit_threads(encoder)
    _begin(out, encoder, parts, label, config, trains=bool(trained_methods(methods)))
    heard, frozen = listen(parts, data), shared_layers(encoder, config)
    systems, points = baselines(encoder, heard, config, data, seeds, report), []
    tuned = partial(tune_encoder, label=label, frozen=frozen, report=report)
    for name in trained_methods(methods):
        for seed in seeds:
            run = tuned(name, encoder, parts.train, parts.classes, config, out / f"{name}-seed-{seed}", seed=seed)
            if run is None:
                return None
            found, chosen = score_points(run, heard, config, data, frozen, report)
            systems.setdefault(name, []).append(found[chosen])
            points.append(points_dict(run, found, chosen, config.select))
            if seed == seeds[0]:
                hand_over(run.at(chosen), out / name, f"{len(parts.names)} values of {label}", model_hash(encoder))
    over, groups = interval_groups(heard.parts, label)
    cells = score_cells(systems, groups)
    signature = {"model": model_hash(encoder), "corpus": opened.hash, "settings": config_hash(config)}
    values = {
        "format": "allophone-tuning-1",
        "label": label,
        "signature": signature | {"seeds": list(seeds)},
        "config": to_dict(config),
        "data": to_dict(data),
        "parts": parts_dict(parts, heard.parts),
        "intervals_over": over,
        "scores": cell_dict(cells),
        "changes_from_frozen": cell_dict(change_cells(systems, FROZEN, groups)),
        "stopping_points": points,
        "systems": {name: [system_dict(one, heard.parts) for one in scores] for name, scores in systems.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    (out / "result.json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "scores.md").write_text(markdown(cells, systems, points, heard.parts, over), encoding="utf-8")
    facts = tuning_facts(f"{base}, {signature['model']}", opened, parts, config, seeds, over)
    shown = next(iter(trained_methods(methods)), FROZEN)
    page = tuning_page(systems, cells, heard, label, (FROZEN, shown), facts, out / "report.html")
    return Tuned(tables=out / "scores.md", result=out / "result.json", page=page, cells=cells)


def _begin(
    out: Path, encoder: Encoder, parts: LabelledParts, label: Label, config: TuneConfig, *, trains: bool
) -> None:
    """Write what runs are made from, unless the folder has some that were made from something else; then refuse."""
    origin = tuning_origin(encoder, parts.train, label, parts.classes, config)
    made = any(has_checkpoint(folder) for folder in out.glob(f"*/{CHECKPOINTS}")) or any(out.glob(f"*/{INFO_FILE}"))
    if made:
        require_origin(out, origin)
    begin_run(out, origin, config, parts.train if trains or made else ())


def plan(
    base: str | Path,
    corpus: Corpus,
    label: Label,
    methods: Sequence[Method],
    seeds: int,
    config: TuneConfig,
    data: TuneData,
) -> str:
    """What a tuning would do: its parts and classes, then time and disk."""
    parts = labelled(corpus, label, data)
    small = probed_parts(parts, data)
    trained = trained_methods(methods)
    hours = sum(sum(part.hours().values()) for part in (small.train, small.dev, small.test))
    loaded, _ = open_base(base)
    planned = plan_tuning(loaded.encoder, config, trained, num_classes=len(parts.names), seeds=seeds, hours=hours)
    sizes = ", ".join(f"{name} {len(getattr(small, name))}" for name in ("train", "dev", "test"))
    left_out = ", ".join(f"{count} ({reason})" for reason, count in parts.left_out.items() if count) or "none"
    facts = [
        f"{len(parts.names)} values of {label}; tuned on {len(parts.train)} utterances; probed: {sizes}.",
        f"Left out: {left_out}.",
        *parts.notes,
    ]
    return "\n".join([*facts, str(planned)])


def hand_over(embedder: SpeechEmbedder, folder: Path, told_apart: str, base_hash: str) -> None:
    """Write a tuned model with its card and what it was made from."""
    card = f"# {folder.name}\n\nTuned with allophone to tell {told_apart} apart.\n"
    save_speech_embedder(embedder, folder, card, parents=(base_hash,), created_by="allophone tune")


def labelled(corpus: Corpus, label: Label, data: TuneData) -> LabelledParts:
    """The parts of a corpus, always the same ones."""
    return label_parts(
        corpus, label, min_train=data.min_train, share_speakers=data.share_speakers, fold=data.fold, seed=0
    )


def trained_methods(methods: Sequence[Method]) -> list[Trained]:
    """The methods that train something, each once."""
    return [name for name in dict.fromkeys(methods) if name != FROZEN]


def probed_parts(parts: LabelledParts, data: TuneData) -> LabelledParts:
    """What is probed, always the same utterances of each part."""
    most = {"train": data.most_train, "dev": data.most_dev, "test": data.most_test}
    small = {
        name: (corpus := getattr(parts, name)).with_utterances(tuple(draw_rows(list(corpus), count)))
        for name, count in most.items()
    }
    return replace(parts, train=small["train"], dev=small["dev"], test=small["test"])


def listen(parts: LabelledParts, data: TuneData) -> Heard:
    """Decode what is probed, to the samples that tuning hears."""
    small = probed_parts(parts, data)
    samples = WaveformCache(small.train, budget_bytes=0)
    train, dev, test = (tuple(samples.get(row) for row in part) for part in (small.train, small.dev, small.test))
    return Heard(parts=small, train=train, dev=dev, test=test)


def baselines(
    encoder: Encoder, heard: Heard, config: TuneConfig, data: TuneData, seeds: Sequence[int], report: Report
) -> dict[str, list[SystemScore]]:
    """The rows that every table has."""
    told = report("Baselines")
    bank = FilterbankSource(round(encoder.clock.hop / FILTER_BANK_CLOCK.hop))
    systems = {"chance": [chance_score(heard.parts)]}
    systems["filter bank"] = [score_system(embed_parts(pooled(bank), heard), few_shot=False, seed=0)]
    told(1, 3, {})
    systems["random encoder"] = []
    for seed in seeds:
        random = embedder_of(random_embedder(encoder, config, random_encoder(encoder, seed)))
        systems["random encoder"].append(score_system(embed_parts(random, heard), few_shot=False, seed=seed))
    told(2, 3, {})
    frozen = embed_parts(embedder_of(fresh_embedder(encoder, config)), heard)
    systems[FROZEN] = [score_system(frozen, few_shot=data.few_shot, seed=0)]
    for name, score in score_layers(EncoderSource(FROZEN, encoder), heard, seed=0).items():
        systems[name] = [score]
    told(3, 3, {})
    return systems


def score_points(
    run: TunedRun, heard: Heard, config: TuneConfig, data: TuneData, frozen: FrozenStates | None, report: Report
) -> tuple[dict[int, SystemScore], int]:
    """Every stopping point of a run scored, and the one that dev picks."""
    told = report(f"Probing: {run.name}")
    found = {}
    for number, step in enumerate(sorted(run.points)):
        embedded = embed_parts(embedder_of(run.at(step), frozen), heard)
        found[step] = score_system(embedded, few_shot=False, seed=run.seed)
        told(number + 1, len(run.points), {})
    chosen = pick(found, config.select)
    if data.few_shot:
        embedded = embed_parts(embedder_of(run.at(chosen), frozen), heard)
        found[chosen] = score_system(embedded, few_shot=True, seed=run.seed)
    return found, chosen


def pick(found: dict[int, SystemScore], criterion: Criterion) -> int:
    """The step whose dev score is best; of equal ones the first."""
    return max(found, key=lambda step: (dev_value(found[step], criterion), -step))


def dev_value(score: SystemScore, criterion: Criterion) -> float:
    """What a criterion says of a stopping point, on dev; higher is better."""
    if criterion == "knn":
        return float(score.dev_hits[DEV_READER].mean())
    assert score.geometry is not None
    return float(getattr(score.geometry["dev"], criterion))


def points_dict(run: TunedRun, found: dict[int, SystemScore], chosen: int, select: Criterion) -> dict[str, Any]:
    """All stopping points of a run, which each criterion picks, and what that costs on test."""
    tests = {step: {name: 100 * float(hits.mean()) for name, hits in one.hits.items()} for step, one in found.items()}
    best = max(tests, key=lambda step: (tests[step][DEV_READER], -step))
    picks = {one: pick(found, one) for one in ("knn", *GEOMETRIC)}
    lost = {one: round(tests[best][DEV_READER] - tests[step][DEV_READER], 2) for one, step in picks.items()}
    cheapest = min(lost.values())
    better = [one for one, points in lost.items() if points == cheapest]
    note = (
        f"{select} on dev picked step {chosen}, {lost[select]:.2f} points of {DEV_READER} on test below the best "
        f"point (step {best}); least lost: {', '.join(better)} ({cheapest:.2f})."
    )
    return {
        "method": run.name,
        "seed": run.seed,
        "chosen": chosen,
        "picked_by": picks,
        "lost_on_test": lost,
        "note": note,
        "journal": {name: round(value, 4) for name, value in run.journal.items()},
        "points": [
            {
                "step": step,
                "dev": {name: round(dev_value(one, name), 4) for name in ("knn", *GEOMETRIC)},
                "test": {name: round(value, 2) for name, value in tests[step].items()},
                "geometry": geometry_dict(one),
            }
            for step, one in sorted(found.items())
        ],
    }


def parts_dict(parts: LabelledParts, probed: LabelledParts) -> dict[str, Any]:
    """Sizes of the parts and what must be known of them."""
    return {
        "classes": list(parts.names),
        "tuned_on": len(parts.train),
        "probed": {name: len(getattr(probed, name)) for name in ("train", "dev", "test")},
        "left_out": parts.left_out,
        "notes": list(parts.notes),
    }


def system_dict(score: SystemScore, parts: LabelledParts) -> dict[str, Any]:
    """Everything about a system that is not in the table."""
    curve = score.few_shot or {}
    draws = {str(shots): [round(100 * float(row.mean()), 2) for row in hits] for shots, hits in curve.items()}
    linear = score.linear
    return {
        "regularization": None if linear is None else linear.regularization,
        "converged": None if linear is None else linear.converged,
        "few_shot": draws,
        "geometry": geometry_dict(score),
        "linear": mistakes(score, parts),
    }


def cell_dict(cells: dict[str, dict[str, Interval]]) -> dict[str, Any]:
    """Intervals as JSON values."""
    return {name: {reader: to_dict(one) for reader, one in row.items()} for name, row in cells.items()}
