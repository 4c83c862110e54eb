"""Claims end to end on a few real recordings with tiny encoders: arms, resumption, page and command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.errors import CheckpointError, ConfigError
from allophone.evaluate.spoken import Clip, Judges, Spoken
from allophone.metrics.error_rate import ErrorCounts
from allophone.models.lasr import LasrConfig
from allophone.recipes import handing_over
from allophone.recipes import pretrain as pretrain_module
from allophone.recipes.claims import adding, reading, resynthesis
from allophone.recipes.claims.all import CLAIMS, find_claim
from allophone.recipes.claims.pretraining import HEARD, KEPT_OUT, without_kept_out
from allophone.recipes.claims.trial import Effort, Trial, run_claim
from allophone.recipes.claims.two_stage import FAMILIES, TWO_STAGE, labelled_rows
from allophone.recipes.ledger import LedgerConfig
from allophone.recipes.pretrain import hubert_base, pretrain, starter
from allophone.recipes.resolutions import at_resolution, hubert_small, mr_hubert
from allophone.recipes.resynthesis_score import HeardBy
from allophone.recipes.voices import voice_pair
from allophone.run.origin import ORIGIN
from allophone.run.progress import silent
from allophone.run.starter import open_base, starter_corpus
from allophone.run.targets import lend_targets

pytest.importorskip("allophone_starter")
QUICK = ("denoising", "relatedness")
"""The others run in `make slow`."""
EFFORT = Effort(steps=4, train_clips=24, test_clips=6, probe_steps=12)


def shrink(config):
    size = {"hidden_size": 24, "intermediate_size": 16, "num_attention_heads": 2}
    if isinstance(config.encoder, LasrConfig):
        small = replace(config.encoder, **size, num_hidden_layers=2)
    elif hasattr(config.encoder, "block_layers"):
        small = replace(
            config.encoder, **size, num_hidden_layers=3, block_layers=(1, 1, 1), conv_dim=(8,) * 7,
            num_conv_pos_embeddings=4,
        )  # fmt: skip
    else:
        size |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 4}
        small = replace(config.encoder, **size, num_hidden_layers=3, conv_dim=(8,) * 7)
    layer = None if config.targets.layer is None else 1
    targets = replace(config.targets, num_units=6, fit_hours=0.005, iterations=3, layer=layer)
    train = replace(config.train, log_every=2, save_every=4, tensorboard=False)
    data = replace(config.data, batch_seconds=4.0, collate=replace(config.data.collate, crop_seconds=1.5))
    return replace(config, encoder=small, targets=targets, train=train, data=data, projection_dim=8)


@pytest.fixture(autouse=True, scope="module")
def small_recipes():
    patch = pytest.MonkeyPatch()
    recipes = {
        "starter": starter,
        "hubert-small": hubert_small,
        "hubert-small-40ms": lambda seed=0: at_resolution(hubert_small(seed), 40),
        "hubert-small-80ms": lambda seed=0: at_resolution(hubert_small(seed), 80),
        "mr-hubert-small": lambda seed=0: mr_hubert(hubert_small(seed), layer=4),
        "hubert-base": hubert_base,
    }
    for name, recipe in recipes.items():
        patch.setitem(
            pretrain_module.RECIPES, name, lambda seed=0, recipe=recipe: tuple(shrink(one) for one in recipe(seed))
        )
    patch.setattr(handing_over, "HEAD_STEPS", 2)
    listen = Judges(transcribe=lambda language: lambda waveforms: ["uno"] * len(waveforms))
    patch.setattr(resynthesis, "open_judges", lambda *named: HeardBy(judges=listen, settings=""))
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="module")
def small_base(small_recipes, corpus: Corpus, tmp_path_factory) -> None:
    """An encoder with units and heads in the place of the starter encoder."""
    patch = pytest.MonkeyPatch()
    made = pretrain(corpus.where(language=["spa", "fra", "rus"]), out=tmp_path_factory.mktemp("base"), steps=(4, 4))
    base, _ = open_base(made.model)
    patch.setattr(adding, "starter_base", lambda: base)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """A few recordings of the languages that claims hear and read."""
    whole = starter_corpus()
    rows: list = []
    for language in (*HEARD, *KEPT_OUT):
        own = [row for row in whole.where(language=language) if row.text and row.duration_seconds > 0.8]
        trained = {row.speaker for row in own if row.split == "train"}
        rows += [row for row in own if row.split == "train"][: {"spa": 96, "fra": 24, "ita": 24}.get(language, 12)]
        rows += [row for row in own if row.split == "dev" and row.speaker in trained][:1]
        rows += [row for row in own if row.split == "test" and row.speaker in trained][:6]
    rows += [row for name in ("ita", "spa") for row in second_voice(whole.where(language=name))]
    return whole.with_utterances(tuple({row.id: row for row in rows}.values()))


def second_voice(corpus: Corpus) -> list:
    """Held-out prompts that two voices share, as the rows of a test about them need them."""
    pair = voice_pair(corpus, LedgerConfig(), everything=False)
    return [row for side in pair for row in side[:20]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Folder of the first claim, shared by the tests that run it."""
    return tmp_path_factory.mktemp("denoising")


@pytest.mark.parametrize(
    "name",
    [pytest.param(one.name, marks=[] if one.name in QUICK else pytest.mark.slow) for one in CLAIMS if one.like],
)
def test_a_claim_runs_to_its_page(name: str, corpus: Corpus, finished: Path, tmp_path: Path) -> None:
    claim = find_claim(name)
    tmp_path = finished if claim is CLAIMS[0] else tmp_path
    outcome = run_claim(claim, tmp_path, seeds=(0,), effort=EFFORT, corpus=corpus)
    assert outcome is not None
    result = json.loads((tmp_path / "claim.json").read_text())
    assert result["claim"] == name and result["low"] <= result["effect"] <= result["high"]
    assert len(result["contrasts"]) == len(claim.contrasts)
    page = outcome.report.read_text()
    for arm in (*claim.untrained, *claim.arms):
        assert f">{arm}" in page
    flags = "--seeds 0 --steps 4 --train-clips 24 --test-clips 6 --probe-steps 12"
    assert f"allophone claims run {name} {flags}" in page
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    again = run_claim(claim, tmp_path, seeds=(0,), effort=EFFORT, corpus=corpus)
    assert again is not None and again.to_json() == outcome.to_json()
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    with pytest.raises(CheckpointError, match="probe_steps"):
        run_claim(claim, tmp_path, seeds=(0,), effort=replace(EFFORT, probe_steps=13), corpus=corpus)
    with pytest.raises(CheckpointError, match="revision"):
        run_claim(replace(claim, revision=claim.revision + 1), tmp_path, seeds=(0,), effort=EFFORT, corpus=corpus)


def test_arms_of_a_seed_lend_each_other_their_targets(corpus: Corpus, finished: Path, tmp_path: Path) -> None:
    run_claim(CLAIMS[0], finished, seeds=(0,), effort=EFFORT, corpus=corpus)
    folders = sorted(finished.glob("*/seed-0/iteration-1/targets"))
    assert len(folders) == len(CLAIMS[0].arms)
    assert len({(folder / "units.parquet").stat().st_mtime_ns for folder in folders}) == 1, "each made its own"
    lender, own = folders[0], tmp_path / "targets"
    origin = json.loads((lender / ORIGIN).read_text())
    assert not lend_targets(lender, own, {**origin, "seed": origin["seed"] + 1}) and not own.exists()
    assert not lend_targets(tmp_path / "nobody", own, origin) and not own.exists()
    assert lend_targets(lender, own, origin)
    for path in lender.iterdir():
        assert (own / path.name).read_bytes() == path.read_bytes()
    (own / "units.parquet").unlink()
    assert not lend_targets(own, tmp_path / "third", origin), "units that were not finished are not lent"


def test_pretraining_hears_no_language_that_is_read(corpus: Corpus, tmp_path: Path) -> None:
    trial = Trial(arm="a", seed=0, steps=1, effort=EFFORT, corpus=corpus, out=tmp_path, report=silent)
    heard = without_kept_out(trial).corpus
    assert {row.language[:3] for row in heard} == set(HEARD)
    assert not {row.id for row in heard} & {row.id for name in KEPT_OUT for row in corpus.where(language=name)}


def test_families_are_all_languages_and_the_smaller_amount_decides() -> None:
    assert sorted(one for members in FAMILIES.values() for one in members) == sorted((*HEARD, *KEPT_OUT))
    first, *others = TWO_STAGE.contrasts
    assert len(first.conditions) == 11 and all(condition.endswith(", 10 min") for condition in first.conditions)
    assert any(one.conditions == ("ell, 1 h",) for one in others)
    assert {one.measure for one in others} == {scale.measure for scale in TWO_STAGE.scales}


def test_labelled_minutes_are_of_every_language_and_nested(corpus: Corpus, tmp_path: Path) -> None:
    trial = Trial(arm="chance", seed=0, steps=1, effort=EFFORT, corpus=corpus, out=tmp_path, report=silent)
    less, more = labelled_rows(trial, 0.2), labelled_rows(trial, 2.0)
    for small, large in zip(less, more, strict=True):
        assert {row.language for row in small} == {row.language for row in large} == set(corpus.languages)
    assert {row.id for row in less[0]} < {row.id for row in more[0]}
    assert [row.id for row in less[2]] == [row.id for row in more[2]]
    scored = TWO_STAGE.score(trial, None)
    assert {one.condition for one in scored} == {c for one in TWO_STAGE.contrasts for c in one.conditions}


def test_noises_have_their_ratio_and_are_the_same_every_time(corpus: Corpus) -> None:
    found = reading.noises(corpus, "bul", ("spa",))
    assert len(found) == 2 * len(reading.SNRS)
    row = corpus.where(language="bul").utterances[0]
    clean = corpus.audio(row)
    for name, disturb in found.items():
        noisy = disturb(row, clean)
        assert torch.equal(noisy, disturb(row, clean)) and noisy.shape == clean.shape
        ratio = 10 * torch.log10(clean.square().mean() / (noisy - clean).square().mean())
        assert float(ratio) == pytest.approx(int(name.split()[-2]), abs=0.05)
    assert not torch.equal(found["babble 5 dB"](row, clean), found["speech-shaped 5 dB"](row, clean))


def test_shaped_noise_has_the_spectrum_it_is_given() -> None:
    generator = torch.Generator().manual_seed(0)
    slope = torch.linspace(1.0, 0.1, reading.SPECTRUM_BINS)
    noise = reading.shaped_noise(slope, 16_000 * 20, generator)
    measured = reading.mean_spectrum([noise])
    assert float(torch.corrcoef(torch.stack([slope, measured]))[0, 1]) > 0.99


def test_effort_and_names_are_checked() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Effort(test_clips=0)
    with pytest.raises(ConfigError, match="denoising"):
        find_claim("denoisng")


def test_the_command_line_lists_plans_and_goes_on(finished: Path, corpus: Corpus, capsys, monkeypatch) -> None:
    assert main(["claims", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{claim.name}:" in listed for claim in CLAIMS)
    assert main(["claims", "run", "balance", "--plan", "--steps", "2"]) == 0
    assert "18 trainings" in capsys.readouterr().out
    monkeypatch.setattr("allophone.recipes.claims.trial.starter_corpus", lambda: corpus)
    words = ["--steps", "4", "--train-clips", "24", "--test-clips", "6", "--probe-steps", "12", "--seeds", "0"]
    assert main(["claims", "run", "denoising", *words, "--out", str(finished), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["holds"] in (True, False, None) and np.isfinite(printed["effect"])
    assert main(["claims", "run", "nothing"]) == 1


def test_minutes_are_whole_utterances_and_leave_the_test_split(corpus: Corpus) -> None:
    whole = corpus.where(language="spa")
    some = adding.first_minutes(whole, 1.0, seed=0)
    heard = [row for row in some if row.split == "train"]
    longest = max(row.duration_seconds for row in whole)
    assert 60 - longest < sum(row.duration_seconds for row in heard) <= 60
    assert [row for row in some if row.split == "test"] == [row for row in whole if row.split == "test"]
    assert {row.id for row in heard} != {r.id for r in adding.first_minutes(whole, 1.0, seed=1) if r.split == "train"}


def test_a_language_is_resynthesized_in_its_longest_voice_and_old_probes_read_old_ids(corpus: Corpus) -> None:
    chosen = resynthesis.voices(corpus)
    assert {row.language[:3] for row in chosen} == {resynthesis.NEW, *resynthesis.KEPT}
    assert len({row.speaker for row in chosen}) == 3
    for language in (resynthesis.NEW, *resynthesis.KEPT):
        seconds: dict = {}
        for row in corpus.where(language=language):
            if row.split == "train":
                seconds[row.speaker] = seconds.get(row.speaker, 0) + row.duration_seconds
        assert {row.speaker for row in chosen.where(language=language)} == {max(seconds, key=seconds.get)}
    arms = resynthesis.ARMS
    assert {one for c in resynthesis.RESYNTHESIS.contrasts for one in (c.arm, c.baseline)} <= arms.keys()
    for (
        name,
        arm,
    ) in arms.items():  # a probe is trained before others are spoken by it, and never for clusters of others
        speaker = arms[arm.spoken_by or name]
        assert list(arms).index(arm.spoken_by or name) <= list(arms).index(name) and speaker.spoken_by is None
        assert arm.spoken_by is None or arm.units != "new"


def test_speech_without_a_voice_has_no_pitch_error(corpus: Corpus, tmp_path: Path) -> None:
    counts = ErrorCounts(np.array([1, 0]), np.array([4, 5]))
    nothing = (np.zeros(2), np.zeros(2))
    scores = Spoken(
        transcripts=("a", "b"), characters=counts, words=counts, raw_characters=counts, mos=None,
        pitch=nothing, voicing=(np.ones(2), np.full(2, 9.0)), similarity=None,
    )  # fmt: skip
    trial = Trial(arm="before", seed=3, steps=1, effort=EFFORT, corpus=corpus, out=tmp_path, report=silent)
    clips = [Clip(name=name, waveform=torch.zeros(9), text="x", language="ita", speaker="s") for name in "ab"]
    found = {one.measure: one for one in resynthesis.observations(trial, "ita", clips, scores)}
    assert found.keys() == {"heard_characters", "heard_words", "voicing_error"}
    assert found["heard_characters"].items == ("a", "b") and found["heard_characters"].seed == 3
    recordings = resynthesis.observations(replace(trial, arm="recordings"), "ita", clips, scores)
    assert {one.measure for one in recordings} == {"heard_characters", "heard_words"}
