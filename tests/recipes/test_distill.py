"""From a corpus of made-up words to an embedder in a teacher's space and answers, by the verb that a user types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_corpus import LANGUAGES, all_in_training, corpus
from tiny_model import LASR
from torch import Tensor
from torch.nn import functional as F

from allophone.batch import Packed
from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.data.loader import WaveformCache
from allophone.errors import NumericsError
from allophone.evaluate.sources import EncoderSource
from allophone.models.conversion import load_encoder, save_encoder
from allophone.models.language_removal import read_removed
from allophone.models.lasr import Lasr
from allophone.models.speech_embedder import CorrectedLinear, SpeechEmbedder, load_speech_embedder
from allophone.models.text_teacher import TeacherTable, cached_vectors, load_teacher_table, text_key
from allophone.recipes import distill, distill_scores
from allophone.recipes.align_scores import pooled_frames
from allophone.recipes.distill import DistillOptions, distill_config
from allophone.run import distillation
from allophone.run.distillation import (
    begin_as_ridge,
    corpus_texts,
    distilled_utterances,
    known_negatives,
    learned_texts,
    nearly_right,
    ridge_targets,
)
from allophone.run.progress import silent
from allophone.run.ridge import drawn_rows, ridge_vectors
from allophone.run.used import read_use

SYSTEMS = ["chance", "filter bank, ridge", "random encoder, ridge", "encoder before, ridge", "distilled"]
DIFFERENCE = "difference: distilled less encoder before, ridge"


def meaning(texts: list[str]) -> Tensor:
    """Four values of what is said, far from the origin as E5's are; French lies a little beside English."""
    words = [[word[:-2] for word in text.split()] for text in texts]
    beside = torch.tensor([[0.5 * text.endswith("lo"), 0, 0, 0] for text in texts])
    return beside + torch.stack(
        [
            3
            + torch.cat(
                [torch.randn(2, generator=torch.Generator().manual_seed(text_key(w) % 9973)) for w in (two * 2)[:2]]
            )
            for two in words
        ]
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``corpus/``, ``encoder/``, ``teacher/`` and, made by the verb, ``distill/``."""
    folder = tmp_path_factory.mktemp("distill")
    (folder / "corpus").mkdir()
    spoken = corpus(folder / "corpus")
    texts = [text for _, text in corpus_texts(spoken)]
    cached_vectors(texts, meaning, "made up", folder / "teacher")
    torch.manual_seed(0)
    save_encoder(Lasr(LASR), folder / "encoder", "# tiny\n")
    assert main(command(folder)) == 0
    return folder


def command(folder: Path, *more: str) -> list[str]:
    words = f"distill --corpus {folder}/corpus --model {folder}/encoder --teacher {folder}/teacher --steps 4"
    return [*words.split(), "--seeds", "0,1", "--out", f"{folder}/distill", *more]


def test_every_system_answers_the_same_questions(run: Path) -> None:
    result = json.loads((run / "distill" / "result.json").read_text())
    assert list(result["rows"]) == [*SYSTEMS, DIFFERENCE]
    rows = {name: {one["name"]: one for one in row} for name, row in result["rows"].items()}
    for name, one in rows.pop(DIFFERENCE).items():
        gain = rows["distilled"][name]["value"] - rows["encoder before, ridge"][name]["value"]
        assert one["value"] == pytest.approx(gain) and one["low"] <= one["value"] <= one["high"]
    assert result["pool"] == {"recordings": 20, "texts": 20, "spoken": ["eng_Latn", "fra_Latn"]}
    names = {name: list(row) for name, row in rows.items()}
    assert all(row == names["distilled"] for row in names.values())
    assert "speech to text, all to other languages: R@1" in names["distilled"]
    assert "xsim error, own language" in names["distilled"]
    assert result["rows"]["distilled"][0]["seeds"] == [0, 1]


def test_a_page_and_tables_stand_beside_the_models(run: Path) -> None:
    page = (run / "distill" / "report.html").read_text()
    assert "xsim error, own language" in page and "<script" not in page
    assert ">all, %" in page and "all to own language" not in page  # the section's title says the rest
    assert "| distilled |" in (run / "distill" / "scores.md").read_text()
    for seed in (0, 1):
        used = read_use(run / "distill" / f"seed-{seed}")
        assert used is not None and len(used["trained"]) == 60


def test_the_model_is_compared_with_vectors_that_say_nothing_of_the_language(run: Path) -> None:
    folder = run / "distill" / "seed-0" / "model"
    spoken = Corpus.open(run / "corpus")
    training = [
        meaning(sorted({row.text or "" for row in spoken if row.split == "train" and row.language == one}))
        for one in LANGUAGES
    ]
    removed = read_removed(folder)
    assert removed is not None and removed.directions.shape == (1, 4)
    torch.testing.assert_close(removed.mean, torch.cat(training).half().float().mean(dim=0))
    left = [removed(some.half().float()).mean(dim=0) for some in training]
    torch.testing.assert_close(left[0], left[1], atol=1e-5, rtol=0)
    assert load_speech_embedder(folder).dim == 4


def test_what_is_not_held_out_is_not_scored_and_it_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = all_in_training(Corpus.open(run / "corpus"), tmp_path / "corpus")
    words = ["--corpus", str(heard), "--out", str(tmp_path / "run"), "--seeds", "0", "--steps", "1"]
    assert main(command(run, *words)) == 0
    assert (
        "Nothing will be scored: there are recordings of train (80); needed is a content of test"
        in capsys.readouterr().out
    )


def test_the_same_call_again_changes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run / "distill" / "seed-1" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert main(command(run)) == 0
    assert weights.stat().st_mtime_ns == before
    assert "| distilled |" in capsys.readouterr().out


def test_what_is_learned_starts_as_the_ridge_regression_that_it_is_compared_with(run: Path) -> None:
    spoken, table = Corpus.open(run / "corpus"), load_teacher_table(run / "teacher")
    config = distill_config(DistillOptions(), table.dim, 0)
    heard = distilled_utterances(spoken, config, table)
    speech = SpeechEmbedder(load_encoder(run / "encoder"), config.speech)
    assert isinstance(speech.projection, CorrectedLinear)
    begin_as_ridge(speech, heard, table, None)
    asked = [row for row in spoken if row.split == "test"]
    source = EncoderSource("before", speech.encoder, (speech.encoder.num_layers,))
    rows = drawn_rows(heard.corpus, 0)
    fitted, known = (pooled_frames(WaveformCache(spoken), some, source, silent("")) for some in (rows, asked))
    expected = ridge_vectors(fitted, ridge_targets(table, heard, rows), known)
    found = speech.embed([spoken.audio(row) for row in asked])
    torch.testing.assert_close(F.normalize(found, dim=-1), expected, atol=1e-4, rtol=1e-3)


def test_what_goes_on_from_a_checkpoint_is_not_begun_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(distillation, "begin_as_ridge", lambda *given: begun.append(given))
    model = run / "distill" / "seed-1" / "model"
    before = (model / "embedder.safetensors").read_bytes()
    (model / "embedder.json").unlink()  # written last: without it the model is not whole
    assert main(command(run)) == 0
    assert not begun and (model / "embedder.safetensors").read_bytes() == before
    words = command(run, "--head", "mlp")
    words[words.index("--out") + 1] = f"{run}/other"
    assert main(words) == 0 and not begun
    words[words.index("mlp")] = "ridge"
    words[words.index("--out") + 1] = f"{run}/begun"
    assert main(words) == 0 and len(begun) == 2


def test_a_recording_that_the_encoder_breaks_on_is_named_and_constant_values_stay_small(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken, table = Corpus.open(run / "corpus"), load_teacher_table(run / "teacher")
    config = distill_config(DistillOptions(), table.dim, 0)
    heard = distilled_utterances(spoken, config, table)
    speech = SpeechEmbedder(load_encoder(run / "encoder"), config.speech)
    assert isinstance(speech.projection, CorrectedLinear)
    pooled = speech.pooled

    def constant(states: Sequence[Packed]) -> Tensor:
        found = pooled(states).clone()
        found[:, 0] = 2.0
        return found

    monkeypatch.setattr(speech, "pooled", constant)
    begin_as_ridge(speech, heard, table, None)
    assert speech.projection.deviation[0] == 1.0 and not speech.projection.linear.weight[:, 0].any()
    monkeypatch.setattr(speech, "pooled", lambda states: pooled(states) * torch.nan)
    with pytest.raises(NumericsError, match=f"{drawn_rows(heard.corpus, 0)[0].id}: the encoder makes NaN"):
        begin_as_ridge(speech, heard, table, None)


def test_a_plan_trains_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command(run, "--plan")
    words[words.index("--out") + 1] = f"{run}/none"
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "2 x 4 steps" in said and "Teacher: made up" in said and "encoder, once" not in said
    assert main([*words, "--no-train-encoder"]) == 0
    assert "encoder, once" in capsys.readouterr().out
    assert not (run / "none").exists()


def test_a_teacher_of_other_texts_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoken = Corpus.open(run / "corpus")
    unheard = [row.text or "" for row in spoken if row.split == "test"]
    cached_vectors(unheard, meaning, "made up", tmp_path / "teacher")
    words = command(run)
    words[words.index("--teacher") + 1] = f"{tmp_path}/teacher"
    words[words.index("--out") + 1] = f"{tmp_path}/run"
    assert main(words) == 1
    assert "has a vector of none of 60 texts of the training split" in capsys.readouterr().err


def test_texts_of_all_languages_are_learned_as_far_as_the_teacher_knows_them(run: Path) -> None:
    spoken, table = Corpus.open(run / "corpus"), load_teacher_table(run / "teacher")
    said = {(row.group, row.language): row.text or "" for row in spoken}
    rows = [replace(row, translations={one: said[row.group, one] for one in LANGUAGES}) for row in spoken]
    spoken = spoken.with_utterances(tuple(rows))
    config = distill_config(DistillOptions(texts="all"), table.dim, 0)
    heard = distilled_utterances(spoken, config, table)
    assert heard.languages == ("eng_Latn", "fra_Latn")
    row = heard.corpus.utterances[0]
    both = learned_texts(heard, row)
    assert len(both) == 2 and row.text in both and row.translations
    own = distilled_utterances(spoken, distill_config(DistillOptions(), table.dim, 0), table)
    assert learned_texts(own, row) == [row.text]
    fewer = TeacherTable("fewer", *_less(table, row.text or ""))
    heard = distilled_utterances(spoken, config, fewer)
    changed = next(one for one in heard.corpus if one.id == row.id)
    assert sorted([row.text, *learned_texts(heard, changed)]) == sorted(both)


def _less(table: TeacherTable, text: str) -> tuple[Tensor, Tensor]:
    """Keys and vectors without those of one text."""
    others = table.keys != text_key(text)
    return table.keys[others], table.vectors[others]


def test_the_verb_learns_from_texts_of_all_languages(run: Path) -> None:
    words = command(run, "--texts", "all", "--steps", "2")
    words[words.index("--seeds") + 1] = "0"
    words[words.index("--out") + 1] = f"{run}/all"
    assert main(words) == 0
    assert json.loads((run / "all" / "seed-0" / "config.json").read_text())["texts"] == "all"
    assert list(json.loads((run / "all" / "result.json").read_text())["rows"]) == [*SYSTEMS, DIFFERENCE]


def test_negatives_are_those_that_the_teacher_knows(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    spoken = corpus(tmp_path / "corpus")
    rows = tuple(
        row if number else type(row)(**{**{f: getattr(row, f) for f in row.__slots__}, "text": "Press 3 now."})
        for number, row in enumerate(spoken)
    )
    changed = spoken.with_utterances(rows)
    pairs = corpus_texts(changed)
    wrong = nearly_right(pairs)["Press 3 now."]
    texts = [text for _, text in pairs]
    without = cached_vectors(texts, meaning, "made up", tmp_path / "a")
    assert known_negatives(changed, without) == {}
    known = cached_vectors([*texts, *wrong], meaning, "made up", tmp_path / "b")
    assert known_negatives(changed, known) == {"Press 3 now.": wrong}


def test_seeds_that_share_a_frozen_encoder_learn_what_each_learns_alone(run: Path) -> None:
    def weights(seeds: str, out: str) -> bytes:
        words = command(run, "--no-train-encoder", "--steps", "2", "--seeds", seeds)
        words[words.index("--out") + 1] = f"{run}/{out}"
        assert main(words) == 0
        return (run / out / "seed-1" / "model" / "model.safetensors").read_bytes()

    assert weights("0,1", "together") == weights("1", "alone")


def test_transcripts_of_the_cascade_are_kept_by_the_recognizers_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two recognizers may lie in folders of one name, and one may take the place of another."""
    files = []
    monkeypatch.setattr(distill_scores, "load_transcriber", lambda name: None)
    monkeypatch.setattr("allophone.evaluate.transcripts.transcriber_hash", lambda name: name.split("/")[0])
    monkeypatch.setattr(distill_scores, "transcribe_all", lambda *given: (files.append(given[3].name), ["text"])[1])
    judged = SimpleNamespace(pool=SimpleNamespace(utterances=()), corpus=None, removed=None)
    monkeypatch.setattr(distill_scores, "WaveformCache", lambda corpus: None)
    for name in ("a/model", "b/model"):
        distill_scores._by_cascade(judged, name, lambda texts: torch.ones(len(texts), 2), tmp_path, silent)  # type: ignore[arg-type]
    assert files == ["transcripts-a.tsv", "transcripts-b.tsv"]


def test_the_teacher_is_asked_where_this_process_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class AskedThere(Exception):
        pass

    def teacher(name: str, **settings: object) -> None:
        raise AskedThere(settings["device"])

    monkeypatch.setattr(distill, "TextTeacher", teacher)
    monkeypatch.setattr(distill, "device", lambda: torch.device("cuda", 3))
    with pytest.raises(AskedThere, match="cuda:3"):
        distill.open_teacher(
            "some/encoder", Corpus(folder=tmp_path, utterances=(), name="none"), tmp_path, DistillOptions()
        )
