"""From a corpus of made-up words to towers, an index and answers, by the verbs that a user types."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_corpus import LANGUAGES, all_in_training, corpus
from tiny_model import LASR
from tiny_text import text_encoder

from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.errors import ConfigError
from allophone.models.aligned import load_aligned
from allophone.models.conversion import save_encoder
from allophone.models.lasr import Lasr
from allophone.recipes import align_scores
from allophone.recipes.align import AUDIO_AUGMENTATION, augmented, small
from allophone.run import alignment
from allophone.run.alignment import execute_alignment


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``corpus/``, ``encoder/`` and, made by the verb, ``align/``."""
    folder = tmp_path_factory.mktemp("align")
    (folder / "corpus").mkdir()
    corpus(folder / "corpus")
    torch.manual_seed(0)
    save_encoder(Lasr(LASR), folder / "encoder", "# tiny\n")
    assert main(command(folder)) == 0
    return folder


def command(folder: Path) -> list[str]:
    words = f"align --corpus {folder}/corpus --model {folder}/encoder --out {folder}/align --steps 6 --seed 1"
    return words.split()


def test_scores_stand_beside_what_they_are_compared_with(run: Path) -> None:
    result = json.loads((run / "align" / "result.json").read_text())
    assert list(result["rows"]) == [
        "chance",
        "random encoder",
        "filter bank, ridge to the texts",
        "encoder before, ridge to the texts",
        "aligned",
    ]
    assert result["pool"] == {"recordings": 20, "texts": 20, "spoken": list(LANGUAGES)}
    for name, scores in result["rows"].items():
        overall = {one["name"] for one in scores if ", " not in one["name"]}
        assert len(overall) == 15, name
        assert all(0 <= one["low"] <= one["value"] <= one["high"] <= 100 for one in scores)
    chance = {one["name"]: one["value"] for one in result["rows"]["chance"]}
    assert chance["speech to speech: R@1"] == pytest.approx(100 / 19)
    random = {one["name"]: one for one in result["rows"]["random encoder"]}
    assert random["speech to text: R@10"]["low"] <= chance["speech to text: R@10"]
    tables = (run / "align" / "scores.md").read_text()
    assert "## Speech to text" in tables
    assert "| aligned (seen: other rows of pitches, recordings 0 %, near-duplicates " in tables
    assert result["seen_in_training"]["contents"] == 0.0 and result["seen_in_training"]["speakers"] == 1.0


def test_the_model_names_what_it_heard(run: Path) -> None:
    model = load_aligned(run / "align" / "model")
    (heard,) = model.info.heard
    assert (heard.name, heard.utterances, heard.languages) == ("pitches", 60, LANGUAGES)
    assert heard.whole_hash == Corpus.open(run / "corpus").hash
    assert "a small text tower trained from nothing" in (run / "align" / "model" / "README.md").read_text()


def test_the_same_command_again_does_nothing_and_another_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [run / "align" / name for name in ("model/model.safetensors", "scores.md", "result.json")]
    before = [file.stat().st_mtime_ns for file in files]
    assert main(command(run)) == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    assert "| aligned (" in capsys.readouterr().out
    assert main([*command(run)[:-1], "2"]) == 1
    assert "was made from something else" in capsys.readouterr().err
    assert main([*command(run)[:-4], "--steps", "3"]) == 1
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_scoring_that_was_interrupted_goes_on_with_the_vectors_it_has(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run / "align" / "result.json"
    before = json.loads(result.read_text())
    result.unlink()
    for made in ("embedded", "pooled_frames"):
        monkeypatch.setattr(align_scores, made, lambda *_: pytest.fail("recordings are embedded again"))
    assert main(command(run)) == 0
    assert json.loads(result.read_text()) == before


def test_a_language_whose_recordings_are_left_out_is_scored_all_the_same(run: Path, tmp_path: Path) -> None:
    words = f"align --corpus {run}/corpus --model {run}/encoder --out {tmp_path} --steps 2 --leave-out fra"
    assert main(words.split()) == 0
    (heard,) = load_aligned(tmp_path / "model").info.heard
    assert (heard.utterances, heard.languages) == (30, ("eng_Latn",))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["pool"]["spoken"] == list(LANGUAGES) and result["pool"]["texts"] == 20
    assert result["seen_in_training"]["speakers"] == 0.5


def test_recordings_longer_than_the_crop_are_left_out_and_counted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Corpus.open(run / "corpus")
    first, *others = opened
    Corpus(folder=run / "corpus", utterances=(replace(first, duration_seconds=7.0), *others), name="one long").save(
        tmp_path / "corpus"
    )
    words = f"align --corpus {tmp_path}/corpus --model {run}/encoder --out {tmp_path}/run --steps 1"
    assert main(words.split()) == 0
    assert "Left out of 60 recordings to train on: 1 longer than 6 s." in capsys.readouterr().out
    (heard,) = load_aligned(tmp_path / "run" / "model").info.heard
    assert heard.utterances == 59


def test_what_is_not_held_out_is_not_scored_and_it_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = all_in_training(Corpus.open(run / "corpus"), tmp_path / "corpus")
    words = f"align --corpus {heard} --model {run}/encoder --out {tmp_path}/run --steps 1"
    assert main(words.split()) == 0
    assert (
        "Nothing will be scored: there are recordings of train (80); needed is a content of test"
        in capsys.readouterr().out
    )
    assert main([*words.split(), "--languages", "eng_Latn,deu_Latn"]) == 1
    assert "no utterance of the training split has a text in deu_Latn" in capsys.readouterr().err


def test_another_text_encoder_in_the_same_folder_is_another_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"align --corpus {run}/corpus --model {run}/encoder --text {tmp_path}/text --out {tmp_path}/run --steps 2"
    assert main([*words.replace("--text", "--prefix").split(), "--steps", "1"]) == 1
    assert "are of a text encoder: name one with --text" in capsys.readouterr().err
    text_encoder(tmp_path / "text")
    (tmp_path / "text" / "modules.json").write_text('[{"type": "Pooling", "path": "1_Pooling"}]')
    (tmp_path / "text" / "1_Pooling").mkdir()
    (tmp_path / "text" / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert main([*words.split(), "--prefix", "query: "]) == 0
    pooled = load_aligned(tmp_path / "run" / "model").text.config
    assert (pooled.pooling, pooled.prefix) == ("cls", "query: ")
    weights = load_file(tmp_path / "text" / "model.safetensors")
    changed = {name: value + 0.01 for name, value in weights.items()}
    save_file(changed, tmp_path / "text" / "model.safetensors", {"format": "pt"})
    assert main([*words.split(), "--prefix", "query: "]) == 1
    assert "1 settings differ: text was '" in capsys.readouterr().err


def test_a_run_that_was_stopped_before_its_first_checkpoint_leaves_no_tower_to_the_next(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(alignment, "train", interrupted)
    for out, seeds in (("fresh", (2,)), ("used", (1, 2))):
        for seed in seeds:
            config = small(("eng_Latn",), from_nothing=True, seed=seed)
            with pytest.raises(KeyboardInterrupt):
                execute_alignment(config, Corpus.open(run / "corpus"), tmp_path / out, encoder=Lasr(LASR))
    towers = [tmp_path / out / "text-tower" / "model.safetensors" for out in ("fresh", "used")]
    assert towers[0].read_bytes() == towers[1].read_bytes()


def test_index_and_search(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lancedb", reason="needs the extra 'search'")
    model, index = str(run / "align" / "model"), str(tmp_path / "index")
    for expected in ("80 added, 80 in the index", "0 added, 80 in the index"):
        assert main(["index", model, str(run / "corpus"), "--out", index]) == 0
        assert expected in capsys.readouterr().out
    clip = run / "corpus" / "fra_Latn-5.wav"
    assert main(["search", index, str(clip), "--top", "3", "--html", str(tmp_path / "page.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["1.000", "0:00.0-0:00.6", "fra_Latn", str(clip.resolve())]
    assert "data:audio/ogg" in (tmp_path / "page.html").read_text()
    assert main(["search", index, "numero 3 4", "--language", "en", "--top", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(line.split()[2] == "eng_Latn" for line in lines)
    assert main(["search", index, "nowhere.wav"]) == 1
    assert "no such recording" in capsys.readouterr().err


def test_classes_by_name_and_by_examples(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = Corpus.open(run / "corpus")
    rows = tuple(replace(row, label=row.text.split()[0]) for row in opened if row.language == "eng_Latn" and row.text)
    Corpus(folder=run / "corpus", utterances=rows, name="words").save(tmp_path / "words")
    model = str(run / "align" / "model")
    clips = [str(run / "corpus" / f"eng_Latn-{number}.wav") for number in (0, 1)]
    assert main(["classify", model, *clips, "--labels", "ari,bri", "--languages", "eng_Latn"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("ari 0." in line and "bri 0." in line for line in lines)
    words = ["classify", model, "--corpus", str(tmp_path / "words"), "--labels", "ari,bri,cri"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    tables = (tmp_path / "out" / "scores.md").read_text()
    assert "| chance | 33.3 |" in tables and "| zero-shot, random encoder |" in tables and "| zero-shot |" in tables
    assert "| 1 examples a class |" in tables and "seen: recordings 0 %" in tables
    assert main(["classify", model, "--labels", "a,b"]) == 1
    assert "Give either recordings, or --corpus" in capsys.readouterr().err


def test_what_cannot_be_embedded_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lancedb", reason="needs the extra 'search'")
    opened = Corpus.open(run / "corpus")
    chosen = opened.with_utterances(opened.utterances[:3])
    broken = tmp_path / "corpus"
    broken.mkdir()
    for row in chosen.utterances:
        (broken / row.path).write_bytes(opened.audio_path(row).read_bytes())
    Corpus(folder=broken, utterances=chosen.utterances, name="broken").save(broken)
    (broken / chosen.utterances[1].path).write_bytes(b"not sound")
    assert main(["index", str(run / "align" / "model"), str(broken), "--out", str(tmp_path / "index")]) == 0
    assert "1 recordings could not be embedded" in capsys.readouterr().out
    assert chosen.utterances[1].id in (tmp_path / "index" / "skipped.tsv").read_text()


def test_two_corpora_of_one_name_are_not_mixed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lancedb", reason="needs the extra 'search'")
    opened, index = Corpus.open(run / "corpus"), tmp_path / "index"
    words = ["index", str(run / "align" / "model"), "", "--out", str(index)]
    for number, name in ((0, "a"), (1, "b")):
        row = opened.utterances[number]
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.wav").write_bytes(opened.audio_path(row).read_bytes())
        renamed = replace(row, id="x", path="x.wav")
        Corpus(folder=tmp_path / name, utterances=(renamed,), name="same").save(tmp_path / name)
    assert main([*words[:2], str(tmp_path / "a"), *words[3:]]) == 0
    assert main([*words[:2], str(tmp_path / "b"), *words[3:]]) == 1
    assert "under the same two names" in capsys.readouterr().err


def test_official_folds_teach_and_judge(run: Path, tmp_path: Path) -> None:
    """Each fold is judged by examples of the others, and none is drawn."""
    opened = Corpus.open(run / "corpus")
    rows = tuple(
        replace(row, label=(row.text or "").split()[0], split=None, extra={"fold": 1 + number % 3})
        for number, row in enumerate(one for one in opened if one.language == "eng_Latn")
    )
    Corpus(folder=run / "corpus", utterances=rows, name="folds").save(tmp_path / "folds")
    words = ["classify", str(run / "align" / "model"), "--corpus", str(tmp_path / "folds"), "--labels", "ari,bri,cri"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    tables = (tmp_path / "out" / "scores.md").read_text()
    assert "18 clips of 3 classes" in tables and "| 1 examples a class |" in tables
    results = {one["name"]: one for one in json.loads((tmp_path / "out" / "result.json").read_text())}
    assert results["1 examples a class"]["n"] == results["zero-shot"]["n"]


def test_keywords_of_a_language_that_was_never_aligned(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recordings of all splits, called what the corpus calls them in their language; random weights are at chance."""
    opened = Corpus.open(run / "corpus")
    labels = [f"w{number}" for number in range(8)]
    rows = tuple(
        replace(row, label=labels[int(row.group.split()[1])], translations={"deu_Latn": f"wort {row.group}"})
        for row in opened
        if row.group and int(row.group.split()[1]) < len(labels)
    )
    Corpus(folder=run / "corpus", utterances=rows, name="keywords").save(tmp_path / "keywords")
    words = [
        "classify",
        str(run / "align" / "model"),
        "--corpus",
        str(tmp_path / "keywords"),
        "--spoken",
        "eng,fra,spa",
    ]
    assert main([*words, "--labels", ",".join(labels), "--out", str(tmp_path / "out")]) == 0
    results = {one["name"]: one for one in json.loads((tmp_path / "out" / "result.json").read_text())}
    assert list(results) == ["chance", "random encoder", "aligned", "aligned, eng_Latn", "aligned, fra_Latn"]
    assert results["chance"]["value"] == 12.5
    assert results["random encoder"]["low"] <= 12.5 <= results["random encoder"]["high"]
    named = json.loads((tmp_path / "out" / "words.json").read_text())
    assert set(named) == {"eng_Latn", "fra_Latn"} and named["fra_Latn"]["w1"] == ["blo alo"]
    assert "16 recordings of 8 keywords in 2 languages" in (tmp_path / "out" / "scores.md").read_text()
    clip = str(run / "corpus" / "eng_Latn-0.wav")
    assert main([*words[:2], clip, "--spoken", "eng", "--labels", "w1,w2"]) == 1
    assert "--spoken scores the keywords of a corpus" in capsys.readouterr().err
    assert main([*words[:-1], "deu", "--labels", "w1,w2"]) == 1
    assert "no recording in ['deu_Latn'] has one of the labels" in capsys.readouterr().err


def test_a_language_that_the_corpus_lacks_cannot_be_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"align --corpus {run}/corpus --model {run}/encoder --out {run}/none --steps 2 --leave-out jpn"
    assert main(words.split()) == 1
    assert "has no recording in jpn_Jpan, so it cannot be left out" in capsys.readouterr().err


def test_the_cascade_answers_for_a_part_beside_the_towers(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recognizer that hears perfectly finds every text; the towers answer the same queries."""
    said = {row.id: row.text for row in Corpus.open(run / "corpus")}
    heard: list[str] = []

    def perfect(rows, cache, transcribe, file, progress):  # type: ignore[no-untyped-def]
        heard.extend(row.id for row in rows)
        assert file.name == "transcripts-0123.tsv"  # by its parameters: another model may lie in a folder of that name
        return [said[row.id] for row in rows]

    monkeypatch.setattr(align_scores, "load_transcriber", lambda name: None)
    monkeypatch.setattr("allophone.evaluate.transcripts.transcriber_hash", lambda name: "0123")
    monkeypatch.setattr(align_scores, "transcriber_hash", lambda name: "0123")
    monkeypatch.setattr(align_scores, "transcribe_all", perfect)
    words = f"align --corpus {run}/corpus --model {run}/encoder --out {tmp_path} --steps 2 --transcriber x"
    assert main([*words.split()[:-2], "--transcribe", "6"]) == 1
    assert "--transcribe 6 with --transcriber None" in capsys.readouterr().err
    assert main([*words.split(), "--transcribe", "6"]) == 0
    assert len(heard) == 6 and sum("eng" in name for name in heard) == 3
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    name = "cascade: x, then text (transcribed part)"
    assert list(rows)[-3:] == ["chance (transcribed part)", name, "aligned (transcribed part)"]
    found = {one["name"]: one["value"] for one in rows[name]}
    assert found["speech to text: R@1"] > 50 and not any(one.startswith("text to speech") for one in found)
    tables = (tmp_path / "scores.md").read_text()
    assert "recordings (test) and" in tables
    assert "## Speech to text, recordings that were transcribed" in tables and tables.count(f"| {name} |") == 1


def test_parts_of_augmentation_are_switched_one_by_one() -> None:
    plain = small(("eng_Latn",), from_nothing=True)
    assert augmented(plain, ()) == plain and plain.data.collate.augment is None and plain.data.collate.reverb is None
    configs = [augmented(plain, (part,)) for part in (*AUDIO_AUGMENTATION, "reverb")]
    assert len({repr(one.data.collate) for one in configs}) == 5 and all(
        one.captions == plain.captions for one in configs
    )
    gain = configs[list(AUDIO_AUGMENTATION).index("gain")].data.collate.augment
    assert gain is not None and gain.noise_probability == gain.warp_probability == gain.speed_probability == 0.0
    texts = augmented(plain, (), ("paraphrase",)).captions
    assert texts.paraphrase and texts.own_language == 1.0
    texts = augmented(plain, (), ("languages",)).captions
    assert not texts.paraphrase and texts.own_language == plain.captions.own_language
    with pytest.raises(ConfigError, match=r"Unknown part of augmentation 'nois'.*noise"):
        augmented(plain, ("nois",))
