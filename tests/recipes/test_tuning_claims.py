"""Claims about tuning end to end on a tiny encoder, and tasks whose parts share what they may and no more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from scipy.stats import spearmanr

from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.errors import ConfigError
from allophone.evaluate.claim import Observation
from allophone.models.conversion import save_encoder
from allophone.recipes.claims import learning
from allophone.recipes.claims.all import find_claim
from allophone.recipes.claims.tasks import TASKS, task_parts
from allophone.recipes.claims.trial import Effort, Trial, run_claim
from allophone.recipes.claims.tuning import CLAIMS, CONVERGENCE, TWO
from allophone.run.progress import silent
from allophone.run.starter import starter_corpus

pytest.importorskip("allophone_starter")
QUICK = ("pair-tuning-dimensions",)
"""The others run in `make slow`."""


@pytest.fixture(scope="module")
def sounds() -> Corpus:
    """Recordings that stand for sounds: what is said is the label, who says it the maker."""
    rows = [row for row in starter_corpus() if row.group and "/math/" in row.group]
    return starter_corpus().with_utterances(tuple(replace(row, label=row.group) for row in rows))


@pytest.fixture(scope="module")
def effort(tmp_path_factory: pytest.TempPathFactory, sounds: Corpus) -> Effort:
    folder = tmp_path_factory.mktemp("base")
    save_encoder(tiny_model.lasr(), folder / "encoder", "# Tiny")
    sounds.save(folder / "sounds")
    return Effort(
        steps=5, train_clips=16, test_clips=8, classes=4, base=str(folder / "encoder"), sounds=str(folder / "sounds")
    )


@pytest.mark.parametrize(
    "name", [pytest.param(one.name, marks=[] if one.name in QUICK else pytest.mark.slow) for one in CLAIMS]
)
def test_a_claim_runs_to_its_page(name: str, effort: Effort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "CONFIG", replace(learning.CONFIG, classes=2, per_class=2, crop_seconds=0.5))
    claim = find_claim(name)
    outcome = run_claim(claim, tmp_path, seeds=(0,), effort=effort)
    assert outcome is not None and len(outcome.effects) == len(claim.contrasts)
    page = outcome.report.read_text(encoding="utf-8")
    assert all(f">{arm}" in page for arm in (*claim.untrained, *claim.arms))
    assert not list(tmp_path.rglob("model.safetensors"))  # a claim keeps what was observed
    assert all(np.isfinite(one.improvement.value) for one in outcome.effects)
    if name == "pair-tuning-dimensions":
        assert "over 4 runs" in page
    tuned_again: list[str] = []
    monkeypatch.setattr(learning, "tune_encoder", lambda *_: tuned_again.append(name))
    assert run_claim(claim, tmp_path, seeds=(0,), effort=effort) is not None and not tuned_again


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_parts_of_a_task_are_apart(task, sounds: Corpus) -> None:
    corpus = starter_corpus()
    parts = task_parts(task, corpus, sounds, None)
    three = (parts.train, parts.dev, parts.test)
    voices, contents, languages = (
        [{getattr(row, column) for row in part} - {None} for part in three]
        for column in ("speaker", "group", "language")
    )
    if "voice" in task.apart or task.of_sounds:
        assert not voices[0] & voices[2] and not voices[0] & voices[1] and not voices[1] & voices[2]
    if task.name in ("speaker", "language"):
        assert not contents[0] & contents[2] and not contents[0] & contents[1]
    if task.name == "word across languages":
        assert not languages[0] & languages[2] and not languages[1] & (languages[0] | languages[2])
    few = task_parts(task, corpus, sounds, 3)
    assert set(few.names) <= set(parts.names) and len(few.names) == 3
    assert {row.id for row in few.test} <= {row.id for row in parts.test}


def test_what_is_drawn_is_even_and_the_same_every_time() -> None:
    rows = [row for row in starter_corpus() if row.language in ("fra_Latn", "ron_Latn")]
    found = learning.evenly(rows, "language", 40)
    assert [row.language for row in found].count("ron_Latn") == 20
    assert found == learning.evenly(rows[::-1], "language", 40)
    assert len(learning.evenly(rows[:7], "language", 40)) == 7


def test_half_of_the_classes_is_never_heard(effort: Effort, tmp_path: Path) -> None:
    trial = Trial(arm="a", seed=0, steps=1, effort=effort, corpus=starter_corpus(), out=tmp_path, report=silent)
    parts = learning.bench(trial, TWO).parts["speaker"]
    half = learning.every_second_class(parts)
    assert {parts.classes[row.id][0] % 2 for row in half.train} == {0} and half.test is parts.test
    assert {number for (number,) in half.classes.values()} == set(range(-(-len(parts.names) // 2)))


def test_correlation_over_runs_is_that_of_ranks() -> None:
    shares, hits = [0.4, 0.1, 0.3, 0.2], [1.0, 4.0, 3.0, 2.0]
    observations = [
        Observation(
            arm="a",
            measure=measure,
            condition="speaker",
            seed=seed,
            items=("x",),
            numerators=np.array([values[seed]]),
            denominators=np.array([1.0]),
        )
        for measure, values in (("top_share", shares), ("neighbors", hits))
        for seed in range(4)
    ]
    expected = spearmanr(shares, hits).statistic
    assert learning.share_and_accuracy(observations, ("a",)) == f"speaker {expected:+.2f} over 4 runs"


def test_sounds_must_be_named_and_a_plan_counts_runs(capsys: pytest.CaptureFixture[str]) -> None:
    sound = next(task for task in TASKS if task.of_sounds)
    with pytest.raises(ConfigError, match=r"needs sounds.*by --sounds"):
        task_parts(sound, starter_corpus(), None, None)
    assert main(["claims", "run", "pair-tuning", "--plan"]) == 0
    assert "6 trainings (arms times seeds) of 100 updates each" in capsys.readouterr().out
    assert CONVERGENCE.contrasts[0].conditions[0] == "speaker, at 20 %"
    with pytest.raises(ConfigError, match="classes 2"):
        Effort(classes=1)
    assert json.dumps(find_claim("pair-tuning-batch").says)
