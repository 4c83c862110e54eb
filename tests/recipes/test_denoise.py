"""Pretraining with ``--denoise`` from the command line, on real speech: plan, a few steps, journal, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.recipes import handing_over
from allophone.recipes import pretrain as pretrain_module
from allophone.recipes.denoise import DenoiseConfig, with_denoising
from allophone.recipes.pretrain import starter

MEANS = ("mixed_utterance", "mixed_noise", "mixed_share", "snr_db_utterance", "reverberated")
CORPUS = Path(__file__).parents[2] / "starter/src/allophone_starter/corpus"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Two dozen real prompts of two voices of the starter corpus."""
    if not (CORPUS / "corpus.parquet").exists():
        pytest.skip("the starter corpus is not built")
    rows = [row for row in Corpus.open(CORPUS) if row.split == "train" and 1.0 < row.duration_seconds < 3.0]
    folder = tmp_path_factory.mktemp("speech")
    chosen = tuple(replace(row, split=None) for row in rows[:12] + rows[-12:])
    Corpus.open(CORPUS).with_utterances(chosen).save(folder)
    return folder


@pytest.fixture(scope="module")
def noises(tmp_path_factory) -> Path:
    """Three hisses and a file that is none."""
    folder = tmp_path_factory.mktemp("noises")
    for number in range(3):
        soundfile.write(folder / f"hiss {number}.wav", np.random.default_rng(number).normal(0, 0.1, 20_000), 16_000)
    (folder / "broken.wav").write_bytes(b"no sound")
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The starter recipe in small."""

    def recipe(seed: int = 0):
        def shrink(config):
            encoder = replace(
                config.encoder, hidden_size=16, num_hidden_layers=2, intermediate_size=16, num_attention_heads=2
            )
            layer = None if config.targets.layer is None else 1
            targets = replace(config.targets, num_units=8, fit_hours=0.01, layer=layer, iterations=3)
            train = replace(config.train, log_every=2, save_every=2, tensorboard=False)
            data = replace(config.data, batch_seconds=8.0, collate=replace(config.data.collate, crop_seconds=2.0))
            return replace(config, encoder=encoder, targets=targets, train=train, data=data, projection_dim=8)

        return tuple(shrink(config) for config in starter(seed))

    monkeypatch.setitem(pretrain_module.RECIPES, "starter", recipe)
    monkeypatch.setattr(handing_over, "HEAD_STEPS", 10)


def lines(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if "event" not in line]


def test_denoising_from_the_command_line(corpus, noises, tiny, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    command = f"pretrain --corpus {corpus} --steps 4,2 --out {out} --denoise espnet --noise {noises} --reverb 0.5"
    assert main([*command.split(), "--plan"]) == 0
    said = capsys.readouterr().out
    assert "Mixed in by law espnet: another utterance in 90% of clips" in said
    assert "Noise: 3 sounds" in said and "1 files set aside" in said and "Reverberated: 50% of clips" in said
    assert not out.exists()
    assert main(command.split()) == 0
    assert "law espnet" in capsys.readouterr().out
    assert "broken.wav" in (out / "noise" / "quarantine.tsv").read_text()
    config = json.loads((out / "iteration-1" / "config.json").read_text())
    assert config["data"]["collate"]["mix"]["law"] == "espnet"
    for line in lines(out / "iteration-1"):
        assert set(MEANS) <= set(line)
        assert line["mixed_utterance"] + line["mixed_noise"] == pytest.approx(1.0)
        assert 0 < line["mixed_share"] <= 0.5 and -5 <= line["snr_db_utterance"] <= 5
    assert "mixed_utterance" in lines(out / "iteration-2")[-1]
    assert (
        "mixed_utterance" not in lines(next(out.glob("iteration-2/head-*")))[-1]
    )  # the head for its own units hears clean audio
    other = command.replace("--denoise espnet", "--denoise wavlm")
    assert main(other.split()) == 1
    assert "made from something else" in (said := capsys.readouterr().err) and "mix" in said


def test_without_noise_only_utterances_are_mixed_in() -> None:
    one, two = with_denoising(starter(), DenoiseConfig(denoise="wavlm"))
    assert one.data.collate.mix is not None and one.data.collate.mix == two.data.collate.mix
    assert (one.data.collate.mix.probability, one.data.collate.mix.noise_probability) == (0.2, 0.0)
    assert with_denoising(starter(), DenoiseConfig()) == starter()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--noise noises", "no law mixes it in. Add --denoise wavlm or espnet"),
        ("--rooms rooms", "no clip is put into one. Add --reverb 0.3"),
        ("--denoise wavlm --noise nowhere", "nowhere: no such file or folder"),
        ("--reverb 3", "reverb.probability must lie within 0 and 1; got 3.0"),
    ],
)
def test_contradictions_are_refused(corpus, tiny, tmp_path, options, message, capsys) -> None:
    assert main(f"pretrain --corpus {corpus} --out {tmp_path / 'run'} {options}".split()) == 1
    assert message in capsys.readouterr().err
