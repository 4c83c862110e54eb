"""From a corpus of made-up words to translators and transcribers, by the verbs that a user types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_corpus import all_in_training, corpus
from tiny_model import LASR
from tiny_recognizer import recognizer_folder
from tiny_translator import decoder_folder

from allophone.cli.main import main
from allophone.cli.translate import named
from allophone.data.corpus import Corpus
from allophone.metrics.translation import TOKENIZERS
from allophone.models.conversion import save_encoder
from allophone.models.lasr import Lasr
from allophone.models.speech_translator import load_speech_translator
from allophone.models.token_decoder import SearchConfig
from allophone.models.transcriber import SpellingDecoderConfig, load_transcriber
from allophone.models.translator_size import paper_counts
from allophone.recipes import translate
from allophone.run.translation import search_as_trained
from allophone.run.used import read_use

BASELINES = [
    "chance: a training text",
    "nearest recording, filter bank",
    "nearest recording, random encoder",
    "nearest recording, encoder before",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``corpus/`` and two encoders."""
    folder = tmp_path_factory.mktemp("translate")
    (folder / "corpus").mkdir()
    corpus(folder / "corpus")
    for name, seed in (("encoder", 0), ("other", 1)):
        torch.manual_seed(seed)
        save_encoder(Lasr(LASR), folder / name, "# tiny\n")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The same, with ``run/`` made by ``translate train``; French is never heard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(translate, "LEAST", 5)
        assert main(command(folder)) == 0
    return folder


def command(folder: Path, *more: str) -> list[str]:
    words = f"translate train --corpus {folder}/corpus --model first={folder}/encoder {folder}/other --to spa --steps 3"
    return [*words.split(), "--leave-out", "fra", "--out", f"{folder}/run", "--beams", "2", *more]


def test_models_stand_beside_baselines_and_their_difference(run: Path) -> None:
    result = json.loads((run / "run" / "result.json").read_text())
    models = ["translator: first", "translator: first, shuffled", "translator: other"]
    assert list(result["rows"]) == [*BASELINES, *models, "difference: other less first"]
    assert result["zero_shot"] == ["fra_Latn"]
    assert result["asked"] == {"all to spa_Latn": 20, "eng_Latn to spa_Latn": 10, "fra_Latn to spa_Latn": 10}
    names = {name: [one["name"] for one in row] for name, row in result["rows"].items()}
    differences = names.pop("difference: other less first")
    assert all(row == names["translator: first"] for row in names.values())
    assert [one for one in names["translator: first"] if " high to " not in one] == differences
    assert "BLEU, high to spa_Latn" in names["translator: first"]  # French is the only one in a group of resources
    assert "chrF2++, all to spa_Latn" in names["translator: first"]
    page = (run / "run" / "report.html").read_text()
    assert "30 utterances (train), 0.01 h, none of them synthetic speech" in page
    assert "- Asked: 20 utterances (test)," in (run / "run" / "scores.md").read_text()
    assert "fra_Latn *" in page and "difference: other less first" in page
    assert "heard before, in its own training, is not looked at" in page and "ever heard" not in page


def test_two_models_of_one_name_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"translate train --corpus {folder}/corpus --model a/seed-0/model b/seed-0/model --plan"
    assert main(words.split()) == 1
    said = capsys.readouterr().err
    assert "--model a/seed-0/model and --model b/seed-0/model are both called 'seed-0'" in said
    assert "--model first=a/seed-0/model second=b/seed-0/model" in said


def test_a_tokenizer_that_is_missing_is_noticed_before_the_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(translate, "LEAST", 5)
    monkeypatch.setitem(TOKENIZERS, "spa", "ko-mecab")
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ko_mecab.MeCab", None)
    monkeypatch.setattr(translate, "execute_translation", lambda *given, **named: pytest.fail("it is trained"))
    assert main([*command(folder), "--out", str(tmp_path)]) == 1
    assert (
        "the tokenizer 'ko-mecab' needs more than is installed: `pip install 'allophone[ko]'`"
        in capsys.readouterr().err
    )


def test_a_language_left_out_is_not_heard(run: Path) -> None:
    used = read_use(run / "run" / "first" / "seed-0")
    assert used is not None and {row["language"] for row in used["trained"]} == {"eng_Latn"}


def test_a_file_is_translated_with_a_confidence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = run / "corpus" / "eng_Latn-3.wav"
    assert main(f"translate run {clip} --to spa --model {run}/run/first/seed-0/model --beams 2".split()) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{clip} 0.0-0.6 s  (0.")
    assert main(f"translate run {clip} --to deu --model {run}/run/first/seed-0/model".split()) == 1
    assert "no token for deu_Latn" in capsys.readouterr().err
    assert main(f"translate run {clip} --model {run}/none".split()) == 1
    assert "no translator there. Name one, or make one" in capsys.readouterr().err


def test_the_same_call_again_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate, "LEAST", 5)
    weights = run / "run" / "first" / "seed-0" / "model" / "translator.safetensors"
    before, scores = weights.stat().st_mtime_ns, (run / "run" / "result.json").read_text()
    assert main(command(run)) == 0
    assert weights.stat().st_mtime_ns == before
    assert (run / "run" / "result.json").read_text() == scores


def test_what_is_not_held_out_is_not_scored_and_it_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = all_in_training(Corpus.open(folder / "corpus"), tmp_path / "corpus")
    for verb, needed in (("translate train --to spa", "20 contents of a direction"), ("transcribe train", "a content")):
        words = f"{verb} --corpus {heard} --model {folder}/encoder --steps 1 --out {tmp_path}/{verb[:9]}"
        assert main(words.split()) == 0
        said = capsys.readouterr().out
        assert f"Nothing will be scored: there are recordings of train (80); needed is {needed} of test or dev" in said


def test_a_language_to_write_that_nothing_is_written_in_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in (["--plan"], []):
        assert main([*command(folder), "--to", "spa,deu", *more]) == 1
        said = capsys.readouterr().err
        assert "no utterance of the training split has a text in deu_Latn. There are texts in eng" in said


def test_a_plan_has_the_arithmetic_of_the_paper(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(folder, "--plan")) == 0
    said = capsys.readouterr().out
    assert "2 x 3 steps" in said and "encoder, once" in said and "30 utterances with a text in spa_Latn" in said
    counts = paper_counts()
    assert abs(counts.adapters / 75e6 - 1) < 0.01
    assert f"adapters {counts.adapters / 1e6:.2f} M" in said


def test_a_pretrained_decoder_gets_adapters_and_another_in_its_folder_is_another_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrained = decoder_folder(tmp_path / "decoder", "m2m_100")
    words = f"translate train --corpus {folder}/corpus --model {folder}/encoder --to eng --steps 2 --adapter-dim 4"
    assert main([*words.split(), "--decoder", str(pretrained), "--out", f"{tmp_path}/run"]) == 0
    model = load_speech_translator(tmp_path / "run" / "encoder" / "seed-0" / "model")
    assert set(model.adapters) == {"encoder", "decoder"}
    assert model.decoder_stays and model.config.train_layer_norms and model.config.length_layers == 1
    weights = load_file(pretrained / "model.safetensors")
    save_file(
        {name: value + 0.01 for name, value in weights.items()}, pretrained / "model.safetensors", {"format": "pt"}
    )
    assert main([*words.split(), "--decoder", str(pretrained), "--out", f"{tmp_path}/run"]) == 1
    assert "1 settings differ: decoder was '" in capsys.readouterr().err


def test_a_decoder_that_is_named_gets_adapters_of_the_published_size() -> None:
    config = translate.translate_config(translate.TranslateOptions(), ("eng_Latn",), 0, "some/decoder")
    assert config.decoder is None and config.translator.adapter_dim == 512


def test_texts_are_written_as_long_as_they_were_learned(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translate, "LEAST", 5)
    searched: list[SearchConfig] = []

    def silent(model, search, waveform, lengths, asked):  # type: ignore[no-untyped-def]
        searched.append(search)
        return [""] * len(asked)

    monkeypatch.setattr(translate, "_translations", silent)
    words = f"translate train --corpus {folder}/corpus --model {folder}/encoder --to spa --recipe standard --steps 2"
    decoder = decoder_folder(tmp_path / "decoder", "m2m_100", ["spa_Latn"])
    assert main([*words.split(), "--decoder", str(decoder), "--out", f"{tmp_path}/run"]) == 0
    assert {search.max_tokens for search in searched} == {200}
    small = translate.translate_config(translate.TranslateOptions(), ("eng_Latn",), 0, None)
    assert search_as_trained(small.method, 2) == SearchConfig(beams=2, max_tokens=64)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("starter", ("starter", "starter")),
        ("a=runs/x/model", ("a", "runs/x/model")),
        ("runs/x/seed-1/model", ("seed-1", "runs/x/seed-1/model")),
        ("utter-project/mHuBERT-147", ("mHuBERT-147", "utter-project/mHuBERT-147")),
    ],
)
def test_models_have_names(text: str, found: tuple[str, str]) -> None:
    assert named(text) == found


def test_transcription_by_the_verbs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"transcribe train --corpus {folder}/corpus --model {folder}/encoder --steps 3 --out {folder}/spelled"
    assert main([*words.split(), "--plan"]) == 0
    assert "60 utterances, 12 characters." in capsys.readouterr().out
    assert main(words.split()) == 0
    result = json.loads((folder / "spelled" / "result.json").read_text())
    assert list(result["rows"]) == [*BASELINES, "transcriber"]
    names = [one["name"] for one in result["rows"]["transcriber"]]
    assert "CER raw, fra_Latn" in names and "WER normalized, eng_Latn" in names
    assert "| transcriber |" in capsys.readouterr().out
    clip = folder / "corpus" / "fra_Latn-3.wav"
    assert main(f"transcribe run {clip} --model {folder}/spelled/seed-0/model --width 1".split()) == 0
    assert capsys.readouterr().out.startswith(f"{clip} 0.0-0.6 s  (")


def test_a_decoder_beside_ctc_by_the_verbs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"transcribe train --corpus {folder}/corpus --model {folder}/encoder --steps 2 --decoder-layers 1"
    assert main([*words.split(), "--out", f"{tmp_path}/run"]) == 0
    journal = (tmp_path / "run" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    assert {"ctc", "decoder_nll"} <= json.loads(journal[-1]).keys()
    model = load_transcriber(tmp_path / "run" / "seed-0" / "model")
    assert model.decoder is not None and model.decoder_config == SpellingDecoderConfig(layers=1)
    assert "a decoder that re-ranks what it spells" in (tmp_path / "run" / "seed-0" / "model" / "README.md").read_text()
    clip = folder / "corpus" / "fra_Latn-3.wav"
    assert main(f"transcribe run {clip} --model {tmp_path}/run/seed-0/model --width 4".split()) == 0


def test_a_cascade_stands_in_the_same_tables(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate, "LEAST", 5)
    recognizer = recognizer_folder(tmp_path / "recognizer")
    words = f"translate train --corpus {folder}/corpus --model {folder}/encoder --to spa --steps 2 --beams 2"
    command = [*words.split(), "--out", f"{tmp_path}/run", "--cascade", str(recognizer)]
    assert main([*command, str(decoder_folder(tmp_path / "few", "m2m_100"))]) == 1  # it cannot write Spanish
    assert not (tmp_path / "run" / "encoder").exists()  # and nothing was trained in vain
    translator = decoder_folder(tmp_path / "enough", "m2m_100", ["spa_Latn"])
    assert main([*command, str(translator)]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    names = [one["name"] for one in result["rows"]["cascade"]]
    assert names == [one["name"] for one in result["rows"]["translator: encoder"]]
    (transcripts,) = (tmp_path / "run" / "cascade").glob("transcripts-*.tsv")
    assert {line.split("\t")[2] for line in transcripts.read_text().splitlines()} == {"b"}
    assert "cascade" in (tmp_path / "run" / "scores.md").read_text()


def test_seeds_that_share_an_encoder_learn_what_each_learns_alone(folder: Path) -> None:
    def weights(seeds: str, out: str) -> bytes:
        words = command(folder, "--seeds", seeds, "--steps", "2")
        words[words.index("--out") + 1] = f"{folder}/{out}"
        assert main(words) == 0  # too few contents to score
        return (folder / out / "first" / "seed-1" / "model" / "decoder" / "model.safetensors").read_bytes()

    assert weights("0,1", "together") == weights("1", "alone")
