"""Claims about distillation and translation end to end on a tiny encoder and a few recordings."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny_model
import torch

from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.errors import ConfigError
from allophone.evaluate.claim import load_observations
from allophone.models.conversion import load_encoder, save_encoder
from allophone.models.speech_translator import load_speech_translator
from allophone.models.text_teacher import cached_vectors
from allophone.recipes.claims import adapting
from allophone.recipes.claims.aligning import EVERY, RELATED
from allophone.recipes.claims.all import find_claim
from allophone.recipes.claims.meaning import CLAIMS, SHARES, bench, letters, named, spelling
from allophone.recipes.claims.trial import Effort, Trial, run_claim
from allophone.run.distillation import corpus_texts
from allophone.run.progress import silent
from allophone.run.starter import starter_corpus
from allophone.run.used import read_use

pytest.importorskip("allophone_starter")
QUICK = ("distill-teacher",)
"""The others run in `make slow`."""


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    whole = starter_corpus()
    rows: list = []
    for language in (*EVERY, RELATED):
        own = [row for row in whole if row.language == language and row.text and 0.5 < row.duration_seconds < 3]
        heard = [row for row in own if row.split == "train"][:8]
        said = {row.group for row in whole if row.split != "test"} | {row.text for row in whole if row.split != "test"}
        unmet = [row for row in own if row.split == "test" and row.group not in said and row.text not in said]
        rows += heard + unmet[:4]
    return whole.with_utterances(tuple(rows))


@pytest.fixture(scope="module")
def effort(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Effort:
    folder = tmp_path_factory.mktemp("base")
    save_encoder(tiny_model.lasr(), folder / "encoder", "# Tiny")
    texts = [text for _, text in corpus_texts(corpus)]
    cached_vectors(texts, lambda some: letters(some, 16), "sixteen places", folder / "teacher")
    return Effort(steps=3, test_clips=4, base=str(folder / "encoder"), teacher=str(folder / "teacher"))


@pytest.mark.parametrize(
    "name", [pytest.param(one.name, marks=[] if one.name in QUICK else pytest.mark.slow) for one in CLAIMS]
)
def test_a_claim_runs_to_its_page(name: str, effort: Effort, corpus: Corpus, tmp_path: Path) -> None:
    claim = find_claim(name)
    outcome = run_claim(claim, tmp_path, seeds=(0,), effort=effort, corpus=corpus)
    assert outcome is not None and len(outcome.effects) == len(claim.contrasts)
    assert all(np.isfinite(one.improvement.value) for one in outcome.effects)
    page = outcome.report.read_text(encoding="utf-8")
    assert all(f">{arm}" in page for arm in (*claim.untrained, *claim.arms))
    seeds = [trial_of(effort, corpus, tmp_path, arm="random encoder", seed=seed) for seed in (0, 1)]
    assert claim.score(seeds[1], None)
    ridges = bench(seeds[0]).ridges
    assert set(ridges) == {"filter bank", "encoder before", "random encoder 0", "random encoder 1"}
    assert not torch.equal(ridges["random encoder 0"].speech, ridges["random encoder 1"].speech)
    assert torch.equal(ridges["random encoder 0"].texts, ridges["filter bank"].texts)
    heard = {arm: read_use(tmp_path / arm.replace(" ", "-") / "seed-0") for arm in claim.arms}
    ids = {arm: {one["id"] for one in used["trained"]} for arm, used in heard.items() if used is not None}
    assert len(ids) == len(claim.arms)
    if name == "distill-amount":
        nested = [ids[share] for share in SHARES]
        assert all(less < more for less, more in pairwise(nested))
    if name == "distill-unheard":
        assert {one.split("/")[1] for one in ids["both heard"] - ids["neither heard"]} == {"cat_Latn", "ell_Grek"}


def test_adapters_against_all_and_nothing(effort: Effort, corpus: Corpus, tmp_path: Path) -> None:
    claim = adapting.ADAPTERS
    outcome = run_claim(claim, tmp_path, seeds=(0,), effort=effort, corpus=corpus)
    assert outcome is not None and len(outcome.effects) == len(claim.contrasts)
    found = {
        arm: load_observations(tmp_path / arm.replace(" ", "-") / "seed-0" / "observations.parquet")
        for arm in ("frozen", "full", "adapters of 16")
    }
    tokens = [[one.denominators.tolist() for one in some] for some in found.values()]
    assert tokens[0] == tokens[1] == tokens[2] and min(map(min, tokens[0])) >= 2
    left = load_speech_translator(tmp_path / "frozen" / "seed-0" / "model")
    kept, trained = (
        load_encoder(tmp_path / arm / "seed-0" / "model" / "encoder").state_dict() for arm in ("frozen", "full")
    )
    before = load_encoder(effort.base).state_dict()
    assert all(torch.equal(kept[name], before[name]) for name in before)
    assert not all(torch.equal(trained[name], before[name]) for name in before)
    observed = next(one for one in found["frozen"] if one.condition == "fra_Latn")
    row = next(row for row in corpus if row.id == observed.items[0])
    samples, text = corpus.audio(row), row.translations["eng_Latn"]
    targets = left.decoder.targets([text], ["eng_Latn"], adapting.MOST_TOKENS)
    with torch.no_grad():
        logits = left.eval()(samples[None], torch.tensor([len(samples)]), targets.inputs)[0]
    said = [(place, token) for place, token in enumerate(targets.labels[0].tolist()) if token >= 0]
    by_hand = -sum(float(logits[place].log_softmax(dim=0)[token]) for place, token in said)
    assert (by_hand, len(said)) == pytest.approx((observed.numerators[0], observed.denominators[0]), rel=1e-4)


def test_letters_know_spelling_alone(corpus: Corpus, tmp_path: Path) -> None:
    table = spelling(trial_of(Effort(), corpus, tmp_path))
    assert not table.missing([text for _, text in corpus_texts(corpus)])
    one, alike, other = letters(["press one now", "press one", "bonjour"])
    assert float(one @ alike) > 0.6 > 0.3 > abs(float(one @ other))
    assert torch.equal(letters(["press one"])[0], alike)


def test_another_teacher_is_asked_for_before_anything_is_trained(
    effort: Effort, corpus: Corpus, tmp_path: Path
) -> None:
    claim = find_claim("distill-teacher")
    with pytest.raises(ConfigError, match="needs --teacher"):
        run_claim(claim, tmp_path / "claim", effort=replace(effort, teacher=None), corpus=corpus)
    cached_vectors(["only this"], letters, "too few", tmp_path / "few")
    with pytest.raises(ConfigError, match="has no vector of"):
        run_claim(claim, tmp_path / "claim", effort=replace(effort, teacher=str(tmp_path / "few")), corpus=corpus)
    assert not (tmp_path / "claim").exists()
    assert named(trial_of(effort, corpus, tmp_path)).dim == 16


def trial_of(effort: Effort, corpus: Corpus, out: Path, *, arm: str = "a", seed: int = 0) -> Trial:
    return Trial(arm=arm, seed=seed, steps=1, effort=effort, corpus=corpus, out=out, report=silent)


def test_a_plan_says_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "run", "distill-amount", "--plan"]) == 0
    assert "12 trainings (arms times seeds) of 1000 updates each" in capsys.readouterr().out
