"""Lineage: what heard a speaker, what was made from that, what nobody can tell, and the commands that make it anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from allophone.cli.main import main
from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.errors import DataError
from allophone.frames import FrameClock
from allophone.recipes.withdraw import withdraw
from allophone.run.used import read_use, record_use
from allophone.units.encode import Units


def row(name: str, speaker: str | None) -> Utterance:
    return Utterance(
        id=name, path=f"{name}.wav", duration_seconds=1.0, sample_rate=16_000, language="swa_Latn", speaker=speaker
    )


def write(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


@pytest.fixture
def runs(tmp_path):
    """A pretrained model that heard Amina, a pack on it that did not, a clean model, and one of before the tables."""
    root = tmp_path / "runs"
    amina, juma = [row("a1", "amina"), row("a2", "amina")], [row("j1", "juma")]
    record_use(root / "pre" / "iteration-1", {"trained": [*amina, *juma]})
    record_use(root / "pre" / "iteration-1" / "targets", {"clustered": amina[:1], "labelled": [*amina, *juma]})
    write(root / "pre" / "iteration-1" / "targets" / "codebook.json", {"hash": "book", "info": {"parent": None}})
    write(root / "pre" / "model" / "allophone.json", {"model_hash": "base", "parents": []})
    write(root / "pre" / "command.json", {"arguments": ["pretrain", "--corpus", "all", "--out", "runs/pre"]})
    record_use(root / "add", {"trained": juma, "labelled": amina})
    write(root / "add" / "pack" / "allophone.json", {"base_model_hash": "base", "pack_hash": "pack"})
    write(root / "add" / "command.json", {"arguments": ["expand", "--corpus=new corpus", "--language", "swa"]})
    record_use(root / "clean", {"trained": juma})
    write(root / "clean" / "model" / "allophone.json", {"model_hash": "other", "parents": ["elsewhere"]})
    write(root / "old" / "model" / "allophone.json", {"model_hash": "oldest", "parents": []})
    return root


def test_what_heard_the_speaker_and_what_came_of_it(runs) -> None:
    found = withdraw("amina", [runs])
    told = {(str(one.folder.relative_to(runs)), one.kind): one for one in found.affected}
    assert set(told) == {
        ("pre/iteration-1/targets", "codebook"),
        ("pre/model", "model"),
        ("add/pack", "pack"),
    }
    assert told["pre/iteration-1/targets", "codebook"].uses == (("clustered", 1),)
    assert dict(told["pre/model", "model"].uses)["trained"] == 2
    assert told["add/pack", "pack"].how == "through what it was made from"
    assert told["add/pack", "pack"].through == (str(runs / "pre" / "model"),)
    assert [str(one.folder.relative_to(runs)) for one in found.unknown] == ["old/model"]
    assert found.clean == 1


def test_commands_write_elsewhere_and_read_another_corpus(runs) -> None:
    first, second = withdraw("amina", [runs]).commands
    assert first == f"allophone pretrain --corpus CORPUS --out {runs / 'pre'}-withdrawn"
    assert second == f"allophone expand --corpus=CORPUS --language swa --out {runs / 'add'}-withdrawn"


def test_a_table_comes_back_and_nothing_is_no_table(tmp_path) -> None:
    record_use(tmp_path, {"trained": [row("a", "amina"), row("b", None)], "labelled": []})
    found = read_use(tmp_path)
    assert found is not None and [one["speaker"] for one in found["trained"]] == ["amina", None]
    assert read_use(tmp_path / "nowhere") is None
    (tmp_path / "used.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(DataError, match="not a table that can be read"):
        read_use(tmp_path)


def test_the_verb_writes_the_corpus_without_the_speaker_and_refuses_a_stranger(runs, tmp_path, capsys) -> None:
    corpus = Corpus(folder=tmp_path, utterances=(row("a1", "amina"), row("j1", "juma"))).save(tmp_path / "corpus")
    line = ["corpus", "withdraw", "amina", "--runs", str(runs), "--corpus", str(corpus.folder), "--out"]
    assert main([*line, str(tmp_path / "rest")]) == 0
    assert [one.speaker for one in Corpus.open(tmp_path / "rest")] == ["juma"]
    assert "through what it was made from" not in capsys.readouterr().err
    line[2] = "zawadi"
    assert main([*line, str(tmp_path / "rest2")]) == 1
    assert "no recording is by 'zawadi'" in capsys.readouterr().err
    assert main(["corpus", "withdraw", "amina", "--runs", str(tmp_path / "nowhere")]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert main(["corpus", "withdraw", "amina", "--runs", str(runs), "--out", str(tmp_path / "x")]) == 1
    assert "belong together" in capsys.readouterr().err


def test_checkpoints_units_and_what_cannot_be_read(runs) -> None:
    (runs / "stopped" / "checkpoints").mkdir(parents=True)
    record_use(runs / "stopped", {"trained": [row("a1", "amina")]})
    units = Units({"j1": np.zeros(3, np.uint16)}, "book", FrameClock(hop=640, receptive_field=880), 4)
    record_use(runs / "labels", {"labelled": [row("j1", "juma")]})
    units.save(runs / "labels" / "units.parquet")
    write(runs / "broken" / "model" / "allophone.json", {})
    record_use(runs / "broken", {"trained": [row("j1", "juma")]})
    (runs / "broken" / "model" / "allophone.json").write_text('{"model_hash": "tru')
    found = withdraw("amina", [runs])
    told = {(str(one.folder.relative_to(runs)), one.kind): one.how for one in found.affected}
    assert told["stopped/checkpoints", "checkpoints"] == "directly"
    assert told["labels", "units"] == "through what it was made from"
    unknown = {str(one.folder.relative_to(runs)): one.how for one in found.unknown}
    assert unknown == {"old/model": "not recorded", "broken/model": "cannot be read"}
    assert found.clean == 1


def test_commands_build_on_what_is_made_anew(runs) -> None:
    base = ["--base", str(runs / "pre" / "model"), f"ssl={runs / 'pre' / 'model'}", str(runs / "clean" / "model")]
    write(runs / "add" / "command.json", {"arguments": ["expand", "--corpus", "new", *base]})
    second = withdraw("amina", [runs]).commands[1].split()
    anew = f"{runs / 'pre'}-withdrawn/model"
    assert second[4:8] == ["--base", anew, f"ssl={anew}", str(runs / "clean" / "model")]
