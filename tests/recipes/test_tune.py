"""Tuning from a corpus to tables: all rows, exact resume, the stopping point that dev picks, and the command."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_model
import torch

from allophone.batch import SpeechBatch
from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.data.labelled import LabelledParts
from allophone.data.loader import BatchStream
from allophone.data.utterance import Utterance
from allophone.errors import CheckpointError
from allophone.methods.tuning import frozen_layers
from allophone.models.conversion import load_encoder, model_hash, save_encoder
from allophone.models.speech_embedder import load_speech_embedder
from allophone.recipes.tune import FROZEN, TuneData, tune
from allophone.recipes.tune_scores import READERS, embedder_of, interval_groups
from allophone.recipes.withdraw import withdraw
from allophone.run.tuning import TuneConfig, TunedRun, build_tuning_stream, tune_encoder

CONFIG = TuneConfig(steps=4, points=2, classes=2, per_class=2, crop_seconds=0.6, learning_rate=1e-2)
DATA = TuneData(min_train=4, few_shot=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three voices (a buzz of another pitch each) that say 24 prompts (another rhythm each)."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for voice, pitch in enumerate((90, 140, 220)):
        for prompt in range(24):
            generator = np.random.default_rng(100 * voice + prompt)
            time = np.arange(11_200) / 16_000
            wave = sum(np.sin(2 * np.pi * pitch * k * time + generator.random()) / k for k in range(1, 12))
            wave = wave * (0.6 + 0.4 * np.sin(2 * np.pi * (2 + prompt) * time)) + 0.1 * generator.standard_normal(
                11_200
            )
            name = f"{voice}-{prompt}"
            soundfile.write(folder / f"{name}.wav", 0.1 * wave, 16_000)
            rows.append(
                Utterance(
                    id=name,
                    path=f"{name}.wav",
                    duration_seconds=0.7,
                    sample_rate=16_000,
                    language="fra_Latn",
                    speaker=f"voice {voice}",
                    group=f"prompt {prompt}",
                )
            )
    return Corpus(folder=folder, utterances=tuple(rows), name="made").save(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_encoder(tiny_model.lasr(), folder, "# Tiny")
    return folder


def test_one_table_of_all_methods(made: Corpus, base: Path, tmp_path: Path) -> None:
    methods = ("frozen", "pair", "cross-entropy")
    found = tune(base, made, label="speaker", out=tmp_path, methods=methods, config=CONFIG, data=DATA)  # type: ignore[arg-type]
    assert found is not None
    names = [name for name in found.cells if not name.startswith("frozen, ")]
    assert names == ["chance", "filter bank", "random encoder", FROZEN, "pair", "cross-entropy"]
    assert sum(name.startswith("frozen, layer") for name in found.cells) == 1
    assert "frozen, mixture of layers" in found.cells
    assert all(set(row) == set(READERS) for row in found.cells.values())
    assert found.cells["filter bank"][READERS[0]].value > 90 > found.cells["chance"][READERS[0]].value
    result = json.loads(found.result.read_text(encoding="utf-8"))
    assert {"pair", "cross-entropy"} <= result["changes_from_frozen"].keys() and result["parts"]["classes"]
    geometry = result["systems"]["pair"][0]["geometry"]
    assert geometry["raw"]["dim"] == 16 and geometry["standardized"]["isoscore"] <= 1
    assert result["systems"]["pair"][0]["few_shot"]["1"] and result["systems"][FROZEN][0]["few_shot"]["8"]
    for point in result["stopping_points"]:
        assert [one["step"] for one in point["points"]] == [2, 4]
        assert point["journal"]["step"] == 4 and point["journal"]["seconds"] > 0
        assert point["chosen"] == point["picked_by"]["knn"] and "least lost" in point["note"]
    embedder = load_speech_embedder(tmp_path / "pair")
    assert embedder.config.projection == "none"
    journal = (tmp_path / "pair-seed-0" / "metrics.jsonl").read_text(encoding="utf-8")
    assert "active_anchors" in journal and "head_spread" in journal and "no_gradient" not in journal
    table = found.tables.read_text(encoding="utf-8")
    assert "| filter bank |" in table and "silhouette" in table
    page = found.page.read_text(encoding="utf-8")
    assert (
        "Content-Security-Policy" in page
        and "The space before and after" in page
        and "principal components" not in page
    )
    assert "voice 2" in page and all(f">{name}" in page for name in found.cells)


def test_what_was_tuned_is_found_by_who_speaks_in_it(made: Corpus, base: Path, tmp_path: Path) -> None:
    """With the last layer alone: models say what they heard, and their vectors are those that were scored."""
    config = replace(CONFIG, training="last", last_layers=1, points=1)
    small = replace(DATA, few_shot=False)
    found = tune(base, made, label="speaker", out=tmp_path / "run", methods=("pair",), config=config, data=small)
    assert found is not None
    told = withdraw("voice 1", [tmp_path])
    assert [(one.kind, one.how) for one in told.affected] == [("model", "directly"), ("checkpoints", "directly")]
    assert not told.unknown
    assert 0 < dict(told.affected[0].uses)["trained"] < 24  # only the training part
    parents = json.loads((tmp_path / "run" / "pair" / "allophone.json").read_text(encoding="utf-8"))["parents"]
    assert parents == [model_hash(load_encoder(base))]
    embedder = load_speech_embedder(tmp_path / "run" / "pair")
    waveforms = [made.audio(row) for row in made.utterances[:5]]
    part = made.with_utterances(made.utterances[:5])
    through = embedder_of(embedder, frozen_layers(embedder, 1))(part, waveforms)
    np.testing.assert_allclose(through, embedder_of(embedder)(part, waveforms), atol=1e-5)


def weights(made: Corpus, out: Path, config: TuneConfig) -> dict[str, torch.Tensor]:
    classes = {row.id: (int(row.id[0]),) for row in made}
    run = tune_encoder("pair", tiny_model.lasr(), made, classes, config, out, label="speaker", seed=3)
    assert run is not None
    return {name: value.clone() for name, value in run.method.state_dict().items()}


def test_a_run_that_is_cut_goes_on_as_if_it_were_not(
    made: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, unmined_share=0.5, head_only_share=0.5)
    whole = weights(made, tmp_path / "whole", config)
    seen: list[int] = []

    def stop(self: object) -> object:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(self)

    stream = build_tuning_stream(made, {row.id: (0,) for row in made}, tiny_model.lasr(), config, seed=3)
    real = type(stream).__next__
    with monkeypatch.context() as patch:
        patch.setattr(type(stream), "__next__", stop)
        with pytest.raises(KeyboardInterrupt):
            weights(made, tmp_path / "cut", config)
    assert (tmp_path / "cut" / "checkpoints" / "step-00000002").is_dir()
    again = weights(made, tmp_path / "cut", config)
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_what_a_signal_saves_is_no_stopping_point_and_takes_none_away(
    made: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, classes, real = replace(CONFIG, steps=6), {row.id: (int(row.id[0]),) for row in made}, BatchStream.__next__

    def interrupted(after: int) -> Callable[[BatchStream], SpeechBatch]:
        batches = itertools.count(1)

        def following(stream: BatchStream) -> SpeechBatch:
            if next(batches) == after:
                signal.raise_signal(signal.SIGINT)
            return real(stream)

        return following

    def tuned() -> TunedRun | None:
        return tune_encoder("pair", tiny_model.lasr(), made, classes, config, tmp_path, label="speaker", seed=0)

    for after in (1, 3, 1):  # ends at steps 1, 4 and 5
        with monkeypatch.context() as patch:
            patch.setattr(BatchStream, "__next__", interrupted(after))
            assert tuned() is None
    run = tuned()
    assert run is not None and sorted(run.points) == [3, 6]
    assert sorted(one.name for one in (tmp_path / "checkpoints").iterdir()) == ["step-00000003", "step-00000006"]


def test_other_classes_or_another_label_are_another_run(made: Corpus, tmp_path: Path) -> None:
    config, base, voices = replace(CONFIG, steps=1, points=1), tiny_model.lasr(), [int(row.id[0]) for row in made]
    classes = {row.id: (voice,) for row, voice in zip(made, voices, strict=True)}
    others = {row.id: (2 - voice,) for row, voice in zip(made, voices, strict=True)}
    assert tune_encoder("pair", base, made, classes, config, tmp_path, label="speaker", seed=0) is not None
    with pytest.raises(CheckpointError, match=r"1 settings differ: run.label was 'speaker', is 'label'"):
        tune_encoder("pair", base, made, classes, config, tmp_path, label="label", seed=0)
    with pytest.raises(CheckpointError, match=r"1 settings differ: run.classes was"):
        tune_encoder("pair", base, made, others, config, tmp_path, label="speaker", seed=0)


def test_a_refused_call_and_one_that_trains_nothing_leave_the_records(
    made: Corpus, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["tune", "--corpus", str(made.folder), "--label", "speaker", "--base", str(base), "--out", str(tmp_path)]
    line += ["--min-train", "4", "--no-few-shot", "--steps", "1", "--points", "1", "--classes", "2", "--per-class", "2"]
    assert main([*line, "--method", "pair"]) == 0
    names = ("command.json", "config.json", "used.parquet", "made_from.json")
    records = [(tmp_path / name).read_bytes() for name in names]
    assert main([*line, "--method", "pair", "--temperature", "0.3"]) == 1
    assert "config.temperature was 0.1, is 0.3" in capsys.readouterr().err
    assert [(tmp_path / name).read_bytes() for name in names] == records
    assert main([*line, "--method", "frozen"]) == 0
    assert [(tmp_path / name).read_bytes() for name in names] == records


def test_intervals_draw_speakers_or_contents_where_there_are_enough(made: Corpus) -> None:
    def test_part(rows: Iterable[Utterance]) -> LabelledParts:
        part = made.with_utterances(tuple(rows))
        return LabelledParts(train=part, dev=part, test=part, names=(), classes={}, left_out={}, notes=())

    alone = [replace(row, group=None) for row in made if row.speaker == "voice 1"]  # a fold of EmoDB
    assert interval_groups(test_part(alone), "label") == ("24 utterances", tuple(row.id for row in alone))
    assert interval_groups(test_part(made), "label")[0] == "24 contents"  # three voices are too few
    many = [replace(row, speaker=f"{row.id[2:]}") for row in made]
    assert interval_groups(test_part(many), "label")[0] == "24 speakers"
    assert interval_groups(test_part(many), "speaker")[0] == "24 contents"
    same = [replace(row, group="one text") for row in made]
    over, groups = interval_groups(test_part(same), "speaker")
    assert over == "72 utterances" and len(set(groups)) == 72


def test_the_command(made: Corpus, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["tune", "--corpus", str(made.folder), "--label", "speaker", "--method", "frozen", "--base", str(base)]
    assert main([*line, "--out", str(tmp_path), "--min-train", "4", "--no-few-shot"]) == 0
    assert "| frozen |" in capsys.readouterr().out
    assert main([*line, "--out", str(tmp_path), "--min-train", "4", "--plan"]) == 0
    planned = capsys.readouterr().out
    assert "3 values of speaker" in planned and "probing" in planned
    with pytest.raises(SystemExit):
        main([*line[:-3], "pear", "--base", str(base)])
    assert "Did you mean 'pair'" in capsys.readouterr().err
