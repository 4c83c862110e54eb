"""What every claim is made of, and the one function that goes through its arms and seeds."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.data.noise import NO_SOUNDS
from allophone.errors import ConfigError
from allophone.evaluate.claim import (
    Contrast,
    Effect,
    Observation,
    Scale,
    effect,
    load_observations,
    save_observations,
)
from allophone.evaluate.claim_page import ClaimPage, write_claim_page
from allophone.models.build import Encoder
from allophone.models.conversion import load_encoder
from allophone.recipes.pretrain import go_through
from allophone.run.config import RunConfig
from allophone.run.origin import require_origin, write_origin
from allophone.run.progress import Report, silent, to_nobody
from allophone.run.starter import starter_corpus
from allophone.run.targets import lend_targets, targets_origin, usable

T = TypeVar("T")
"""What an arm leaves for its scores: an encoder, or vectors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much is trained and scored; less of it than the defaults is for tests and a first look."""

    steps: int | None = None
    """Updates of each training; None = the claim's own."""
    train_clips: int = 300
    """Labelled clips of a language (of a tuning task) that a probe learns from, at most."""
    test_clips: int = 120
    """Held-out clips of a language (of a tuning task), at most."""
    probe_steps: int = 1600
    """Updates of each probe that reads."""
    base: str = "starter"
    """Encoder that claims about tuning, distillation and translation begin with: ``starter``, a folder or a hub id."""
    teacher: str | None = None
    """Of claim 'distill-teacher': a folder with another text encoder's vectors of the corpus' texts."""
    sounds: str | None = None
    """Of claims about tuning: a corpus of sounds with labels, for the task that tells sounds apart."""
    classes: int | None = None
    """Of claims about tuning: most classes of a task; None = all there are."""
    transcriber: str = "openai/whisper-base"
    """Speech recognizer of transformers that claim 'resynthesis' is judged by: folder or hub id."""
    mos: str | None = None
    """Folder that scripts/get_mos_predictor.py wrote, for the opinions in claim 'resynthesis'; none leaves them out."""

    def __post_init__(self) -> None:
        if min(self.steps or 1, self.train_clips, self.test_clips, self.probe_steps, (self.classes or 2) - 1) < 1:
            raise ConfigError(f"Effort: every number must be at least 1, classes 2; got {self}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One arm with one seed."""

    arm: str
    seed: int
    steps: int
    """Updates of each training, as the claim or the effort has it."""
    effort: Effort
    corpus: Corpus
    out: Path
    """Of the whole claim; arms may use what other arms left."""
    report: Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim(Generic[T]):
    """An experiment."""

    name: str
    paper: str
    says: str
    """What the paper says, or leaves open."""
    design: str
    """What is trained and scored here, in plain words; goes on the page."""
    steps: int
    """Updates of each training."""
    like: Callable[[int, int], tuple[RunConfig, ...]] | None
    """Runs of a typical arm, from seed and updates: for the plan and the random encoder; None where
    a part of it alone is trained."""
    arms: Mapping[str, Callable[[Trial], T | None]]
    """Trained arms: name to what trains (or goes on with) its encoder; None when a signal stopped it."""
    score: Callable[[Trial, T | None], list[Observation]]
    """Scores what an arm left, or the untrained row that ``trial.arm`` names."""
    untrained: tuple[str, ...]
    """Those that ``score`` knows."""
    scales: tuple[Scale, ...]
    contrasts: tuple[Contrast, ...]
    """The first decides whether the claim holds."""
    check: Callable[[Effort, Corpus], None] = lambda *_: None
    """Raises a ConfigError where it cannot end as it is asked for; called before anything is trained."""
    facts: Callable[[Sequence[Observation]], tuple[tuple[str, str], ...]] = lambda _: ()
    """What else the page says: name and value."""
    revision: int = 1
    """Raised where an arm of the same name is trained otherwise than before, so that old results are not mixed in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came out of a claim."""

    claim: str
    paper: str
    effects: tuple[Effect, ...]
    seeds: tuple[int, ...]
    report: Path

    def to_json(self) -> dict[str, Any]:
        """One object for programs; the first contrast is the claim's own."""
        first = self.effects[0]
        return {
            "claim": self.claim,
            "paper": self.paper,
            "effect": first.improvement.value,
            "low": first.improvement.low,
            "high": first.improvement.high,
            "unit": first.unit,
            "seeds": list(self.seeds),
            "holds": first.holds,
            "report": str(self.report),
            "contrasts": [
                {
                    "name": one.contrast.name,
                    "unit": one.unit,
                    "effect": one.improvement.value,
                    "low": one.improvement.low,
                    "high": one.improvement.high,
                    "holds": one.holds,
                }
                for one in self.effects
            ],
        }


def run_claim(
    claim: Claim[T],
    out: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    effort: Effort | None = None,
    corpus: Corpus | None = None,
    report: Report = silent,
) -> Outcome | None:
    """Train and score all arms with all seeds; what is there already is not made again.

    Args:
        claim: The experiment.
        out: Its folder; receives a folder an arm and seed, ``claim.json`` and ``report.html``.
        seeds: Of trainings and probes; at least three for a result that may be cited.
        effort: How much.
        corpus: Recordings; None = the starter corpus.
        report: Told how far each stage is.

    Returns:
        None when a signal stopped it; the same call goes on.

    Raises:
        CheckpointError: ``out`` holds the same claim with other settings or another corpus.
        ConfigError: Something is missing that the claim needs.
    """
    effort, corpus = effort or Effort(), corpus or starter_corpus()
    claim.check(effort, corpus)
    origin = _origin(claim, effort, corpus)
    require_origin(out, origin)
    write_origin(out, origin)
    observations: list[Observation] = []
    for seed in seeds:
        for arm in (*claim.untrained, *claim.arms):
            trial = Trial(
                arm=arm,
                seed=seed,
                steps=effort.steps or claim.steps,
                effort=effort,
                corpus=corpus,
                out=out,
                report=report,
            )
            found = _observe(claim, trial)
            if found is None:
                return None
            observations += found
    scales = {scale.measure: scale for scale in claim.scales}
    effects = tuple(effect(observations, one, scales[one.measure]) for one in claim.contrasts)
    page = ClaimPage(
        name=claim.name,
        paper=claim.paper,
        says=claim.says,
        design=claim.design,
        arms=(*claim.untrained, *claim.arms),
        scales=claim.scales,
        observations=tuple(observations),
        effects=effects,
        facts=(
            ("Updates of each training", f"{effort.steps or claim.steps:,}"),
            ("Seeds", ", ".join(map(str, seeds))),
            ("Corpus", f"{corpus.name}, {corpus.hash[:12]}"),
            *claim.facts(observations),
        ),
        command=_command(claim, effort, seeds),
    )
    outcome = Outcome(
        claim=claim.name,
        paper=claim.paper,
        effects=effects,
        seeds=tuple(seeds),
        report=write_claim_page(page, out / "report.html"),
    )
    (out / "claim.json").write_text(json.dumps(outcome.to_json(), indent=1) + "\n", encoding="utf-8")
    return outcome


def _command(claim: Claim[Any], effort: Effort, seeds: Sequence[int]) -> str:
    """What makes the same page again."""
    words = ["allophone", "claims", "run", claim.name]
    if tuple(seeds) != (0, 1, 2):
        words += ["--seeds", ",".join(map(str, seeds))]
    for field in fields(effort):
        if (value := getattr(effort, field.name)) != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _origin(claim: Claim[Any], effort: Effort, corpus: Corpus) -> dict[str, Any]:
    """What a claim's folder is made from; no word of a first revision, so that older folders go on."""
    revision = {"revision": claim.revision} if claim.revision > 1 else {}
    return {"claim": claim.name, "effort": to_dict(effort), "corpus": corpus.hash, **revision}


def _observe(claim: Claim[T], trial: Trial) -> list[Observation] | None:
    """Scores of one arm and seed, from disk where they lie there."""
    path = place(trial) / "observations.parquet"
    if path.exists():
        return load_observations(path)
    left = None
    if trial.arm in claim.arms:
        left = claim.arms[trial.arm](trial)
        if left is None:
            return None
    found = claim.score(trial, left)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_observations(found, path)
    return found


def place(trial: Trial, arm: str | None = None) -> Path:
    """Folder of an arm (None = the trial's own) with the trial's seed."""
    return trial.out / (arm or trial.arm).replace(" ", "-") / f"seed-{trial.seed}"


def trained(configs: Sequence[RunConfig], trial: Trial, arm: str | None = None) -> Encoder | None:
    """Train runs on the trial's corpus, or go on with them, or open what they left; None when a signal stopped it.

    Targets that need no encoder are taken from another arm of the seed that made the same ones.
    """
    folder, first = place(trial, arm), configs[0]
    if first.targets.front_end != "model":
        origin = targets_origin(usable(trial.corpus, first.data)[0], first.targets, seed=first.seed)
        own = folder / first.name / "targets"
        for lender in sorted(trial.out.glob(f"*/{folder.name}/{first.name}/targets")):
            if lend_targets(lender, own, origin):
                break
    result = go_through(configs, trial.corpus, folder, None, NO_SOUNDS, trial.report, to_nobody)
    return None if result.result.stopped == "signal" else load_encoder(result.folder)
