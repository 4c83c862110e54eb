"""The whole way on synthetic voices: pretrain two iterations, add a language, score, resume; small enough for CI."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from allophone.data.corpus import Corpus
from allophone.errors import ConfigError, DataError
from allophone.evaluate.measurements import load_measurements
from allophone.models.conversion import load_encoder, model_hash
from allophone.models.speech_encoder import SpeechEncoder
from allophone.nn.codebook import Codebook
from allophone.recipes import handing_over
from allophone.recipes import pretrain as pretrain_module
from allophone.recipes.evaluate import evaluate
from allophone.recipes.expand import expand
from allophone.recipes.ledger import LedgerConfig
from allophone.recipes.pretrain import pretrain, starter
from allophone.run.aside import aside
from allophone.run.expansion import expand_encoder
from allophone.run.expansion_config import ExpandConfig
from allophone.run.starter import open_base

WORDS = ["alpha bravo", "charlie delta", "echo fox", "golf hotel", "india jul", "kilo lima", "mike nov", "oscar papa"]
LEDGER = LedgerConfig(probe_steps=10, few=(None,), most_test_clips=8, min_pair_prompts=4, min_labelled_clips=10)


def write_corpus(folder: Path, speech) -> Corpus:
    """Two languages with one voice, and for one of them a second voice with the same prompts, kept for testing."""
    rows = []
    for number, (language, speaker) in enumerate([("spa_Latn", "a"), ("bul_Cyrl", "b"), ("spa_Latn", "second")]):
        for index in range(24 if speaker != "second" else 12):
            name = f"{language}-{speaker}-{index}"
            (folder / "audio").mkdir(parents=True, exist_ok=True)
            soundfile.write(
                folder / "audio" / f"{name}.wav", speech(1.2 + 0.05 * index, seed=100 * number + index), 16_000
            )
            split = "test" if speaker == "second" or index < 8 else "train"
            rows.append(
                {
                    "file_name": f"audio/{name}.wav",
                    "language": language,
                    "speaker": speaker,
                    "text": f"{WORDS[index % 8]} {'abcdefghijklmnopqrstuvwxyz'[index]}",
                    "group": f"prompt-{index}",
                    "split": split,
                    "source": speaker,
                }
            )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Corpus.open(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory, speech):
    """A corpus and an encoder pretrained on its Spanish."""
    folder = tmp_path_factory.mktemp("world")
    corpus = write_corpus(folder / "recordings", speech)
    assert {row.group for row in corpus} and {row.split for row in corpus} == {"train", "test"}

    def tiny(seed: int = 0):
        def shrink(config):
            encoder = replace(
                config.encoder, hidden_size=32, num_hidden_layers=2, intermediate_size=32, num_attention_heads=2
            )
            targets = replace(
                config.targets, num_units=12, fit_hours=0.01, layer=None if config.targets.layer is None else 1
            )
            train = replace(config.train, log_every=2, save_every=4, tensorboard=False)
            data = replace(config.data, batch_seconds=6.0, collate=replace(config.data.collate, crop_seconds=2.0))
            return replace(config, encoder=encoder, targets=targets, train=train, data=data, projection_dim=16)

        return tuple(shrink(config) for config in starter(seed))

    patch = pytest.MonkeyPatch()
    patch.setitem(pretrain_module.RECIPES, "starter", tiny)
    patch.setattr(handing_over, "HEAD_STEPS", 10)
    out = folder / "pretrain"
    result = pretrain(corpus.where(language="spa", speaker="a"), out=out, steps=(8, 8))
    again = pretrain(corpus.where(language="spa", speaker="a"), out=out, steps=(8, 8))
    patch.undo()
    assert result.finished and again.model == result.model
    return corpus, result.model, out


def test_pretraining_leaves_a_model_with_its_own_units(world) -> None:
    corpus, model, out = world
    encoder = SpeechEncoder.load(model)
    assert encoder.codebook is not None and encoder.codebook.info.model_hash == encoder.model_hash
    waveform = corpus.audio(corpus.utterances[0])
    assert len(encoder.units(waveform)) == encoder.encoder.clock.count(len(waveform))
    first, second = Codebook.load(out / "iteration-1" / "targets"), Codebook.load(out / "iteration-2" / "targets")
    assert (first.info.front_end, second.info.front_end) == ("mfcc39", "model")
    assert second.info.model_hash == model_hash(load_encoder(out / "iteration-1" / "model"))
    assert not list(out.rglob("*.npy"))


@pytest.fixture(scope="module")
def expanded(world, tmp_path_factory):
    corpus, model, _ = world
    out = tmp_path_factory.mktemp("expand")
    config = ExpandConfig(steps=6, rank=2, batch_seconds=6.0, crop_seconds=2.0, fit_hours=0.02, head_steps=4)
    result = expand(model, corpus, language="bg", keep=["es"], out=out, config=config, ledger=LEDGER)
    return result, config, out


def test_expansion_leaves_pack_model_ledger_and_page(world, expanded) -> None:
    _, model, _ = world
    result, _, out = expanded
    assert result is not None
    found = {(one.measure, one.language, one.system) for one in load_measurements(out / "measurements.parquet")}
    for system in ("chance", "filter bank", "random encoder", "before", "after"):
        assert ("character_error_all", "bul_Cyrl", system) in found
        assert ("retrieval_dtw", "spa_Latn", system) in found
        assert ("language_identification", "bul_Cyrl", system) in found
    for system in ("chance", "head only", "after"):
        assert ("masked_loss_own_units", "spa_Latn", system) in found
    assert "Bulgarian added to" in result.summary and str(result.pack) in result.summary
    page = result.report.read_text()
    assert "Bulgarian" in page and "http" not in page.split("</style>")[0].replace("http-equiv", "")
    summary = json.loads((out / "result.json").read_text())
    assert summary["language"] == "bul_Cyrl" and summary["changes"]
    assert {"adapter_config.json", "adapter_model.safetensors", "codebook.json"} <= {
        p.name for p in result.pack.iterdir()
    }
    assert model_hash(load_encoder(result.model)) != model_hash(load_encoder(model))
    assert Codebook.load(result.model).info.model_hash == model_hash(load_encoder(result.model))


def test_the_same_call_again_trains_nothing_and_finds_the_same(world, expanded) -> None:
    corpus, model, _ = world
    result, config, out = expanded
    before = (out / "pack" / "adapter_model.safetensors").read_bytes()
    again = expand(model, corpus, language="bul", keep=["spa"], out=out, config=config, ledger=LEDGER)
    assert (out / "pack" / "adapter_model.safetensors").read_bytes() == before
    for first, second in zip(result.measurements, again.measurements, strict=True):
        assert (first.measure, first.system, first.items) == (second.measure, second.system, second.items)
        torch.testing.assert_close(
            torch.tensor(first.numerators), torch.tensor(second.numerators), rtol=1e-4, atol=1e-4
        )


def test_targets_may_be_the_codebook_that_the_base_has(world, tmp_path) -> None:
    corpus, model, _ = world
    base, _ = open_base(model)
    settings = {"rank": 2, "batch_seconds": 6.0, "crop_seconds": 2.0, "fit_hours": 0.02, "learning_rate": 1e-9}
    config = ExpandConfig(steps=2, targets="codebook", **settings)
    new, kept = corpus.where(language="bul"), corpus.where(language="spa", speaker="a")
    result = expand_encoder(base, new, kept, config, tmp_path)
    assert result is not None and result.codebook.hash == base.codebook.hash
    for method in (result.expansion.method, result.control):  # where training begins, and hardly moves from
        torch.testing.assert_close(method.label_embeddings, base.heads["label_embeddings"], rtol=0, atol=1e-5)
    assert not torch.allclose(result.random.label_embeddings, base.heads["label_embeddings"], atol=1e-2)
    with pytest.raises(ConfigError, match="cannot be chosen"):
        ExpandConfig(targets="codebook", num_units=7)
    with pytest.raises(ConfigError, match="this base has none"):
        expand_encoder(replace(base, heads=None), new, kept, config, tmp_path / "other")


def test_a_second_process_changes_no_number(world, tmp_path, monkeypatch) -> None:
    corpus, model, _ = world
    base, _ = open_base(model)
    settings = {"rank": 2, "batch_seconds": 6.0, "crop_seconds": 2.0, "fit_hours": 0.02}
    new, kept = corpus.where(language="bul"), corpus.where(language="spa", speaker="a")
    found = []
    for cores in (1, 2):
        monkeypatch.setattr("allophone.run.aside.cpu_count", lambda cores=cores: cores)
        config, folder = ExpandConfig(steps=3, **settings), tmp_path / f"{cores} cores"
        with aside(True) as begin:
            result = expand_encoder(base, new, kept, config, folder, begin=begin)
        assert result is not None and set(result.results) == {"lora", "control", "random"}
        found.append([*result.control.state_dict().values(), *result.random.state_dict().values()])
    assert all(torch.equal(in_turn, beside) for in_turn, beside in zip(*found, strict=True))


def test_test_speakers_may_be_others_than_those_of_training(world, tmp_path) -> None:
    """As `corpus split` makes it: no speaker in two splits."""
    corpus, model, _ = world
    rows = [replace(row, speaker=f"{row.speaker} {row.split}") for row in corpus if row.speaker != "second"]
    config = ExpandConfig(steps=3, rank=2, batch_seconds=6.0, crop_seconds=2.0, fit_hours=0.02, head_steps=0)
    apart = corpus.with_utterances(tuple(rows))
    result = expand(model, apart, language="bg", keep=["es"], out=tmp_path, config=config, ledger=LEDGER)
    assert result is not None
    items = {(one.measure, one.language, one.system): len(one.items) for one in result.measurements}
    for language in ("bul_Cyrl", "spa_Latn"):
        assert items["masked_loss_own_units", language, "after"] == 8
        assert items["character_error_all", language, "after"] == 8
        assert items["language_identification", language, "chance"] == 4


def test_a_plain_folder_without_texts_is_enough(world, tmp_path, speech) -> None:
    _, model, _ = world
    for index in range(12):
        soundfile.write(tmp_path / f"take{index}.wav", speech(1.5, seed=index), 16_000)
    config = ExpandConfig(
        steps=3,
        rank=2,
        batch_seconds=6.0,
        crop_seconds=2.0,
        fit_hours=0.02,
        head_steps=0,
        targets="mfcc39",
        iterations=2,
    )
    result = expand(model, tmp_path, language="quy", out=tmp_path / "run", config=config, ledger=LEDGER)
    assert result is not None and "no texts" in result.report.read_text()


def test_refusals_name_the_language(world, tmp_path) -> None:
    corpus, model, _ = world
    with pytest.raises(DataError, match="No utterance is in the new language"):
        expand(model, corpus, language="swa", out=tmp_path)
    with pytest.raises(DataError, match="no utterance in swa; it has bul_Cyrl, spa_Latn"):
        evaluate(model, corpus, out=tmp_path, languages=["swa"])


def test_evaluation_of_a_frozen_encoder(world, tmp_path) -> None:
    corpus, model, _ = world
    result = evaluate(model, corpus, out=tmp_path, config=LEDGER)
    cells = {(one.measure, one.language, one.system) for one in result.scores}
    assert ("retrieval_posteriors", "spa_Latn", "before") in cells
    assert ("character_error_all", "bul_Cyrl", "chance") in cells
    assert not any(system == "after" for _, _, system in cells)
    assert "spa_Latn" in result.tables.read_text() or "Spanish" in result.tables.read_text()
