"""From recordings to a vocoder and back to speech, on synthetic voices and a tiny encoder."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from tiny_model import lasr
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2CodeHifiGan

from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.errors import CheckpointError, ConfigError, DataError
from allophone.evaluate.result import load_results
from allophone.evaluate.spoken import Judges
from allophone.frames import FrameClock
from allophone.methods.unit_vocoding import UnitVocodingConfig
from allophone.models.conversion import load_encoder, model_hash, save_encoder
from allophone.models.mos_predictor import FORMAT, INFO_FILE, WEIGHTS_FILE, MosPredictor
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig, save_speech_embedder
from allophone.models.vocoder_conversion import Voices, load_vocoder, vocoder_hash
from allophone.nn.codebook import Codebook
from allophone.recipes import vocoder as recipes
from allophone.recipes.resynthesis_score import (
    AGAINST_RECORDINGS,
    MADE,
    ORIGINAL,
    SHUFFLED,
    HeardBy,
    open_judges,
    score_vocoder,
)
from allophone.recipes.resynthesize import resynthesize
from allophone.recipes.vocoder import RECIPES, plan_training, small, standard, train_vocoder
from allophone.run.speaking import Speech, speak
from allophone.run.vocoder import held_out
from allophone.units.encode import Units, encode
from allophone.units.fit import fit
from allophone.units.recluster import frozen, recluster

CLOCK = FrameClock(hop=640, receptive_field=880)
ONE = Voices(codebook_hash="x", speakers=("ann",), languages=("spa_Latn",))
SEVERAL = Voices(codebook_hash="x", speakers=("ann", "bo"), languages=("spa_Latn", "dan_Latn"))


def tiny(clock: FrameClock, num_units: int, voices: Voices, seed: int = 0):
    config = small(clock, num_units, voices, seed)
    return replace(
        config,
        vocoder=replace(config.vocoder, unit_dim=16, channels=32),
        method=replace(config.method, discriminators=replace(config.method.discriminators, periods=(2, 3))),
        data=replace(config.data, batch_seconds=2 * config.data.collate.crop_seconds),
        train=replace(config.train, log_every=2, save_every=2, tensorboard=False),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory, speech):
    """Recordings of two voices, an encoder with a codebook, units of all, and a vocoder trained for six steps."""
    folder = tmp_path_factory.mktemp("vocoder")
    rows = []
    for index in range(12):
        name = f"{'ann' if index % 3 else 'bo'}-{index}"
        (folder / "recordings").mkdir(exist_ok=True)
        soundfile.write(folder / f"recordings/{name}.wav", speech(1.0 + 0.1 * index, seed=index), 16_000)
        row = {
            "file_name": f"{name}.wav",
            "language": "spa_Latn",
            "speaker": name.split("-")[0],
            "text": f"Uno {index}",
        }
        rows.append(row | {"split": "dev" if index in (3, 4, 5) else "train"})
    (folder / "recordings/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = Corpus.open(folder / "recordings")
    save_encoder(lasr(), folder / "encoder", "card")
    fit(corpus, model=folder / "encoder", layer=1, num_units=6, seed=0).save(folder / "encoder")
    encode(corpus, folder / "encoder", model=folder / "encoder", out=folder / "units.parquet")
    patch = pytest.MonkeyPatch()
    patch.setitem(recipes.RECIPES, "small", tiny)
    trained = train_vocoder(corpus, out=folder / "run", model=folder / "encoder", steps=6)
    yield folder, corpus, trained
    patch.undo()


def test_training_leaves_a_vocoder_that_transformers_opens_and_scores(world) -> None:
    folder, corpus, trained = world
    assert trained.finished
    _, info = SeamlessM4Tv2CodeHifiGan.from_pretrained(trained.folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    names = [result.name for result in trained.results]
    assert names == [
        *("mel distance, untrained", "same units, untrained", "mel distance, shuffled units"),
        *("same units, shuffled units", "mel distance, trained", "same units, trained", "same units, chance"),
    ]
    assert {result.n for result in trained.results} == {3}
    journal = (folder / "run/metrics.jsonl").read_text()
    for name in ("loss_mel", "loss_duration", "loss_discriminators", "loss_adversarial", "loss_features"):
        assert name in journal
    units = folder / "run/targets/units.parquet"
    whole = units.read_bytes()
    units.write_bytes(whole[:50])
    again = train_vocoder(corpus, out=folder / "run", model=folder / "encoder", steps=6)
    assert units.read_bytes() == whole
    assert vocoder_hash(load_vocoder(again.folder)) == vocoder_hash(load_vocoder(trained.folder))
    with pytest.raises(CheckpointError, match=r"made from something else.*steps"):
        train_vocoder(corpus, out=folder / "run", model=folder / "encoder", steps=8)


def test_recordings_and_units_become_speech(world, tmp_path) -> None:
    folder, corpus, trained = world
    files = [folder / "recordings/ann-4.wav", folder / "recordings/bo-3.wav"]
    model = folder / "encoder"
    made = resynthesize(trained.folder, tmp_path / "speech", audio=files, model=model, speaker="bo")
    assert [file.name for file in made] == ["ann-4.wav", "bo-3.wav"]
    for before, after in zip(files, made, strict=True):
        old, new = soundfile.info(before), soundfile.info(after)
        assert new.samplerate == 16_000 and 0 <= old.frames - new.frames < 640
    other = resynthesize(trained.folder, tmp_path / "one.wav", audio=files[:1], model=model, speaker="ann")
    assert soundfile.info(other[0]).frames == soundfile.info(made[0]).frames
    units = folder / "units.parquet"
    name = next(row.id for row in corpus if "ann-4" in row.id)
    (spoken,) = resynthesize(
        trained.folder, tmp_path / "u", units=units, ids=[name], speaker="bo", durations="predicted"
    )
    assert soundfile.info(spoken).frames % 640 == 240
    assert len(resynthesize(trained.folder, tmp_path / "all", units=units)) == len(corpus)


def test_a_vocoder_reads_units_that_were_anchored_to_its_own(world, tmp_path) -> None:
    folder, corpus, trained = world
    book, encoder = Codebook.load(folder / "encoder"), load_encoder(folder / "encoder")
    audio = [(row.id, corpus.audio(row)) for row in corpus]
    anchored = recluster(
        lambda: iter(audio), book, encoder=encoder, parent_encoder=encoder, new_units=2, seed=0, iterations=2
    )
    anchored.save(tmp_path / "anchored")
    speech = Speech.load(trained.folder)
    grown = anchored.info.id_map.grown_from
    assert speech.ids(anchored).tolist() == [0, 1, 2, 3, 4, 5, *grown] and max(grown) < 6
    assert speech.ids(book).tolist() == list(range(6))
    twice = recluster(
        lambda: iter(audio), anchored, encoder=encoder, parent_encoder=encoder, new_units=2, seed=1, iterations=2
    )
    twice.save(tmp_path / "twice")
    names = Codebook.load(tmp_path / "twice").info.id_map.called  # of the parent's eight units, by whose names again
    assert speech.ids(Codebook.load(tmp_path / "twice")).tolist() == [[0, 1, 2, 3, 4, 5, *grown][one] for one in names]
    assert len(names) == 10
    with pytest.raises(DataError, match="speaks units of codebook"):
        speech.ids(recluster(lambda: iter(audio), frozen(book, encoder), encoder=encoder, parent_encoder=encoder,
                             new_units=1, seed=0, iterations=1))  # fmt: skip
    file, given = folder / "recordings/ann-4.wav", {"model": folder / "encoder", "codebook": tmp_path / "anchored"}
    (made,) = resynthesize(trained.folder, tmp_path / "a.wav", audio=[file], **given)
    units, only = tmp_path / "units.parquet", tuple(row for row in corpus if "ann-4" in row.id)
    encode(corpus.with_utterances(only), anchored, model=folder / "encoder", out=units)
    (again,) = resynthesize(trained.folder, tmp_path / "b.wav", units=units, codebook=tmp_path / "anchored")
    assert made.read_bytes() == again.read_bytes()
    with pytest.raises(DataError, match=r"anchored to that .*with --units name it by --codebook"):
        resynthesize(trained.folder, tmp_path / "c.wav", units=units)
    heard = score_vocoder(trained.folder, corpus, tmp_path / "score", heard_by=listeners("dos"), **given)
    assert heard.rows[MADE]


def test_refusals(world, tmp_path) -> None:
    folder, corpus, trained = world
    file, model = folder / "recordings/ann-4.wav", folder / "encoder"
    with pytest.raises(ConfigError, match="either recordings and the model"):
        resynthesize(trained.folder, tmp_path, audio=[file])
    with pytest.raises(ConfigError, match="is one file, but there are 12 clips"):
        resynthesize(trained.folder, tmp_path / "a.wav", units=folder / "units.parquet")
    with pytest.raises(DataError, match="hold no utterance 'nobody'"):
        resynthesize(trained.folder, tmp_path, units=folder / "units.parquet", ids=["nobody"])
    fit(corpus, model=model, layer=1, num_units=5, seed=1).save(tmp_path / "codebook")
    with pytest.raises(DataError, match=r"speaks units of codebook .* train a vocoder"):
        resynthesize(trained.folder, tmp_path, audio=[file], model=model, codebook=tmp_path / "codebook")
    with pytest.raises(ConfigError, match="either a model"):
        train_vocoder(corpus, out=tmp_path)
    with pytest.raises(ConfigError, match=r"Unknown vocoder recipe 'smal'\. Did you mean 'small'"):
        train_vocoder(corpus, out=tmp_path, model=model, recipe="smal")


def test_pitch_and_a_units_file(world, tmp_path) -> None:
    folder, corpus, _ = world
    trained = train_vocoder(corpus, out=tmp_path / "run", units=folder / "units.parquet", pitch=True, steps=2)
    assert load_vocoder(trained.folder).config.pitch
    assert [result.unit for result in trained.results[:3]] == ["nats"] * 3  # nobody listened
    made = resynthesize(
        trained.folder, tmp_path / "a.wav", audio=[folder / "recordings/ann-4.wav"], model=folder / "encoder"
    )
    assert made[0].exists()
    with pytest.raises(DataError, match="follows the melody of a recording"):
        resynthesize(trained.folder, tmp_path / "speech", units=folder / "units.parquet")


def test_the_verbs(world, tmp_path, capsys) -> None:
    folder, _, _ = world
    run, out = tmp_path / "run", tmp_path / "again.wav"
    given = ["--model", str(folder / "encoder")]
    train = ["vocoder", "train", "--corpus", str(folder / "recordings"), "--steps", "2", "--out", str(run)]
    assert main([*train, *given, "--plan"]) == 0 and not run.exists()
    planned = capsys.readouterr().out
    assert "units" in planned and "2 steps of 2 x 0.66 s" in planned
    assert main([*train, *given]) == 0
    assert "mel distance, trained" in capsys.readouterr().out
    audio = str(folder / "recordings/bo-3.wav")
    assert main(["resynthesize", "--vocoder", str(run / "model"), "--audio", audio, *given, "--out", str(out)]) == 0
    assert f"wrote {out}" in capsys.readouterr().out and out.exists()


def test_a_plan_counts_units_and_steps_and_writes_nothing(world, monkeypatch) -> None:
    folder, corpus, _ = world
    monkeypatch.setattr("allophone.run.vocoder_plan.timed", lambda work, repeats=3: work() or 1.0)
    plan = plan_training(corpus, model=folder / "encoder", steps=7)
    assert [stage.name for stage in plan.stages] == ["units", "vocoder and discriminators"]
    assert plan.stages[0].seconds == pytest.approx(sum(corpus.hours().values()) * 360)  # ten seconds of audio a second
    assert plan.stages[1].seconds == 7
    assert [stage.name for stage in plan_training(corpus, units=folder / "units.parquet").stages] == [
        "vocoder and discriminators"
    ]
    with pytest.raises(ConfigError, match="either a model"):
        plan_training(corpus)


def listeners(vocoder_hears: str) -> HeardBy:
    """A recognizer that understands the recordings, and writes one thing of what is whole frames long."""

    def transcribe(language: str):
        assert language == "spa_Latn"
        return lambda waves: [vocoder_hears if len(wave) % 640 == 240 else "uno" for wave in waves]

    return HeardBy(judges=Judges(transcribe=transcribe, predict_mos=lambda wave: 3.0), settings="transcriber fake 0")


def test_a_vocoder_is_judged_beside_recordings_and_shuffled_units(world, tmp_path, capsys, monkeypatch) -> None:
    folder, corpus, trained = world
    given = {"model": folder / "encoder", "heard_by": listeners("dos"), "clips": 2}
    found = score_vocoder(trained.folder, corpus, tmp_path / "score", **given)
    rows = {system: {one.name: one for one in row} for system, row in found.rows.items()}
    assert list(rows) == [ORIGINAL, MADE, SHUFFLED]
    assert rows[ORIGINAL]["word error"].value == 50 and rows[MADE]["word error"].value == 100
    assert not set(AGAINST_RECORDINGS) & set(rows[ORIGINAL]) and "voicing error" in rows[MADE]
    assert rows[MADE]["character error"].signature.settings == "transcriber fake 0"
    assert rows[MADE]["character error"].n == 2
    table = found.transcripts.read_text().splitlines()
    assert table[0].split("\t")[2:] == ["text", ORIGINAL, MADE, SHUFFLED] and len(table) == 3
    assert table[1].split("\t")[3:] == ["uno", "dos", "dos"]
    assert len(load_results(tmp_path / "score/result.json")) == sum(map(len, rows.values()))
    with pytest.raises(ConfigError, match="0 clips"):
        score_vocoder(trained.folder, corpus, tmp_path / "none", **{**given, "clips": 0})
    with pytest.raises(SystemExit):
        main(["vocoder", "score", "--vocoder", "x", "--corpus", "y", "--transcriber", "z"])
    assert "--model" in capsys.readouterr().err
    with pytest.raises(DataError, match="No held-out clip with a text"):
        mute = corpus.with_utterances(tuple(replace(row, text=None) for row in corpus))
        score_vocoder(trained.folder, mute, tmp_path / "mute", **given)
    monkeypatch.setattr("allophone.recipes.resynthesis_score.open_judges", lambda *named: listeners("dos"))
    words = ["--vocoder", str(trained.folder), "--corpus", str(folder / "recordings"), "--transcriber", "x"]
    model = ["--model", str(folder / "encoder"), "--out", str(tmp_path / "cli"), "--clips", "2"]
    assert main(["vocoder", "score", *words, *model]) == 0
    assert "| made of units |" in capsys.readouterr().out


def test_the_clips_that_are_judged_are_drawn_from_all_languages(world) -> None:
    _, corpus, _ = world
    row = next(row for row in corpus if row.split == "dev")
    rows = [
        replace(row, id=f"{language}-{number}", language=language)
        for language in ("spa_Latn", "dan_Latn")
        for number in range(50)
    ]
    units = Units({one.id: np.zeros(3, np.uint16) for one in rows}, "x", CLOCK, 6)
    chosen = held_out(corpus.with_utterances(tuple(rows)), units, replace(SEVERAL, speakers=(row.speaker,)), 0, most=10)
    assert len(chosen) == 10 and {one.language for one in chosen} == {"spa_Latn", "dan_Latn"}
    assert [one.id for one in chosen] == [one.id for one in rows if one in chosen]


def test_judges_are_named_by_their_weights(tmp_path, monkeypatch) -> None:
    torch.manual_seed(0)
    predictor = MosPredictor()
    save_file(predictor.state_dict(), tmp_path / WEIGHTS_FILE)
    (tmp_path / INFO_FILE).write_text(json.dumps({"format": FORMAT, "model_hash": model_hash(predictor)}))
    embedder = SpeechEmbedder(lasr(), SpeechEmbedderConfig(dim=8))
    save_speech_embedder(embedder, tmp_path / "voices", "card")
    monkeypatch.setattr("allophone.recipes.resynthesis_score.transcriber_hash", lambda name: "0123")
    heard_by = open_judges("some/whisper", tmp_path, tmp_path / "voices")
    assert heard_by.settings.startswith(f"transcriber whisper 0123, mos {model_hash(predictor)}, voices ")
    assert heard_by.judges.embed is not None
    assert heard_by.judges.embed([torch.randn(16_000)]).shape == (1, 8)
    assert open_judges("some/whisper").judges.predict_mos is None


def test_long_units_are_spoken_in_pieces_without_a_seam(world, monkeypatch) -> None:
    _, _, trained = world
    vocoder = load_vocoder(trained.folder)
    with torch.no_grad():
        for parameter in vocoder.hifi_gan.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    units = torch.randint(6, (60,))
    whole = speak(vocoder, units, CLOCK, speaker=1)
    monkeypatch.setattr("allophone.run.speaking.PIECE_UNITS", 7)
    torch.testing.assert_close(speak(vocoder, units, CLOCK, speaker=1), whole, atol=1e-5, rtol=0)
    assert len(whole) == CLOCK.samples(60) and vocoder.config.context < 20


def test_recipes_fit_the_voices_and_the_published_sizes() -> None:
    one, several = small(CLOCK, 256, ONE), small(CLOCK, 256, SEVERAL)
    assert (one.vocoder.speaker_dim, one.vocoder.language_dim) == (0, 0)
    assert (several.vocoder.num_speakers, several.vocoder.speaker_dim, several.vocoder.language_dim) == (2, 64, 16)
    published = standard(FrameClock(hop=320, receptive_field=400), 100, SEVERAL)
    assert published.vocoder.input_dim == 3 * 128 and published.method == UnitVocodingConfig()
    frames = FrameClock(hop=320, receptive_field=400).count(round(published.data.collate.crop_seconds * 16_000))
    assert frames * 320 == 8_960
    assert set(RECIPES) == {"small", "standard"}
