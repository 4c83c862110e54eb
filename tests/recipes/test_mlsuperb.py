"""The whole of ML-SUPERB 1 on a tiny corpus in its true layout, with an untrained encoder and a tiny probe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from tiny_model import LASR

from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.errors import CheckpointError, ConfigError, DataError
from allophone.evaluate.mlsuperb_probe import SuperbProbeConfig
from allophone.evaluate.mlsuperb_reference import COLUMNS
from allophone.models.conversion import save_encoder
from allophone.models.lasr import Lasr
from allophone.recipes import mlsuperb
from allophone.recipes.mlsuperb import ROWS, ml_superb, protocol_rows

PROBE = SuperbProbeConfig(
    epochs=2,
    iterations=3,
    batch_size=4,
    accumulate=1,
    average=1,
    channels=4,
    dim=16,
    heads=2,
    inner_dim=16,
    learning_rate=1e-3,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory, speech) -> tuple[Path, Path]:
    """Three sets of German and French, and seven training clips of few-shot Lithuanian; a model."""
    root = tmp_path_factory.mktemp("superb")
    for place, (source, code) in enumerate([("mls", "deu"), ("swc", "deu"), ("mls", "fra"), ("mls", "lit")]):
        folder = root / "data" / source / code
        (folder / "wav").mkdir(parents=True)
        lists = {"10min_train": range(7), "1h_train": range(8), "10min_dev": range(8, 10), "10min_test": range(10, 13)}
        for number in range(13):
            wave = speech(0.9, seed=100 * place + number).numpy()
            soundfile.write(folder / "wav" / f"{source}_{code}_{number:06}.wav", wave, 16_000)
        for name, numbers in lists.items():
            lines = [f"{source}_{code}_{n:06} {code} Wort {'abcdefghijklm'[n]}." for n in numbers]
            (folder / f"transcript_{name}.txt").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    model = save_encoder(Lasr(replace(LASR, num_mel_bins=80)), root / "model", "# untrained\n")
    return root / "data", model


def test_the_protocol_chooses_its_utterances(world) -> None:
    corpus = Corpus.open(world[0])
    train, dev, test = protocol_rows(corpus, "10min")
    assert [sum(row.language == tag for row in train) for tag in ("deu_Latn", "fra_Latn", "lit_Latn")] == [14, 7, 5]
    assert len(protocol_rows(corpus, "1h")[0]) == 8 * 3 + 5 and (len(dev), len(test)) == (8, 12)
    with pytest.raises(DataError, match="no few-shot language in the test set, which has deu, fra"):
        ml_superb("nowhere", corpus.where(language=["deu", "fra"]), out=Path("unused"))
    with pytest.raises(DataError, match="0 utterances marked train_10min"):
        protocol_rows(corpus.where(split="test"), "10min")


def test_all_tasks_are_read_and_scored(world, tmp_path) -> None:
    data, model = world
    run = ml_superb(model, data, out=tmp_path / "a", config=PROBE)
    assert tuple(run.scores) == ROWS and all(len(seeds) == 1 for seeds in run.answers.values())
    for (answers,) in run.answers.values():
        assert {task: len(found) for task, found in answers.items()} == {
            "monolingual": 9,
            "multilingual": 12,
            "language_identification": 12,
            "joint": 12,
        }
    assert [one.name for one in run.scores["model"].columns] == list(COLUMNS)
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert list(result["rows"]) == list(ROWS) and len(result["rows"]["chance"]) == len(COLUMNS) + 1
    assert result["reference_set"]["hash"] == run.scores["model"].reference.hash in run.table.read_text()
    assert "not the benchmark's" in result["warnings"][0] and "3 languages of 143" in result["warnings"][1]
    assert "Fewer than 20" in result["warnings"][2]
    again = ml_superb(model, data, out=tmp_path / "b", rows=("model",), config=PROBE)
    assert again.scores["model"] == run.scores["model"] and again.answers["model"] == run.answers["model"]
    answers = [(tmp_path / folder / "answers" / "model-0.jsonl").read_bytes() for folder in "ab"]
    assert answers[0] == answers[1]


def test_controls_and_seeds_are_read_by_one_command(world, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(SuperbProbeConfig, "fast", lambda task, seed: replace(PROBE, seed=seed))
    data, model = map(str, world)
    given = ["mlsuperb", model, "--corpus", data, "--rows", "filter bank,chance", "--seeds", "0,1", "--fast"]
    assert main([*given, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["rows"]) == ["filter bank", "chance"] and result["signature"]["seeds"] == [0, 1]
    files = {path.name: path.read_bytes() for path in (tmp_path / "answers").iterdir()}
    assert set(files) == {f"{row}-{seed}.jsonl" for row in ("filter-bank", "chance") for seed in (0, 1)}
    lines = [json.loads(line) for line in files["chance-0.jsonl"].splitlines()]
    guessed = [line for line in lines if line["task"] == "multilingual"]
    assert all(line["hypothesis"] in {f"Wort {letter}." for letter in "abcdefg"} for line in guessed)
    printed = capsys.readouterr().out
    assert "SUPERB_s" in printed and "leaderboard-2024" in printed and "not the benchmark's" in printed
    assert "| filter bank above |" in printed and "| Latn | deu, fra, lit | 12 |" in printed
    with pytest.raises(ConfigError, match=r"Unknown row 'filterbank'. Did you mean 'filter bank'"):
        ml_superb(model, data, out=tmp_path, rows=["filterbank"])  # type: ignore[list-item]


def test_a_run_goes_on_with_what_is_missing(world, tmp_path, monkeypatch) -> None:
    data, model = world
    whole = ml_superb(model, data, out=tmp_path / "whole", rows=("filter bank", "chance"), seeds=(0, 1), config=PROBE)
    ml_superb(model, data, out=tmp_path / "parts", rows=("filter bank",), seeds=(0, 1), config=PROBE)
    monkeypatch.setattr(mlsuperb, "hidden_states", lambda *given: pytest.fail("made again"))
    again = ml_superb(model, data, out=tmp_path / "parts", rows=("filter bank", "chance"), seeds=(0, 1), config=PROBE)
    assert again.scores == whole.scores and again.answers == whole.answers
    with pytest.raises(CheckpointError, match="was made from something else; 1 settings differ: amount"):
        ml_superb(model, data, out=tmp_path / "parts", amount="1h", config=PROBE)
