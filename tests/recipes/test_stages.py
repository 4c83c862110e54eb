"""Runs of several stages on real recordings: what is heard, taken over, skipped and resumed; a tiny encoder."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from allophone.cli.main import main
from allophone.data.balance import BalancedSubset
from allophone.data.corpus import Corpus
from allophone.errors import CheckpointError, ConfigError
from allophone.models.conversion import load_encoder, model_hash, read_lineage
from allophone.nn.codebook import Codebook
from allophone.recipes import handing_over
from allophone.recipes import pretrain as module
from allophone.recipes.pretrain import pretrain, recipe_configs, starter
from allophone.recipes.stages import TwoStage, balanced
from allophone.run import execute as run
from allophone.run import targets
from allophone.run.drawn import hours_drawn
from allophone.run.start import load_heads
from allophone.run.starter import starter_corpus
from allophone.train import loop
from allophone.train.journal import METRICS

pytest.importorskip("allophone_starter")
BALANCE = TwoStage(subset=BalancedSubset(hours=0.005))
STEPS = (4, 4, 4)
STAGE = "iteration-2-balanced"


def tiny(seed: int = 0) -> tuple:
    """The starter recipe with a small encoder and small batches."""

    def shrink(config):
        encoder = replace(
            config.encoder, hidden_size=16, num_hidden_layers=2, intermediate_size=16, num_attention_heads=2
        )
        layer = None if config.targets.layer is None else 1
        targets = replace(config.targets, num_units=6, fit_hours=0.005, layer=layer, iterations=3)
        train = replace(config.train, log_every=2, save_every=2, tensorboard=False)
        data = replace(config.data, batch_seconds=4.0, collate=replace(config.data.collate, crop_seconds=1.5))
        return replace(config, encoder=encoder, targets=targets, train=train, data=data, projection_dim=8)

    return tuple(shrink(config) for config in starter(seed))


@pytest.fixture(autouse=True, scope="module")
def small_recipe():
    patch = pytest.MonkeyPatch()
    patch.setitem(module.RECIPES, "starter", tiny)
    patch.setattr(handing_over, "HEAD_STEPS", 2)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Three languages, one of them with two sources; 20 recordings each to train on and 3 that must not be heard."""
    whole = starter_corpus().where(language=["bul_Cyrl", "cat_Latn", "dan_Latn"])
    rows: list = []
    for language in whole.languages:
        own = whole.where(language=language)
        for source in ("ktuberling", "tuxpaint"):
            rows += [row for row in own if row.split == "train" and row.source == source][:20]
        rows += [row for row in own if row.split == "test"][:3]
    return whole.with_utterances(tuple(rows))


def journal(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / METRICS).read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_encoder(run_dir / "model").state_dict() | (load_heads(run_dir / "model") or {})


def watch(begun: list[str]) -> Callable[[str], Callable[[int, int, dict[str, float]], None]]:
    """A report that writes down which work was begun."""

    def report(stage: str) -> Callable[[int, int, dict[str, float]], None]:
        begun.append(stage)
        return lambda done, total, info: None

    return report


@pytest.fixture(scope="module")
def two_stages(corpus: Corpus, tmp_path_factory) -> tuple[Path, list[str]]:
    """A whole run and what it told."""
    out, told = tmp_path_factory.mktemp("two"), []
    result = pretrain(corpus, out=out, steps=STEPS, balance=BALANCE, tell=told.append)
    assert result.finished
    return out, told


def test_the_journal_counts_what_the_plan_said(corpus: Corpus, two_stages) -> None:
    out, _ = two_stages
    for config in recipe_configs("starter", 0, STEPS, balance=BALANCE):
        planned: dict[str, float] = {}
        for one in hours_drawn(config, corpus):
            planned[one.language] = planned.get(one.language, 0.0) + 3600 * one.drawn
        counted = [line["seconds_drawn"] for line in journal(out / config.name) if "seconds_drawn" in line]
        assert counted[-1] == pytest.approx({name: value for name, value in planned.items() if value}, abs=1e-3)
        assert sum(counted[0].values()) < sum(counted[-1].values())


def test_the_second_stage_goes_on_from_the_first(two_stages) -> None:
    out, told = two_stages
    assert not (out / STAGE / "targets").exists()
    start = [line["message"] for line in journal(out / STAGE) if line.get("event") == "start"]
    subset = [line["message"] for line in journal(out / STAGE) if line.get("event") == "subset"]
    assert len(start) == len(subset) == 1 and set(start + subset) <= set(told)
    assert f"{STAGE} goes on from iteration-2" in start[0] and "Projection and label table are kept" in start[0]
    assert "6 units of layer 1, the same" in start[0] and "The optimizer starts anew, on purpose" in start[0]
    assert "balanced over 3 languages" in subset[0]
    first = model_hash(load_encoder(out / "iteration-2" / "model"))
    assert read_lineage(out / STAGE / "model")["parents"][0] == first
    assert json.loads((out / STAGE / "made_from.json").read_text())["start"] == first
    # What is handed over is another model by its hash (half precision), and says what it was made from.
    last = model_hash(load_encoder(out / STAGE / "model"))
    handed = read_lineage(out / "model")
    assert handed["parents"] == [last] and handed["model_hash"] != last
    rates = [line["learning_rate"] for line in journal(out / STAGE) if "learning_rate" in line]
    before = [line["learning_rate"] for line in journal(out / "iteration-2") if "learning_rate" in line]
    assert max(rates) == pytest.approx(0.2 * max(before))


def test_second_stage_resumes_exactly_after_a_kill(corpus: Corpus, two_stages, tmp_path, monkeypatch) -> None:
    """Between the stages (nothing of the second exists), and within it (right after its first checkpoint)."""
    out, _ = two_stages
    for name in ("iteration-1", "iteration-2"):
        shutil.copytree(out / name, tmp_path / name)
    save = loop.save_checkpoint

    def save_and_die(folder, snapshot, *, keep):
        save(folder, snapshot, keep=keep)
        raise SystemError("killed")

    monkeypatch.setattr(loop, "save_checkpoint", save_and_die)
    with pytest.raises(SystemError, match="killed"):
        pretrain(corpus, out=tmp_path, steps=STEPS, balance=BALANCE)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / STAGE / "checkpoints").iterdir()] == ["step-00000002"]
    begun: list[str] = []
    pretrain(corpus, out=tmp_path, steps=STEPS, balance=BALANCE, report=watch(begun))
    assert begun.count("Training") == 1  # the iterations before were there
    assert journal(tmp_path / STAGE) == journal(out / STAGE)
    expected, found = weights(out / STAGE), weights(tmp_path / STAGE)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_damaged_units_are_made_again_or_the_remedy_works(corpus: Corpus, two_stages, tmp_path) -> None:
    out, _ = two_stages
    for name in ("iteration-1", "iteration-2"):
        shutil.copytree(out / name, tmp_path / name)
    units = tmp_path / "iteration-2" / "targets" / "units.parquet"
    whole = units.read_bytes()
    units.write_bytes(whole[:50])
    with pytest.raises(CheckpointError, match=r"truncated or not Parquet.*delete .*iteration-2/model and start"):
        pretrain(corpus, out=tmp_path, steps=STEPS, balance=BALANCE)
    shutil.rmtree(tmp_path / "iteration-2" / "model")
    begun: list[str] = []
    assert pretrain(corpus, out=tmp_path, steps=STEPS, balance=BALANCE, report=watch(begun)).finished
    assert begun[:2] == ["Encoding units", "Training"] and "Clustering" not in begun[:3]
    assert units.read_bytes() == whole
    expected, found = weights(out / STAGE), weights(tmp_path / STAGE)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_what_is_there_is_skipped_by_what_it_was_made_from(corpus: Corpus, two_stages, tmp_path) -> None:
    out, _ = two_stages
    begun: list[str] = []
    pretrain(corpus, out=out, steps=STEPS, balance=BALANCE, report=watch(begun))
    assert begun == []
    with pytest.raises(CheckpointError, match=r"made from something else; .*config\.train\.steps was 4, is 5"):
        pretrain(corpus, out=out, steps=(4, 5, 4), balance=BALANCE)
    with pytest.raises(CheckpointError, match=r"made from something else; .*batches_per_step was 1, is 3"):
        pretrain(corpus, out=out, steps=STEPS, balance=BALANCE, microbatches=3)
    fewer = corpus.with_utterances(corpus.utterances[1:])
    with pytest.raises(CheckpointError, match=r"made from something else; .*corpus was"):
        pretrain(fewer, out=out, steps=STEPS, balance=BALANCE)
    shutil.copytree(out / "iteration-1", tmp_path / "iteration-1")
    (tmp_path / "iteration-1" / "made_from.json").unlink()  # as an earlier version left it: the settings still count
    with pytest.raises(CheckpointError, match=r"config\.train\.steps was 4, is 3"):
        pretrain(corpus, out=tmp_path, steps=(3, 4, 4), balance=BALANCE)
    with pytest.raises(CheckpointError, match=r"batches_per_step was 1, is 3"):
        pretrain(corpus, out=tmp_path, steps=STEPS, balance=BALANCE, microbatches=3)


def test_one_more_iteration_trains_only_that(corpus: Corpus, tmp_path) -> None:
    first = pretrain(corpus, out=tmp_path, steps=(2,), iterations=1)
    before = Codebook.load(first.model).hash
    begun: list[str] = []
    again = pretrain(corpus, out=tmp_path, steps=(2, 2), iterations=2, report=watch(begun))
    assert begun == ["Clustering", "Encoding units", "Training", "Clustering", "Encoding units", "Head"]
    assert again.model == first.model and Codebook.load(again.model).hash != before


def test_the_head_is_the_same_after_a_restart_before_it(corpus: Corpus, two_stages, tmp_path, monkeypatch) -> None:
    out, _ = two_stages
    for name in ("iteration-1", "iteration-2", STAGE):
        shutil.copytree(out / name, tmp_path / name, ignore=shutil.ignore_patterns("head-*"))
    threads: list[int] = []
    encode = handing_over.prepare_targets
    monkeypatch.setattr(
        handing_over, "prepare_targets", lambda *a, **k: (threads.append(torch.get_num_threads()), encode(*a, **k))[1]
    )
    torch.manual_seed(99)
    torch.set_num_threads(2)
    pretrain(corpus, out=tmp_path, steps=STEPS, balance=BALANCE)
    assert threads == [1]
    expected, found = load_heads(out / "model") or {}, load_heads(tmp_path / "model") or {}
    assert expected and all(torch.equal(value, found[name]) for name, value in expected.items())


def test_targets_are_made_with_the_threads_of_training(corpus: Corpus, tmp_path, monkeypatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise SystemError(f"{torch.get_num_threads()} threads")

    monkeypatch.setattr(run, "prepare_targets", stop)
    torch.set_num_threads(2)
    with pytest.raises(SystemError, match="1 threads"):
        pretrain(corpus, out=tmp_path, steps=(2,), iterations=1)


def test_teachers_work_on_the_gpu(corpus: Corpus, tmp_path, monkeypatch) -> None:
    """That of a later iteration and the encoder that is handed over; where they go and when, without a GPU."""
    events: list[str] = []
    move = torch.nn.Module.to

    def to(self: torch.nn.Module, where: torch.device) -> torch.nn.Module:
        if self.__class__.__name__ == "Lasr":
            events.append(where.type)
        return self if where.type == "cuda" else move(self, where)

    monkeypatch.setattr(targets, "device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.nn.Module, "to", to)
    pretrain(corpus, out=tmp_path, steps=(2, 2), report=watch(events))
    first = ["Clustering", "Encoding units", "Training"]
    of_an_encoder = ["cuda", "Clustering", "cpu", "cuda", "Encoding units", "cpu"]
    assert events == [*first, *of_an_encoder, "Training", *of_an_encoder, "Head"]


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> Path:
    """A HuBERT folder as transformers writes it."""
    folder = tmp_path_factory.mktemp("public")
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return folder


def test_a_public_checkpoint_goes_on_with_other_units(corpus: Corpus, public: Path, tmp_path) -> None:
    told: list[str] = []
    result = pretrain(
        corpus, out=tmp_path / "a", model=public, layer=1, num_units=7, iterations=1, steps=(2,), tell=told.append
    )
    codebook = Codebook.load(tmp_path / "a" / "iteration-1" / "targets")
    assert (codebook.info.num_units, codebook.info.layer) == (7, 1)
    assert codebook.info.model_hash == model_hash(load_encoder(public)) and codebook.info.parent is None
    assert len(told) == 2 and "shorter than 0.5 s" in told[0]
    assert "7 units of layer 1, refitted from this audio" in told[1]
    assert "made anew: it came without" in told[1] and "The optimizer starts anew, on purpose" in told[1]
    assert journal(tmp_path / "a" / "iteration-1")[0]["message"] == told[1]
    assert model_hash(load_encoder(result.model)) != model_hash(load_encoder(public))

    told.clear()
    pretrain(corpus, out=tmp_path / "b", model=result.model, num_units=5, iterations=1, steps=(2,), tell=told.append)
    assert "The projection is kept, the label table is made anew: K 7 to 5." in told[1]
    assert (load_heads(tmp_path / "b" / "model") or {})["label_embeddings"].shape == (5, 8)

    told.clear()
    pretrain(corpus, out=tmp_path / "c", model=result.model, steps=(2, 2), balance=BALANCE, tell=told.append)
    assert "Projection and label table are kept." in told[1]
    assert Codebook.load(tmp_path / "c" / "iteration-1" / "targets").info.parent == Codebook.load(result.model).hash
    assert "iteration-1-balanced goes on from iteration-1" in told[-2]
    assert "Whole, because there is less than 0.005 h of it: bul_Cyrl" in told[-1]


def test_settings_of_a_model_need_a_model() -> None:
    with pytest.raises(ConfigError, match="no model to go on from"):
        recipe_configs("starter", 0, num_units=5)
    assert len(recipe_configs("starter", 0, (3, 3, 3))) == 3
    assert [one.name for one in balanced(recipe_configs("starter", 0, (3, 3, 3)), BALANCE)][
        -1
    ] == "iteration-3-balanced"


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("--balance two-stagee", 2, "unknown value 'two-stagee'. Did you mean 'two-stage'?"),
        ("--subset-hours 3", 1, "--subset-hours without --balance"),
        ("--balance two-stage --subset-hours 0", 1, "expected a positive number"),
        ("--balance two-stage --subset-hours 900 --plan", 1, "no language has as much"),
        ("--balance upsampling --subset-hours 3", 1, "it belongs to two-stage"),
    ],
)
def test_a_wrong_balance_is_explained(line: str, code: int, message: str, capsys) -> None:
    try:
        found = main(["pretrain", "--corpus", "starter", *line.split()])
    except SystemExit as stop:
        found = int(stop.code or 0)
    assert found == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("plan", ["", "--plan"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--unit-layer 9 --learning-rate 3e-4", "(--unit-layer), which has 2 layers; expected 0"),
        ("--balance two-stage --subset-hours 900", "no language has as much"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(
    line: str, message: str, plan: str, capsys, tmp_path: Path
) -> None:
    assert main(["pretrain", "--corpus", "starter", "--out", str(tmp_path), *line.split(), *plan.split()]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("iteration-*"))


def test_what_is_too_short_is_told_before_training(corpus: Corpus, tmp_path, monkeypatch) -> None:
    config = tiny()[0]
    patient = replace(config, data=replace(config.data, min_seconds=1.5))
    monkeypatch.setitem(module.RECIPES, "starter", lambda seed=0: (patient,))
    monkeypatch.setattr(module, "go_through", lambda *_: pytest.fail("trained", pytrace=False))
    told: list[str] = []
    with pytest.raises(pytest.fail.Exception, match="trained"):
        pretrain(corpus, out=tmp_path, steps=(2,), tell=told.append)
    assert len(told) == 1 and "Left out, because they are shorter than 1.5 s: " in told[0]
    assert all(f"{language} " in told[0] for language in corpus.languages)


def test_the_plan_prints_hours_and_changes_nothing(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = "pretrain --corpus starter --plan --steps 3,3,3 --balance two-stage --subset-hours 0.02"
    assert main(line.split()) == 0
    said = capsys.readouterr().out
    assert "Times are of this machine's CPU" in said
    assert "iteration-2-balanced draws" in said and "h drawn" in said and "bul_Cyrl" in said
    assert "iteration-2-balanced: training" in said and "iteration-2-balanced: units" not in said
    assert not list(tmp_path.iterdir())


def test_a_head_that_a_signal_stopped_is_not_handed_over(corpus: Corpus, tmp_path) -> None:
    def stop_the_head(stage: str) -> Callable[[int, int, dict[str, float]], None]:
        def progress(done: int, total: int, info: dict[str, float]) -> None:
            if stage == "Head" and done == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        return progress

    stopped = pretrain(corpus, out=tmp_path / "stopped", iterations=1, steps=(2,), report=stop_the_head)
    assert not stopped.finished and load_heads(stopped.model) is None
    assert pretrain(corpus, out=tmp_path / "stopped", iterations=1, steps=(2,)).finished
    assert pretrain(corpus, out=tmp_path / "undisturbed", iterations=1, steps=(2,)).finished
    ours, theirs = weights(tmp_path / "stopped"), weights(tmp_path / "undisturbed")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
