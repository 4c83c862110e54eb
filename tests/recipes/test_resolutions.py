"""Frame rates: what the recipes say, short pretraining of every kind on real speech, costs for people."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from allophone.cli.main import main
from allophone.config import from_json, to_json
from allophone.data.balance import BalancedSubset
from allophone.data.corpus import Corpus
from allophone.errors import ConfigError
from allophone.methods.two_rate_prediction import prediction
from allophone.models.build import build_encoder
from allophone.models.conversion import load_encoder
from allophone.models.mr_hubert import MrHubert, MrHubertConfig
from allophone.models.multi_resolution import FusionConfig
from allophone.models.speech_encoder import SpeechEncoder
from allophone.nn.codebook import Codebook
from allophone.recipes import handing_over
from allophone.recipes.pretrain import FAMILIES, RECIPES, pretrain, recipe_configs, resolutions, starter
from allophone.recipes.resolutions import at_resolution, hubert_small, mr_hubert, with_two_rates
from allophone.recipes.stages import TwoStage, second_stage
from allophone.run.config import RunConfig
from allophone.run.execute import execute
from allophone.run.start import carry_over, finished_run
from allophone.units.encode import Units

CORPUS = Path(__file__).parents[2] / "starter/src/allophone_starter/corpus"
UNITS, STEPS = 6, 80


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Two minutes of real prompts of two voices of the starter corpus."""
    if not (CORPUS / "corpus.parquet").exists():
        pytest.skip("the starter corpus is not built")
    rows = [row for row in Corpus.open(CORPUS) if row.split == "train" and 1.0 < row.duration_seconds < 3.0]
    return Corpus.open(CORPUS).with_utterances((*rows[:30], *rows[-30:]))


def tiny(seed: int = 0) -> tuple[RunConfig, ...]:
    """The small recipe in tiny."""

    def shrink(config: RunConfig) -> RunConfig:
        encoder = replace(config.encoder, num_hidden_layers=3, hidden_size=48, intermediate_size=96, conv_dim=(24,) * 7)
        layer = None if config.targets.layer is None else 1
        targets = replace(config.targets, num_units=UNITS, iterations=4, fit_hours=0.03, layer=layer)
        data = replace(
            config.data, batch_seconds=6.4, collate=replace(config.data.collate, crop_seconds=1.6, mask_probability=0.3)
        )
        train = replace(config.train, steps=STEPS, warmup_steps=10, learning_rate=4e-3, log_every=10, tensorboard=False)
        return replace(config, encoder=encoder, targets=targets, data=data, train=train, projection_dim=24)

    return tuple(shrink(config) for config in hubert_small(seed))


FIRST = {ms: at_resolution(tiny(), ms)[0] for ms in (20, 40, 80)}
BRANCHES = tuple(FIRST[ms].encoder for ms in (20, 40, 80))
KINDS = {
    "20 ms": FIRST[20],
    "40 ms": FIRST[40],
    "80 ms": FIRST[80],
    "two rates": with_two_rates(FIRST[20]),
    "parallel": replace(FIRST[20], encoder=FusionConfig(branches=BRANCHES)),
    "hierarchical": replace(
        FIRST[20], encoder=FusionConfig(branches=BRANCHES, join="hierarchical", upsampling="linear")
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_run_predicts_better_than_unit_frequencies(kind: str, corpus: Corpus, tmp_path: Path) -> None:
    config = KINDS[kind]
    trained = execute(config, corpus, tmp_path)
    used = np.concatenate(list(Units.load(tmp_path / "targets/units.parquet").labels.values()))
    shares = np.bincount(used, minlength=UNITS) / len(used)
    frequencies_alone = -(shares * np.log(shares)).sum()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "event" not in line]
    for name in ["loss_masked", *(["loss_masked_coarse"] if kind == "two rates" else [])]:
        assert lines[0][name] > lines[-1][name]
        assert np.mean([line[name] for line in lines[-2:]]) < frequencies_alone, name
    encoder = load_encoder(trained.folder)
    assert encoder.config == config.encoder
    assert ("coarse_embeddings" in load_file(trained.folder / "heads.safetensors")) == (kind == "two rates")


def test_a_second_stage_keeps_the_heads_of_both_rates(corpus: Corpus, tmp_path: Path) -> None:
    first = replace(with_two_rates(FIRST[20]), train=replace(FIRST[20].train, steps=2, warmup_steps=0))
    execute(first, corpus, tmp_path / first.name)
    start, stage = finished_run(tmp_path / first.name), second_stage(first, TwoStage(subset=BalancedSubset()))
    assert start.heads is not None and start.codebook is not None
    method = prediction(build_encoder(stage.encoder), stage.method())
    assert "Projection and label table are kept." in carry_over(method, start, start.codebook, stage)
    new = method.state_dict()
    assert len(start.heads) == 6 and all(torch.equal(new[name], value) for name, value in start.heads.items())
    # A model that was handed over has heads for the fast rate alone.
    fast = {name: value for name, value in start.heads.items() if not name.startswith("coarse")}
    said = carry_over(method, replace(start, heads=fast), start.codebook, stage)
    assert "label_embeddings are kept and coarse_proj.weight, coarse_proj.bias, coarse_embeddings made anew" in said


def test_two_rates_from_the_command_line(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All iterations; what is handed over says that only we open it, and does open with units at the fast rate."""
    for name, recipe in {
        "hubert-small": tiny,
        "hubert-small-40ms": lambda seed: at_resolution(tiny(seed), 40),
        "hubert-small-80ms": lambda seed: at_resolution(tiny(seed), 80),
        "mr-hubert-small": lambda seed: mr_hubert(tiny(seed), layer=2),
    }.items():
        monkeypatch.setitem(RECIPES, name, recipe)
    monkeypatch.setattr(handing_over, "HEAD_STEPS", 10)
    folder = tmp_path / "corpus"
    corpus.with_utterances(tuple(replace(row, split=None) for row in corpus.utterances[:12])).save(folder)
    out = tmp_path / "run"
    command = f"pretrain --corpus {folder} --recipe mr-hubert-small --steps 3,3,3 --out {out}".split()
    assert main([*command, "--plan"]) == 0
    said = capsys.readouterr().out
    assert "iteration-3: training" in said and "20+40 ms" in said and "GFLOP/s" in said
    compared = said.split("Frame rates, once through an hour of audio in clips of 5 s:")[1]
    assert [line.split()[0] for line in compared.splitlines() if line.strip()] == list(FAMILIES[1])
    assert not out.exists()
    assert main(command) == 0
    assert "no class for this architecture" in (out / "model/README.md").read_text()
    encoder = SpeechEncoder.load(out / "model")
    assert isinstance(encoder.encoder, MrHubert)
    waveform = corpus.audio(corpus.utterances[0])
    assert len(encoder.units(waveform)) == encoder.encoder.clock.count(len(waveform))
    assert Codebook.load(out / "iteration-3/targets").info.layer == 2


def test_a_40_ms_run_goes_through_its_iterations(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "hubert-small-40ms", lambda seed: at_resolution(tiny(seed), 40))
    monkeypatch.setattr(handing_over, "HEAD_STEPS", 10)
    some = corpus.with_utterances(corpus.utterances[:12])
    result = pretrain(some, out=tmp_path, recipe="hubert-small-40ms", steps=(3, 3))
    encoder = SpeechEncoder.load(result.model)
    assert encoder.encoder.clock.hop == 640
    assert "Opens in `transformers`" in (result.model / "README.md").read_text()
    assert Codebook.load(tmp_path / "iteration-2/targets").info.hop == 640


def test_masks_keep_their_length_and_labels_follow_the_clock() -> None:
    for size, milliseconds, length in (("base", 20, 10), ("base", 40, 5), ("base", 80, 3), ("small", 80, 3)):
        name = f"hubert-{size}" + ("" if milliseconds == 20 else f"-{milliseconds}ms")
        first, second = recipe_configs(name, seed=0)
        assert first.encoder.clock.hop == 16 * milliseconds
        assert [run.data.collate.mask_length for run in (first, second)] == [length, length]
        assert (first.targets.labels_per_frame, second.targets.labels_per_frame) == (milliseconds // 20, 1)
        assert first.train.steps == RECIPES[f"hubert-{size}"](0)[0].train.steps


def test_the_base_recipes_have_the_published_sizes() -> None:
    *_, second, third = recipe_configs("mr-hubert-base", seed=0)
    as_hubert = {"feature_grad_mult": 0.1, "feat_proj_dropout": 0.1, "activation_dropout": 0.0}
    assert third.encoder == replace(MrHubertConfig(), **as_hubert)
    assert (third.targets.layer, third.name, third.train.steps) == (9, "iteration-3", 400_000)
    assert second == recipe_configs("hubert-base", seed=0)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_runs_are_written_and_read(kind: str) -> None:
    assert from_json(RunConfig, to_json(KINDS[kind])) == KINDS[kind]


def test_families_are_compared_and_others_are_not() -> None:
    assert list(resolutions("hubert-base-80ms", 0)) == list(FAMILIES[0])
    assert {name for family in FAMILIES for name in family} == set(RECIPES) - {"starter"}
    assert resolutions("starter", 0) == {}


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="every 30 ms; known: 20, 40, 80"):
        at_resolution(hubert_small(), 30)
    with pytest.raises(ConfigError, match="iteration-1: a LasrConfig has no convolutions to change"):
        at_resolution(starter(), 40)
    four = replace(FIRST[20], encoder=replace(FIRST[20].encoder, num_hidden_layers=4))
    with pytest.raises(ConfigError, match="4 layers do not make three equal blocks"):
        with_two_rates(four)
    with pytest.raises(ConfigError, match="Did you mean 'hubert-small-40ms'"):
        recipe_configs("hubert-small-40", seed=0)
