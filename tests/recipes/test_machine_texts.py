"""Texts that a recognizer writes are marked with its name; people's texts stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from torch import Tensor

from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.recipes import machine_texts


@pytest.fixture
def corpus(tmp_path: Path, speech: Callable[..., Tensor]) -> Path:
    rows = []
    for number, text in enumerate(("jambo", None, None)):
        soundfile.write(tmp_path / f"{number}.wav", speech(0.3, seed=number).numpy(), 16_000)
        rows.append(
            Utterance(
                id=str(number),
                path=f"{number}.wav",
                duration_seconds=0.3,
                sample_rate=16_000,
                language="swh_Latn",
                text=text,
            )
        )
    Corpus(folder=tmp_path, utterances=tuple(rows), name="few").save(tmp_path)
    return tmp_path


def test_missing_texts_are_written_and_name_the_model(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard, told = [], []

    def load(model: str, language: str | None = None) -> Callable[[list[Tensor]], list[str]]:
        told.append(language)
        if language is not None:
            raise machine_texts.DataError("The recognizer was not trained on it.")
        return recognizer

    def recognizer(waveforms: list[Tensor]) -> list[str]:
        heard.extend(waveforms)
        return ["habari  yako", " "][: len(waveforms)]

    monkeypatch.setattr(machine_texts, "load_transcriber", load)
    monkeypatch.setattr(machine_texts, "transcriber_hash", lambda model: "0123")
    words = ["corpus", "caption", str(corpus), "--model", "openai/whisper-base", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    rows = {row.id: row for row in Corpus.open(tmp_path / "out")}
    assert (rows["0"].text, rows["1"].text, rows["2"].text) == ("jambo", "habari yako", None)
    assert rows["1"].extra == {machine_texts.MADE_BY: "openai/whisper-base"} and not rows["0"].extra
    assert told == ["swh_Latn", None]
    assert len(heard) == 2 and rows["1"].duration_seconds == 0.3
    printed = capsys.readouterr().out
    assert "swh_Latn  1 texts" in printed and "nothing was found in 1 recordings" in printed
    rows_with_texts = Corpus.open(tmp_path / "out").with_utterances(tuple(row for row in rows.values() if row.text))
    with pytest.raises(machine_texts.DataError, match="all 2 recordings have a text"):
        machine_texts.write_machine_texts(rows_with_texts, "x", out=tmp_path / "again")


def test_texts_of_one_model_are_not_given_to_another(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_texts, "load_transcriber", lambda model, _: lambda clips: [f"by {model}"] * len(clips))
    monkeypatch.setattr(machine_texts, "transcriber_hash", lambda model: f"hash of {model}")
    for model in ("first", "second", "first"):
        rows = machine_texts.write_machine_texts(Corpus.open(corpus), model, out=tmp_path / "out").corpus
        made = {(row.text, row.extra[machine_texts.MADE_BY]) for row in rows if row.extra}
        assert made == {(f"by {model}", model)}
