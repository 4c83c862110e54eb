"""How claims about tuning train and score: the last layer of an encoder, over what the frozen ones below it say.

Those states are computed once for all arms and seeds, so that an update costs a fraction of a second. An arm leaves
vectors of train, dev and test; two probes read them. Letters: N utterances, D dim.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from allophone.data.corpus import Corpus
from allophone.data.labelled import LabelledParts
from allophone.data.utterance import Utterance
from allophone.evaluate.claim import Observation, Scale
from allophone.evaluate.embedding_probes import Embedded, few_shot_curve, linear_probe, neighbor_probe
from allophone.evaluate.sources import FilterbankSource
from allophone.metrics.geometry import dimension_contributions
from allophone.models.build import Encoder
from allophone.models.frozen import FrozenStates
from allophone.recipes.claims.tasks import TASKS, Task, task_parts
from allophone.recipes.claims.trial import Trial, place
from allophone.recipes.ledger import FILTER_BANK_CLOCK
from allophone.recipes.tune import TuneData, listen
from allophone.recipes.tune_scores import Embed, Heard, chance_score, embed_parts, embedder_of, pooled
from allophone.run.execute import fit_threads
from allophone.run.expansion import random_encoder
from allophone.run.starter import open_base
from allophone.run.tuning import (
    Trained,
    TuneConfig,
    TunedRun,
    fresh_embedder,
    random_embedder,
    shared_layers,
    tune_encoder,
)
from allophone.seeding import derive
from allophone.train.loop import CHECKPOINTS

CONFIG = TuneConfig(
    training="last",
    last_layers=1,
    learning_rate=1e-3,
    encoder_lr_scale=0.3,
    classes=8,
    per_class=4,
    crop_seconds=1.5,
    points=1,
)
"""Of every arm, where it does not say otherwise."""
NEIGHBOR_ACCURACY = Scale(
    measure="neighbors",
    title="Right by the 5 nearest",
    unit="points",
    factor=100.0,
    higher_is_better=True,
    explanation="Each test recording gets the class of the 5 training recordings most like it. Nothing is trained.",
)
LINEAR_ACCURACY = Scale(
    measure="linear",
    title="Right by a linear probe",
    unit="points",
    factor=100.0,
    higher_is_better=True,
    explanation="A very small classifier is trained on the frozen vectors of the training recordings.",
)
TOP_SHARE = Scale(
    measure="top_share",
    title="Share of the strongest dimension",
    unit="percent",
    factor=100.0,
    higher_is_better=False,
    explanation="How much of the mean cosine of two recordings one dimension alone makes.",
)
FEW_SHOT_DRAWS = 3
"""Draws of examples behind each point of a few-shot curve."""
REGULARIZATIONS = (1.0, 10.0, 100.0, 1000.0)
"""C of the linear probe; the best on dev is taken."""
Vectors = tuple[Embedded, Embedded, Embedded]
"""Of train, dev and test."""
Learned = Mapping[str, Vectors]
"""By condition."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bench:
    """What all arms and seeds of a claim share."""

    encoder: Encoder
    frozen: FrozenStates
    parts: dict[str, LabelledParts]
    """By task; training parts as they are trained on."""
    heard: dict[str, Heard]
    """By task."""


_benches: dict[tuple[object, ...], Bench] = {}


def bench(trial: Trial, tasks: Sequence[str]) -> Bench:
    """The base, its frozen layers and the decoded tasks; made once in a process."""
    effort = trial.effort
    key = (effort.base, str(effort.sounds), effort.classes, effort.train_clips, effort.test_clips, trial.corpus.hash)
    if (*key, *tasks) not in _benches:
        encoder = open_base(effort.base)[0].encoder.eval()
        fit_threads(encoder)
        sounds = None if effort.sounds is None else Corpus.open(effort.sounds)
        parts = {
            task.name: smaller(task_parts(task, trial.corpus, sounds, effort.classes), task, trial)
            for task in TASKS
            if task.name in tasks
        }
        everything = TuneData(most_train=10**9, most_dev=10**9, most_test=10**9)
        frozen = shared_layers(encoder, CONFIG)
        assert frozen is not None
        _benches.clear()  # one is enough, and each holds much
        heard = {name: listen(one, everything) for name, one in parts.items()}
        _benches[(*key, *tasks)] = Bench(encoder=encoder, frozen=frozen, parts=parts, heard=heard)
    return _benches[(*key, *tasks)]


def smaller(parts: LabelledParts, task: Task, trial: Trial) -> LabelledParts:
    """At most as many utterances as the effort says, all classes as even as can be."""
    most = {"train": trial.effort.train_clips, "dev": trial.effort.test_clips, "test": trial.effort.test_clips}
    chosen = {
        name: (corpus := getattr(parts, name)).with_utterances(tuple(evenly(list(corpus), task.label, count)))
        for name, count in most.items()
    }
    return replace(parts, train=chosen["train"], dev=chosen["dev"], test=chosen["test"])


def evenly(rows: Sequence[Utterance], label: str, most: int) -> list[Utterance]:
    """At most ``most`` utterances, always the same ones, in rounds that take one of each class."""
    members: dict[str, list[Utterance]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: derive(0, "claim", row.id)):
        members[getattr(row, label)].append(row)
    ranked = [(rank, derive(0, "claim", row.id), row) for own in members.values() for rank, row in enumerate(own)]
    return [row for _, _, row in sorted(ranked, key=lambda one: one[:2])[:most]]


def tuned(
    trial: Trial, tasks: Sequence[str], method: Trained, config: TuneConfig = CONFIG, *, seen_only: bool = False
) -> Learned | None:
    """Vectors of an encoder that was tuned, once for each task; None when a signal stopped it.

    ``seen_only``: tuning hears every second class; vectors are of all.
    """
    shared, found = bench(trial, tasks), {}
    if seen_only:
        shared = replace(shared, parts={name: every_second_class(parts) for name, parts in shared.parts.items()})
    for name in tasks:
        run = _train(trial, shared, name, method, config)
        if run is None:
            return None
        embed = embedder_of(run.at(max(run.points)), shared.frozen)
        found[name] = embed_parts(embed, shared.heard[name])
        _forget(trial, name)
    return found


def every_second_class(parts: LabelledParts) -> LabelledParts:
    """The same parts, the training one without the classes of odd number, and the others numbered anew."""
    even = parts.train.with_utterances(tuple(row for row in parts.train if parts.classes[row.id][0] % 2 == 0))
    return replace(parts, train=even, classes={row.id: (parts.classes[row.id][0] // 2,) for row in even})


def tuned_over_time(trial: Trial, tasks: Sequence[str], method: Trained, points: int) -> Learned | None:
    """The same at stopping points, evenly over the run: ``speaker, at 20 %``."""
    shared, found = bench(trial, tasks), {}
    for name in tasks:
        run = _train(trial, shared, name, method, replace(CONFIG, points=points))
        if run is None:
            return None
        for number, step in enumerate(sorted(run.points), 1):
            embed = embedder_of(run.at(step), shared.frozen)
            found[moment(name, number, points)] = embed_parts(embed, shared.heard[name])
        _forget(trial, name)
    return found


def moment(task: str, number: int, points: int) -> str:
    """The condition of one of so many stopping points, whatever the number of updates."""
    return f"{task}, at {100 * number // points} %"


def _train(trial: Trial, shared: Bench, task: str, method: Trained, config: TuneConfig) -> TunedRun | None:
    parts = shared.parts[task]
    return tune_encoder(
        method,
        shared.encoder,
        parts.train,
        parts.classes,
        replace(config, steps=trial.steps),
        place(trial) / task.replace(" ", "-"),
        label=task,
        seed=trial.seed,
        frozen=shared.frozen,
        report=trial.report,
    )


def _forget(trial: Trial, task: str) -> None:
    """Remove the weights of a run that has been scored; a claim keeps its observations."""
    shutil.rmtree(place(trial) / task.replace(" ", "-") / CHECKPOINTS)


def untuned(trial: Trial, tasks: Sequence[str]) -> Learned:
    """Vectors of a row that is not tuned: the frozen encoder, one with random weights or a filter bank."""
    shared = bench(trial, tasks)
    embed: Embed
    if trial.arm == "filter bank":
        embed = pooled(FilterbankSource(round(shared.encoder.clock.hop / FILTER_BANK_CLOCK.hop)))
    elif trial.arm == "random encoder":
        embed = embedder_of(random_embedder(shared.encoder, CONFIG, random_encoder(shared.encoder, trial.seed)))
    else:
        embed = embedder_of(fresh_embedder(shared.encoder, CONFIG), shared.frozen)
    return {name: embed_parts(embed, shared.heard[name]) for name in tasks}


def read(trial: Trial, tasks: Sequence[str], learned: Learned) -> list[Observation]:
    """Right answers of both probes by content: everything that is said (or heard) in test is an item."""
    found = []
    for condition, (train, dev, test) in learned.items():
        items = contents_of(trial, tasks, condition)
        linear = linear_probe(train, test, dev, regularizations=REGULARIZATIONS)
        for scale, hits in (
            (NEIGHBOR_ACCURACY, neighbor_probe(train, test, k=5).hits),
            (LINEAR_ACCURACY, linear.hits),
        ):
            found.append(observed(trial, scale.measure, condition, items, hits))
    return found


def read_unseen(trial: Trial, tasks: Sequence[str], learned: Learned) -> list[Observation]:
    """Right answers of the neighbors among the classes of odd number, which tuning may not have heard."""
    found = []
    for condition, (train, _, test) in learned.items():
        rows = np.flatnonzero(test.classes % 2)
        hits = neighbor_probe(train.only(np.flatnonzero(train.classes % 2)), test.only(rows), k=5).hits
        items = contents_of(trial, tasks, condition)
        chosen = [items[row] for row in rows]
        found.append(observed(trial, NEIGHBOR_ACCURACY.measure, condition, chosen, hits))
    return found


def read_few(trial: Trial, tasks: Sequence[str], learned: Learned, shots: Sequence[int]) -> list[Observation]:
    """Right answers of linear probes that saw few examples of a class; means over draws of examples."""
    found = []
    for condition, (train, _, test) in learned.items():
        items = contents_of(trial, tasks, condition)
        curve = few_shot_curve(train, test, shots=shots, draws=FEW_SHOT_DRAWS, seed=trial.seed)
        for count, hits in curve.items():
            name = f"{condition}, {count} of each"
            found.append(observed(trial, LINEAR_ACCURACY.measure, name, items, hits.mean(axis=0)))
    return found


def read_dimensions(trial: Trial, tasks: Sequence[str], learned: Learned, removed: int) -> list[Observation]:
    """Right answers of the neighbors, as they are or without some dimensions, and the share of the strongest one.

    Removed are the dimensions that give most of the mean cosine of the training vectors.
    """
    found = []
    for condition, (train, _, test) in learned.items():
        items = contents_of(trial, tasks, condition)
        shares = dimension_contributions(train.vectors)
        kept = np.argsort(-shares)[removed:]
        parts = [Embedded.of(part.vectors[:, kept], part.classes) for part in (train, test)]
        hits = neighbor_probe(*parts, k=5).hits
        top = float(shares.max() / shares.sum())
        found += [
            observed(trial, NEIGHBOR_ACCURACY.measure, condition, items, hits),
            observed(trial, TOP_SHARE.measure, condition, [condition], np.array([top])),
        ]
    return found


def share_and_accuracy(observations: Sequence[Observation], arms: Sequence[str]) -> str:
    """Over all runs of some arms: rank correlation of the strongest dimension's share and accuracy, task by task."""
    said = []
    for condition in dict.fromkeys(one.condition for one in observations if one.arm in arms):
        pairs: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
        for one in observations:
            if one.condition == condition and one.arm in arms:
                pairs[one.arm, one.seed][one.measure] = float(one.numerators.sum() / one.denominators.sum())
        both = [(run[TOP_SHARE.measure], run[NEIGHBOR_ACCURACY.measure]) for run in pairs.values()]
        alike = len(set(both)) < 3 or any(len(set(values)) == 1 for values in zip(*both, strict=True))
        found = "not defined" if alike else f"{spearmanr(*np.array(both).T).statistic:+.2f}"
        said.append(f"{condition} {found} over {len(both)} runs")
    return "; ".join(said)


def contents_of(trial: Trial, tasks: Sequence[str], condition: str) -> list[str]:
    """What each test utterance of a condition's task says."""
    return contents(bench(trial, tasks).parts[condition.split(", ")[0]].test)


def chance(trial: Trial, tasks: Sequence[str]) -> list[Observation]:
    """Right answers of whoever always says the most frequent class of training."""
    parts = bench(trial, tasks).parts
    found = []
    for name in tasks:
        hits = next(iter(chance_score(parts[name]).hits.values()))
        for scale in (NEIGHBOR_ACCURACY, LINEAR_ACCURACY):
            found.append(observed(trial, scale.measure, name, contents(parts[name].test), hits))
    return found


def contents(part: Corpus) -> list[str]:
    """What intervals draw: what an utterance says, where that is known, else itself."""
    return [row.group or row.id for row in part]


def observed(
    trial: Trial, measure: str, condition: str, items: Sequence[str], hits: NDArray[np.float64]
) -> Observation:
    """Hits ``(N,)`` of utterances summed by item."""
    names = tuple(dict.fromkeys(items))
    numbers = {name: number for number, name in enumerate(names)}
    which = np.array([numbers[item] for item in items])
    return Observation(
        arm=trial.arm,
        measure=measure,
        condition=condition,
        seed=trial.seed,
        items=names,
        numerators=np.bincount(which, weights=hits, minlength=len(names)).astype(np.float64),
        denominators=np.bincount(which, minlength=len(names)).astype(np.float64),
    )


def arm_of(tasks: Sequence[str], method: Trained, config: TuneConfig = CONFIG) -> Callable[[Trial], Learned | None]:
    """A trained arm of a claim."""
    return lambda trial: tuned(trial, tasks, method, config)
