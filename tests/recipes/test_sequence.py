"""Two languages, one after another, on synthetic voices: stacked packs, the matrix, the gate, a speaker withdrawn."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from tiny_model import lasr

from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.errors import CheckpointError, ConfigError, GateError
from allophone.evaluate.gate import Gate
from allophone.methods.masked_prediction import MaskedPrediction, MaskedPredictionConfig
from allophone.models.conversion import load_encoder, model_hash, save_encoder
from allophone.nn.codebook import Codebook
from allophone.recipes.apply_packs import apply_packs
from allophone.recipes.expand import expand
from allophone.recipes.ledger import LedgerConfig
from allophone.recipes.sequence import expand_in_sequence
from allophone.recipes.withdraw import withdraw
from allophone.run.execute import save_heads
from allophone.run.expansion_config import ExpandConfig
from allophone.run.pack import load_pack, load_packs, read_pack_info, read_stack
from allophone.run.starter import open_base
from allophone.units.fit import fit_codebook

VOICES = (("spa_Latn", "a"), ("bul_Cyrl", "b"), ("ell_Grek", "c"))
LEDGER = LedgerConfig(probe_steps=4, few=(None,), most_test_clips=8, min_labelled_clips=6)
CONFIG = ExpandConfig(
    steps=3, rank=2, batch_seconds=5.0, crop_seconds=1.5, fit_hours=0.01, units="anchored", new_units=2, head_steps=3
)


@pytest.fixture(scope="module")
def world(tmp_path_factory, speech):
    """A corpus of three languages, and a model with units and head of its own."""
    folder = tmp_path_factory.mktemp("sequence")
    rows = []
    (folder / "recordings" / "audio").mkdir(parents=True)
    for number, (language, speaker) in enumerate(VOICES):
        for index in range(18):
            name = f"{language}-{index}"
            path = folder / "recordings" / "audio" / f"{name}.wav"
            soundfile.write(path, speech(1.0 + 0.03 * index, seed=100 * number + index), 16_000)
            rows.append(
                {
                    "file_name": f"audio/{name}.wav",
                    "language": language,
                    "speaker": speaker,
                    "text": "abcdefghijklmnopqrstuvwxyz"[index : index + 5],
                    "split": "test" if index < 7 else "train",
                }
            )
    (folder / "recordings" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = Corpus.open(folder / "recordings")
    encoder = lasr().eval()
    model = save_encoder(encoder, folder / "base", "card")
    audio = {row.id: corpus.audio(row) for row in corpus.where(language="spa")}
    fit_codebook(lambda: audio.items(), "model", 8, seed=0, encoder=encoder, layer=1).save(model)
    save_heads(MaskedPrediction(encoder, MaskedPredictionConfig(num_units=8, projection_dim=8)), model)
    return corpus, model


@pytest.fixture(scope="module")
def sequence(world, tmp_path_factory):
    corpus, model = world
    out = tmp_path_factory.mktemp("runs")
    result = expand_in_sequence(
        model, corpus, languages=["bul", "ell"], keep=["spa"], out=out, config=CONFIG, ledger=LEDGER
    )
    assert result is not None
    return result


def test_the_matrix_has_every_language_after_every_addition(sequence) -> None:
    cells = json.loads((sequence.out / "matrix.json").read_text())
    masked = {(c["state"], c["language"]): c for c in cells if c["measure"] == "masked_loss_base_units"}
    states = ("as it was given", "+ bul_Cyrl", "+ ell_Grek")
    assert set(masked) == {(state, language) for state in states for language, _ in VOICES}
    assert all(cell["score"] is not None for cell in masked.values())
    assert masked["as it was given", "spa_Latn"]["relative_change"] is None
    assert masked["+ ell_Grek", "spa_Latn"]["relative_change"] is not None
    assert [masked[state, "ell_Grek"]["relation"] for state in states] == ["to come", "to come", "added"]
    assert any(cell["measure"] == "character_error_all" for cell in cells)
    page = sequence.report.read_text()
    assert page.count("data:image/svg+xml") >= 2 and "Greek" in page
    assert "http" not in page.replace("http-equiv", "") and "<script src" not in page


def test_a_model_is_a_base_with_units_and_head_and_old_ids(world, sequence) -> None:
    _, model = world
    first, second = (sequence.out / name / "model" for name in ("1-bul_Cyrl", "2-ell_Grek"))
    books = [Codebook.load(folder) for folder in (model, first, second)]
    assert [book.info.num_units for book in books] == [8, 10, 12]
    assert books[2].info.parent == books[1].hash and books[2].info.id_map.kept == 10
    base = open_base(second)[0]
    assert base.method() is not None and base.method().config.num_units == 12
    assert base.stack.packs == tuple(read_pack_info(pack).hash for pack in sequence.packs)
    assert base.stack.root == model_hash(load_encoder(model))


def test_packs_stack_in_their_order_and_refuse_another_model(world, sequence, tmp_path) -> None:
    _, model = world
    encoder = load_encoder(model)
    merged, stack = load_packs(encoder, sequence.packs)
    handed = load_encoder(sequence.model)
    for name, value in handed.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], value, atol=1e-6, rtol=0, msg=name)
    assert stack == read_stack(sequence.model, handed)
    with pytest.raises(CheckpointError, match=r"this pack belongs on model \w+ \+ pack \w+ .*Apply the packs"):
        load_pack(encoder, sequence.packs[1])
    with pytest.raises(CheckpointError, match="the model given is model"):
        load_pack(merged, sequence.packs[0])
    rounded = load_pack(encoder, sequence.packs[0])
    with torch.no_grad():  # as another machine may round it; the stack is the same all the same
        next(rounded[0].parameters()).mul_(1 + 1e-7)
    load_pack(rounded[0], sequence.packs[1], rounded[1])
    apply_packs(model, sequence.packs, out=tmp_path / "merged")
    again = open_base(tmp_path / "merged")[0]
    assert again.stack == stack and again.codebook.info.model_hash == model_hash(again.encoder)
    assert sum(path.stat().st_size for path in sequence.packs[1].iterdir()) < 20e6


def test_a_replaced_pack_or_model_is_noticed(world, sequence, tmp_path) -> None:
    pack = shutil.copytree(sequence.packs[0], tmp_path / "pack")
    shutil.copy(sequence.packs[1] / "adapter_model.safetensors", pack)
    with pytest.raises(CheckpointError, match=r"written for pack \w+, adapter_model.safetensors is"):
        read_pack_info(pack)
    with pytest.raises(CheckpointError, match="the weights beside it are"):
        read_stack(sequence.model, lasr())
    with pytest.raises(CheckpointError, match="format is 'allophone-model-1'"):
        read_pack_info(sequence.model)


def test_forgetting_is_taken_apart_for_kept_languages_and_written_down(sequence) -> None:
    rows = json.loads((sequence.out / "2-ell_Grek" / "result.json").read_text())["drift"]
    found = {(row["language"], row["measure"], row.get("row", row.get("part"))) for row in rows}
    for language in ("spa_Latn", "bul_Cyrl"):
        for row in ("chance", "filter bank", "random encoder", "before", "before, re-fitted", "after, old centroids"):
            assert (language, "found_again", row) in found
        assert {(language, "frame_probe", row) for row in ("before", "after", "chance")} <= found
        assert {(language, "found_again", part) for part in ("total", "drift", "loss", "clustering")} <= found
    by_row = {(row["measure"], row.get("row")): row["value"] for row in rows if row["language"] == "spa_Latn"}
    assert by_row["found_again", "before"] == 100
    assert "Forgetting taken apart" in (sequence.out / "2-ell_Grek" / "report.html").read_text()


def test_the_same_call_again_trains_and_measures_nothing(world, sequence) -> None:
    corpus, model = world
    times = {path: path.stat().st_mtime_ns for path in sequence.out.rglob("*.parquet")}
    again = expand_in_sequence(
        model, corpus, languages=["bul", "ell"], keep=["spa"], out=sequence.out, config=CONFIG, ledger=LEDGER
    )
    assert {path: path.stat().st_mtime_ns for path in sequence.out.rglob("*.parquet")} == times
    assert len(again.matrices) == len(sequence.matrices)
    with pytest.raises(CheckpointError, match="made from something else"):
        expand_in_sequence(
            model,
            corpus,
            languages=["bul"],
            keep=["spa"],
            out=sequence.out,
            config=replace(CONFIG, steps=4),
            ledger=LEDGER,
        )
    with pytest.raises(ConfigError, match="named twice in bul, bg"):
        expand_in_sequence(model, corpus, languages=["bul", "bg"], out=sequence.out)


def test_the_gate_keeps_everything_but_the_pack(world, sequence, tmp_path, monkeypatch) -> None:
    corpus, model = world
    run = shutil.copytree(sequence.out / "1-bul_Cyrl", tmp_path / "run")
    shutil.rmtree(run / "pack")
    monkeypatch.setattr("allophone.evaluate.gate.MIN_ITEMS", 99)  # then too few to say that anything was kept
    with pytest.raises(GateError, match=r"No pack was written to .*run: .* more than 5 % .*spa_Latn: nothing could be"):
        expand(
            model,
            corpus,
            language="bul",
            keep=["spa"],
            out=run,
            config=CONFIG,
            ledger=replace(LEDGER, drift=False),
            gate=Gate(most_loss=5.0),
        )
    assert not (run / "pack").exists() and (run / "model" / "model.safetensors").exists()
    assert "No language pack was written" in (run / "report.html").read_text()
    assert json.loads((run / "result.json").read_text())["language"] == "bul_Cyrl"


def test_a_finished_sequence_is_held_to_a_limit_that_comes_later(world, sequence, monkeypatch) -> None:
    corpus, model = world
    given = {"languages": ["bul", "ell"], "out": sequence.out, "config": CONFIG, "ledger": LEDGER}
    with pytest.raises(ConfigError, match="no language to keep"):
        expand_in_sequence(model, corpus, gate=Gate(most_loss=5.0), **given)
    with pytest.raises(ConfigError, match="no language to keep"):  # the new language is none
        expand(model, corpus, language="bul", keep=["bul"], out=sequence.out / "x", gate=Gate(most_loss=5.0))
    assert not (sequence.out / "x").exists()
    monkeypatch.setattr("allophone.evaluate.gate.MIN_ITEMS", 99)
    with pytest.raises(GateError, match=r"1-bul_Cyrl: .*spa_Latn: nothing could be"):
        expand_in_sequence(model, corpus, keep=["spa"], gate=Gate(most_loss=5.0), **given)


def test_a_speaker_is_found_in_what_heard_them_and_in_what_came_of_it(sequence, tmp_path, capsys) -> None:
    first, second = (Path(sequence.out / name) for name in ("1-bul_Cyrl", "2-ell_Grek"))
    later = withdraw("c", [sequence.out])
    assert {one.folder for one in later.affected} and all(one.folder.is_relative_to(second) for one in later.affected)
    assert not later.unknown and later.clean > 0
    found = {(one.folder, one.kind): one for one in withdraw("b", [sequence.out]).affected}
    assert found[first / "pack", "pack"].how == "directly"
    assert dict(found[first / "model", "model"].uses) == {"trained": 11}
    assert (second / "model", "model") in found
    assert withdraw("nobody", [sequence.out]).affected == ()
    assert main(["corpus", "withdraw", "c", "--runs", str(sequence.out)]) == 0
    said = capsys.readouterr().out
    assert str(second / "pack") in said and "trained on 11 recordings" in said and "made from Python" in said
