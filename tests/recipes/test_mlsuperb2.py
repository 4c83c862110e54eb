"""ML-SUPERB 2.0's protocol on a tiny challenge in its true layout, with an untrained encoder and a tiny probe."""

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
from allophone.errors import CheckpointError, DataError
from allophone.evaluate.mlsuperb_probe import SuperbProbeConfig
from allophone.models.conversion import save_encoder
from allophone.models.lasr import Lasr
from allophone.recipes import mlsuperb2
from allophone.recipes.mlsuperb import ROWS
from allophone.recipes.mlsuperb2 import challenge_rows, ml_superb_2_run

PROBE = SuperbProbeConfig(
    epochs=1, iterations=3, batch_size=4, accumulate=1, average=1, channels=4, dim=16, heads=2, inner_dim=16
)
LISTS = {"train": 7, "dev": 3, "dev_dialect": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory, speech) -> tuple[Path, Path]:
    """``data/{train,dev,dev_dialect}`` in German, Hindi and few-shot Lithuanian; a model."""
    root = tmp_path_factory.mktemp("superb2")
    (root / "data" / "raw").mkdir(parents=True)
    for name, count in LISTS.items():
        folder = root / "data" / name
        folder.mkdir()
        lines: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
        for place, (code, word) in enumerate([("deu", "Wort"), ("hin", "की"), ("lit", "labas")]):
            for number in range(count):
                one = f"{code}_{name}_{number}"
                soundfile.write(
                    root / "data" / "raw" / f"{one}.wav", speech(0.9, seed=50 * place + number).numpy(), 16_000
                )
                lines["wav.scp"].append(f"{one} data/raw/{one}.wav")
                lines["text"].append(f"{one} [{code}] {word}, {'abcdefg'[number]}.")
                lines["utt2spk"].append(f"{one} {one}")
        for file, rows in lines.items():
            (folder / file).write_text("\n".join(sorted(rows)) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    return root / "data", save_encoder(Lasr(replace(LASR, num_mel_bins=80)), root / "model", "# untrained\n")


def test_the_protocol_chooses_its_utterances(world) -> None:
    chosen = challenge_rows(Corpus.open(world[0]))
    assert [len(part) for part in (chosen.train, chosen.dev, chosen.dialects)] == [7 + 7 + 5, 9, 6]
    assert chosen.test is chosen.dev and len(chosen.every) == 19 + 9 + 6
    with pytest.raises(DataError, match="0 training utterances and 9 of dev have a text"):
        challenge_rows(Corpus.open(world[0]).where(split="dev"))


def test_every_measure_is_scored_and_told(world, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(SuperbProbeConfig, "fast", lambda task, seed: replace(PROBE, seed=seed))
    data, model = map(str, world)
    assert main(["mlsuperb", model, "--corpus", data, "--version", "2", "--fast", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for told in ("CER deviation", "worst CER", "dialect LID", "3 worst languages", "exchanged", "scores are on dev"):
        assert told in printed
    assert "| Deva | hin | 3 |" in printed and printed.count("not the benchmark's") == len(ROWS)
    result = json.loads((tmp_path / "result.json").read_text())
    names = [one["name"] for one in result["rows"]["model"]["measures"]]
    assert names == ["CER", "LID", "worst CER", "CER deviation", "dialect CER", "dialect LID"]
    assert {path.name for path in (tmp_path / "answers").iterdir()} == {
        f"{row.replace(' ', '-')}-0.jsonl" for row in ROWS
    }
    lines = [json.loads(line) for line in (tmp_path / "answers" / "model-0.jsonl").read_text().splitlines()]
    assert len(lines) == 9 + 6
    assert lines[0]["reference"].startswith("Wort, ")  # as it was said, not as the probe learns it
    assert main(["mlsuperb", model, "--corpus", data, "--version", "2", "--seeds", "0,1"]) == 1
    assert "--version 2 takes one seed; got 2" in capsys.readouterr().err
    again = ml_superb_2_run(model, data, out=tmp_path / "again", rows=("model",), config=PROBE)
    assert json.loads((tmp_path / "again" / "result.json").read_text())["rows"]["model"] == result["rows"]["model"]
    assert len(again.answers["model"]) == 15


def test_a_run_goes_on_by_row(world, tmp_path, monkeypatch) -> None:
    data, model = world
    whole = ml_superb_2_run(model, data, out=tmp_path, rows=("filter bank", "chance"), config=PROBE)
    (tmp_path / "answers" / "chance-0.jsonl").unlink()
    monkeypatch.setattr(mlsuperb2, "hidden_states", lambda *given: pytest.fail("made again"))
    again = ml_superb_2_run(model, data, out=tmp_path, rows=("filter bank", "chance"), config=PROBE)
    assert again.scores == whole.scores and again.answers == whole.answers
    ml_superb_2_run(model, data, out=tmp_path, rows=("chance",), seed=1, config=replace(PROBE, seed=1))
    assert len(list((tmp_path / "answers").iterdir())) == 3
    with pytest.raises(CheckpointError, match="probe"):
        ml_superb_2_run(model, data, out=tmp_path, rows=("chance",), config=replace(PROBE, epochs=2))


def test_languages_that_no_probe_could_name_are_refused_before_anything_is_computed(
    world, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(mlsuperb2, "open_base", lambda model: pytest.fail("the model was read"))
    corpus = Corpus.open(world[0])
    fewer = [row for row in corpus if row.split != "train" or not row.language.startswith("hin")]
    with pytest.raises(DataError, match="hin in dev but not among the 2 languages of training"):
        ml_superb_2_run(world[1], corpus.with_utterances(tuple(fewer)), out=tmp_path, config=PROBE)
    with pytest.raises(DataError, match="all of dev is in deu; expected at least two languages"):
        ml_superb_2_run(world[1], corpus.where(language="deu"), out=tmp_path, config=PROBE)
    one = [row for row in corpus if not row.extra["dialect"] or row.language.startswith("lit")]
    with pytest.raises(DataError, match="all of dialects is in lit"):
        ml_superb_2_run(world[1], corpus.with_utterances(tuple(one)), out=tmp_path, config=PROBE)
    assert not list(tmp_path.iterdir())
