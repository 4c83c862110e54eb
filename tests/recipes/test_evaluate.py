"""Suites of one frozen encoder, and folders of two side by side, on synthetic voices and untrained encoders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from tiny_model import LASR

from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.errors import ConfigError, DataError
from allophone.evaluate.measurements import load_measurements, load_signature, save_measurements
from allophone.evaluate.sources import RememberingSource
from allophone.models.conversion import save_encoder
from allophone.models.lasr import Lasr
from allophone.recipes.compare import compare_folders
from allophone.recipes.evaluate import SUITES, evaluate, heard_hours, suite_config
from allophone.recipes.ledger import LedgerConfig, probed_languages
from allophone.recipes.voices import compared_pairs

WORDS = ["alpha bravo", "charlie delta", "echo fox", "golf hotel", "india jul", "kilo lima"]
CONFIG = LedgerConfig(
    probe_steps=4,
    few=(None,),
    most_test_clips=6,
    most_prompts=5,
    most_pairs=1,
    most_probed=1,
    min_labelled_clips=8,
    min_pair_prompts=4,
)


def write_corpus(folder: Path, speech) -> Corpus:
    """Two languages, each with one trained voice and a second that says six of its prompts; one has more clips."""
    rows = []
    (folder / "audio").mkdir(parents=True)
    voices = [("spa_Latn", "a", 20), ("bul_Cyrl", "b", 16), ("spa_Latn", "second a", 6), ("bul_Cyrl", "second b", 7)]
    for number, (language, speaker, clips) in enumerate(voices):
        for index in range(clips):
            name = f"audio/{number}-{index}.wav"
            soundfile.write(folder / name, speech(0.8 + 0.03 * index, seed=100 * number + index), 16_000)
            rows.append(
                {
                    "file_name": name,
                    "language": language,
                    "speaker": speaker,
                    "text": f"{WORDS[index % 6]} {'abcdefghijklmnopqrstuvwxyz'[index]}",
                    "group": f"{language} {index}",
                    "split": "test" if speaker.startswith("second") or index < 6 else "train",
                }
            )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = Corpus.open(folder).save(folder)
    phones = [
        {"phone": phone, "start_seconds": start, "end_seconds": start + 0.2}
        for phone, start in (("a", 0.0), ("b", 0.2), ("a", 0.4))
    ]
    table = pa.table({"id": [row.id for row in corpus.where(language="spa")][:12], "phones": [phones] * 12})
    pq.write_table(table, folder / "phones.parquet")
    return corpus


@pytest.fixture(scope="module")
def world(tmp_path_factory, speech):
    """A corpus, two untrained encoders, and the folders of their evaluations."""
    folder = tmp_path_factory.mktemp("world")
    corpus = write_corpus(folder / "recordings", speech)
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_encoder(Lasr(replace(LASR, num_mel_bins=80)), folder / f"model{seed}", "# untrained\n")
    outs = {f"model{seed}": folder / f"out{seed}" for seed in (0, 1)}
    results = {name: evaluate(folder / name, corpus, out=out, config=CONFIG) for name, out in outs.items()}
    return folder, corpus, outs, results


def test_every_score_has_its_controls(world) -> None:
    _, _, _, results = world
    cells = {(one.measure, one.language, one.system) for one in results["model0"].scores}
    for system in ("chance", "filter bank", "random encoder", "before"):
        assert ("character_error_all", "bul_Cyrl", system) not in cells
        assert ("character_error_all", "spa_Latn", system) in cells
        assert ("retrieval_dtw", "bul_Cyrl", system) in cells
        assert ("language_identification", "bul_Cyrl", system) in cells
        assert ("language_neighbors", "bul_Cyrl", system) in cells and ("language_gap", "spa_Latn", system) in cells
        assert ("unit_phones", "spa_Latn", system) in cells and ("unit_phones", "bul_Cyrl", system) not in cells
    summaries = json.loads((results["model0"].page.parent / "result.json").read_text())["summaries"]["0"]
    assert set(summaries["geometry"]) == {"filter bank", "random encoder", "before"}
    assert 0 < summaries["geometry"]["before"]["effective_rank"] <= 24
    assert 0 <= summaries["units"]["spa_Latn"]["before"]["pnmi"] <= 1
    assert ("retrieval_dtw", "spa_Latn", "before") not in cells  # the pair on which the layer was chosen


@pytest.mark.parametrize("processes", [1, 2])
def test_the_same_call_writes_the_same_bytes(world, tmp_path, monkeypatch, processes: int) -> None:
    folder, corpus, outs, _ = world
    monkeypatch.setattr("allophone.recipes.evaluate.LONG", 1)
    monkeypatch.setattr("allophone.run.aside.cpu_count", lambda: processes)
    evaluate(folder / "model0", corpus, out=tmp_path, config=CONFIG)
    for name in ("result.json", "measurements.parquet", "report.html", "scores.md"):
        assert (tmp_path / name).read_bytes() == (outs["model0"] / name).read_bytes()


def test_one_result_and_one_page_with_the_signature(world) -> None:
    _, corpus, outs, results = world
    result = json.loads((outs["model0"] / "result.json").read_text())
    signature = load_signature(outs["model0"] / "measurements.parquet")
    assert result["signature"]["data_hash"] == signature.data_hash == corpus.hash
    assert (
        result["suite"] == "custom"
        and signature.settings
        and signature.model_hash in results["model0"].page.read_text()
    )
    page = results["model0"].page.read_text()
    assert "default-src 'none'" in page and "http" not in page.split("</style>")[1]
    assert "this model" in page and "Spanish" in page and "head only" not in page and "One seed" in page
    assert result["warnings"][0].startswith("Fewer than 20 held-out items") and "bul_Cyrl" in result["warnings"][0]


def test_languages_are_told_from_what_was_heard_already(world, monkeypatch, tmp_path) -> None:
    """Where a language is probed, no utterance is extracted a second time for language identification."""
    folder, corpus, _, _ = world
    extracted: list[tuple[str, int]] = []
    original = RememberingSource.extract

    def counting(self, waveforms):
        extracted.extend((self.name, len(waveform)) for waveform in waveforms)
        return original(self, waveforms)

    monkeypatch.setattr(RememberingSource, "extract", counting)
    settings = replace(CONFIG, most_probed=None, most_pairs=None, min_pair_prompts=50, min_phone_clips=50)
    evaluate(folder / "model0", corpus, out=tmp_path, config=settings)
    probed = sum(len(corpus.where(split=split, speaker=v)) for split in ("train", "test") for v in ("a", "b"))
    assert len([one for one in extracted if one[0] == "before"]) == probed


def test_other_speakers_in_test_are_scored_as_well(world, tmp_path) -> None:
    """A corpus as `corpus split` makes it: test speakers are others than those of training."""
    folder, corpus, _, _ = world
    rows = [
        replace(row, speaker=f"{row.speaker} {row.split}", group=None if row.split is None else row.id)
        for row in corpus
        if not str(row.speaker).startswith("second")
    ]
    apart = corpus.with_utterances(tuple(rows))
    result = evaluate(folder / "model0", apart, out=tmp_path, config=replace(CONFIG, most_probed=None))
    items = {(one.measure, one.language, one.system): len(one.items) for one in result.measurements}
    for language in ("spa_Latn", "bul_Cyrl"):
        for system in ("chance", "before"):
            assert items["character_error_all", language, system] == 6
            assert items["language_identification", language, system] == 3
    assert not [key for key in items if key[0].startswith("retrieval")]


def test_a_corpus_of_which_nothing_can_be_scored_is_refused_at_once(world, tmp_path, monkeypatch) -> None:
    folder, corpus, _, _ = world
    monkeypatch.setattr("allophone.recipes.evaluate.open_base", lambda model: pytest.fail("the model was read"))
    whole = corpus.where(language="bul").with_utterances(
        tuple(replace(row, split=None) for row in corpus.where(language="bul"))
    )
    with pytest.raises(DataError, match=r"nothing can be scored; .* utterances: 23 of no split. Expected"):
        evaluate(folder / "model0", whole, out=tmp_path / "out", config=CONFIG)
    assert not (tmp_path / "out").exists()


def test_a_language_without_a_score_is_named(world, tmp_path) -> None:
    folder, corpus, _, _ = world
    rows = [*corpus, *(replace(row, language="ita_Latn", id=f"it {row.id}", split=None) for row in list(corpus)[:3])]
    settings = replace(CONFIG, most_probed=0, most_pairs=0, min_phone_clips=50)
    evaluate(folder / "model0", corpus.with_utterances(tuple(rows)), out=tmp_path, config=settings)
    warnings = json.loads((tmp_path / "result.json").read_text())["warnings"]
    assert warnings[0].startswith("Not scored") and warnings[0].endswith("ita_Latn.")


def test_suites_choose_how_much(world) -> None:
    _, corpus, _, _ = world
    corpora = {tag: corpus.where(language=tag) for tag in corpus.languages}
    pairs, choosing = compared_pairs(corpora, CONFIG)
    assert list(pairs) == ["bul_Cyrl"] and sorted(choosing) == ["bul_Cyrl", "spa_Latn"]
    assert all(len(side) == 5 for side in pairs["bul_Cyrl"])
    assert [row.group for row in pairs["bul_Cyrl"][0]] == [row.group for row in pairs["bul_Cyrl"][1]]
    assert list(probed_languages(corpora, CONFIG)) == ["spa_Latn"]
    everything = replace(CONFIG, most_pairs=None, most_prompts=None, most_probed=None)
    assert (
        sorted(compared_pairs(corpora, everything)[0]) == sorted(probed_languages(corpora, everything)) == list(corpora)
    )
    assert 0 < heard_hours(corpus, CONFIG) < heard_hours(corpus, everything) <= sum(corpus.hours().values())
    assert SUITES["quick"].probe_steps == 300 and suite_config("full") == LedgerConfig()
    with pytest.raises(ConfigError, match=r"Unknown suite 'quik'\. Did you mean 'quick'"):
        suite_config("quik")


def test_folders_are_compared(world, capsys, tmp_path) -> None:
    _, _, outs, _ = world
    found = compare_folders(list(outs.values()))
    assert {(one.first, one.second) for one in found.differences} == {("out0", "out1")}
    assert main(["compare", *map(str, outs.values()), "--out", str(tmp_path / "table.md")]) == 0
    printed = capsys.readouterr().out
    assert "comparisons are real" in printed and "| filter bank |" in printed
    assert (tmp_path / "table.md").read_text() == found.markdown()
    assert main(["compare", *map(str, outs.values()), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["differences"]) == len(found.differences)


def test_folders_that_cannot_be_compared_are_refused(world, tmp_path) -> None:
    _, _, outs, _ = world
    with pytest.raises(DataError, match=r"no measurements.parquet, so no evaluation"):
        compare_folders([outs["model0"], tmp_path])
    old = tmp_path / "old"
    old.mkdir()
    save_measurements(load_measurements(outs["model1"] / "measurements.parquet"), old / "measurements.parquet")
    with pytest.raises(DataError, match="holds no signature"):
        compare_folders([outs["model0"], old])
    with pytest.raises(DataError, match="expected at least two"):
        compare_folders([outs["model0"]])
