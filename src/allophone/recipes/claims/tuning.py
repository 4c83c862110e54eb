"""Claims about tuning an encoder by contrast of hard pairs (PairTune), and what the paper leaves open.

Source: Audio ConFit / PairTune, arXiv:2309.11895. Trained is the last layer alone, for as many steps and on the same
batches in every arm; the paper trains whole encoders for epochs, so an effect that needs all layers cannot show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from allophone.evaluate.claim import UNTRAINED, Contrast, Observation
from allophone.recipes.claims.learning import (
    CONFIG,
    LINEAR_ACCURACY,
    NEIGHBOR_ACCURACY,
    TOP_SHARE,
    Learned,
    arm_of,
    chance,
    moment,
    read,
    read_dimensions,
    read_few,
    read_unseen,
    share_and_accuracy,
    tuned,
    tuned_over_time,
    untuned,
)
from allophone.recipes.claims.tasks import TASKS
from allophone.recipes.claims.trial import Claim, Trial
from allophone.run.tuning import Trained

PAPER = "Audio ConFit / PairTune, arXiv:2309.11895"
STEPS = 100
ALL = tuple(task.name for task in TASKS)
TWO = ("speaker", "keyword")
"""What the ablations are made on: one task of voices, one of contents."""
HOW = (
    "The last layer of the encoder is tuned, the others are frozen; every arm takes the same steps on the same "
    "batches. Whole recordings are then read by two probes."
)
POINTS = 5
"""Stopping points of the convergence curves."""


Reader = Callable[[Trial, Sequence[str], Learned], list[Observation]]
"""A trial, its tasks and vectors by condition, to what probes read."""


def _score(tasks: Sequence[str], reader: Reader = read) -> Callable[[Trial, Learned | None], list[Observation]]:
    def score(trial: Trial, learned: Learned | None) -> list[Observation]:
        if learned is None and trial.arm == "chance":
            return chance(trial, tasks)
        return reader(trial, tasks, untuned(trial, tasks) if learned is None else learned)

    return score


def _contrasts(
    arm: str, baseline: str, conditions: Sequence[str], measure: str = NEIGHBOR_ACCURACY.measure
) -> tuple[Contrast, ...]:
    """The mean over all conditions, then each of them."""
    sets: Mapping[str, Sequence[str]] = {"all": conditions, **{one: (one,) for one in conditions}}
    return tuple(
        Contrast(
            name=f"{arm} over {baseline}: {name}{', linear' if measure == LINEAR_ACCURACY.measure else ''}",
            arm=arm,
            baseline=baseline,
            measure=measure,
            conditions=tuple(members),
        )
        for name, members in sets.items()
    )


def _claim(
    name: str,
    says: str,
    arms: Mapping[str, Callable[[Trial], Learned | None]],
    contrasts: tuple[Contrast, ...],
    *,
    tasks: Sequence[str] = TWO,
    design: str = "",
    untrained: tuple[str, ...] = ("frozen",),
) -> Claim[Learned]:
    told = "; ".join(f"{task.name} (test shares not {task.apart})" for task in TASKS if task.name in tasks)
    return Claim(
        name=name,
        paper=PAPER,
        says=says,
        design=f"{HOW} {design}Tasks: {told}.",
        steps=STEPS,
        like=None,
        arms=arms,
        score=_score(tasks),
        untrained=untrained,
        scales=(NEIGHBOR_ACCURACY, LINEAR_ACCURACY),
        contrasts=contrasts,
    )


PAIR_TUNING = _claim(
    "pair-tuning",
    "Tuned by contrast of hard pairs, an encoder tells classes apart better than tuned by cross-entropy.",
    {"cross-entropy": arm_of(ALL, "cross-entropy"), "PairTune": arm_of(ALL, "pair")},
    (
        *_contrasts("PairTune", "cross-entropy", ALL),
        *_contrasts("PairTune", "cross-entropy", ALL, LINEAR_ACCURACY.measure),
        *_contrasts("PairTune", "frozen", ALL)[:1],
        *_contrasts("cross-entropy", "frozen", ALL)[:1],
    ),
    tasks=ALL,
    untrained=(*UNTRAINED, "frozen"),
)

TEMPERATURES = (0.01, 0.03, 0.1, 0.3, 1.0)
TEMPERATURE = _claim(
    "pair-tuning-temperature",
    "The paper takes a temperature of 0.1 and shows no other.",
    {f"temperature {value:g}": arm_of(TWO, "pair", replace(CONFIG, temperature=value)) for value in TEMPERATURES},
    tuple(_contrasts("temperature 0.1", f"temperature {value:g}", TWO)[0] for value in TEMPERATURES if value != 0.1),
)

MINING = _claim(
    "pair-tuning-mining",
    "Mining hard pairs is what the method adds to supervised contrast; its rule was not published.",
    {
        "all pairs": arm_of(TWO, "contrast"),
        **{
            rule: arm_of(TWO, "pair", replace(CONFIG, mining=rule))
            for rule in ("multi-similarity", "batch-hard", "hardest", "margin")
        },
    },
    tuple(_contrasts(rule, "all pairs", TWO)[0] for rule in ("multi-similarity", "batch-hard", "hardest", "margin")),
)

BATCHES = {"4 x 2": (4, 2), "8 x 4": (8, 4), "16 x 4": (16, 4)}
BATCH = _claim(
    "pair-tuning-batch",
    "The paper gives neither batch nor length of a crop.",
    {
        **{
            f"batch {name}": arm_of(TWO, "pair", replace(CONFIG, classes=size[0], per_class=size[1]))
            for name, size in BATCHES.items()
        },
        **{f"crop {value:g} s": arm_of(TWO, "pair", replace(CONFIG, crop_seconds=value)) for value in (0.5, 3.0)},
    },
    tuple(_contrasts(arm, "batch 8 x 4", TWO)[0] for arm in ("batch 16 x 4", "batch 4 x 2", "crop 0.5 s", "crop 3 s")),
    design="Batches are classes x recordings of each; crops are 1.5 s where the arm does not say otherwise. ",
)


def _over_time(method: str) -> Callable[[Trial], Learned | None]:
    return lambda trial: tuned_over_time(trial, TWO, "pair" if method == "PairTune" else "cross-entropy", POINTS)


_MOMENTS = tuple(moment(task, number, POINTS) for number in range(1, POINTS + 1) for task in TWO)
CONVERGENCE = _claim(
    "pair-tuning-convergence",
    "Contrast is near its best after a few epochs, when cross-entropy has hardly begun.",
    {name: _over_time(name) for name in ("cross-entropy", "PairTune")},
    _contrasts("PairTune", "cross-entropy", _MOMENTS),
    untrained=(),
)

METHODS: Mapping[str, Trained] = {"cross-entropy": "cross-entropy", "all pairs": "contrast", "PairTune": "pair"}


def _unseen(method: Trained) -> Callable[[Trial], Learned | None]:
    return lambda trial: tuned(trial, TWO, method, seen_only=True)


UNSEEN = replace(
    _claim(
        "pair-tuning-unseen",
        "Vectors that were drawn together by class also tell classes apart that tuning never heard.",
        {name: _unseen(method) for name, method in METHODS.items()},
        (
            *_contrasts("PairTune", "frozen", TWO),
            *_contrasts("PairTune", "cross-entropy", TWO),
            *_contrasts("cross-entropy", "frozen", TWO),
        ),
        design="Tuning hears every second class; read are the others. ",
    ),
    score=_score(TWO, read_unseen),
    scales=(NEIGHBOR_ACCURACY,),
)

SHOTS = (1, 2, 4)
_FEW = tuple(f"{task}, {count} of each" for count in SHOTS for task in TWO)
FEW_SHOT = replace(
    _claim(
        "pair-tuning-few-shot",
        "After contrast a probe needs fewer examples than after cross-entropy.",
        {name: arm_of(TWO, method) for name, method in METHODS.items()},
        (
            *_contrasts("PairTune", "cross-entropy", _FEW, LINEAR_ACCURACY.measure),
            _contrasts("PairTune", "frozen", _FEW, LINEAR_ACCURACY.measure)[0],
        ),
    ),
    score=_score(TWO, lambda trial, tasks, learned: read_few(trial, tasks, learned, SHOTS)),
    scales=(LINEAR_ACCURACY,),
)

REMOVED = 3
_WITHOUT = f", without {REMOVED}"


def _score_dimensions(trial: Trial, learned: Learned | None) -> list[Observation]:
    found = untuned(trial, TWO) if learned is None else learned
    return read_dimensions(trial, TWO, found, REMOVED if trial.arm.endswith(_WITHOUT) else 0)


DIMENSIONS = replace(
    _claim(
        "pair-tuning-dimensions",
        "PairTune spreads similarity over more dimensions (top-1 share .045 against .063), which goes with accuracy.",
        {name + ending: arm_of(TWO, method) for ending in ("", _WITHOUT) for name, method in METHODS.items()},
        tuple(_contrasts(name, name + _WITHOUT, TWO)[0] for name in METHODS)
        + _contrasts("PairTune", "cross-entropy", TWO, TOP_SHARE.measure)[:1],
        design=f"Arms 'without {REMOVED}' are the same runs read without the {REMOVED} strongest dimensions. ",
    ),
    score=_score_dimensions,
    scales=(NEIGHBOR_ACCURACY, TOP_SHARE),
    facts=lambda observations: (
        (
            "Rank correlation of the strongest dimension's share and accuracy",
            share_and_accuracy(observations, ("frozen", *METHODS)),
        ),
    ),
)

CLAIMS = (PAIR_TUNING, TEMPERATURE, MINING, BATCH, CONVERGENCE, UNSEEN, FEW_SHOT, DIMENSIONS)
