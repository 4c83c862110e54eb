"""data/noise and the importer of sounds: labels, quarantine, draws by key, bounded memory, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from allophone.data.corpus import Corpus
from allophone.data.importers.sounds import label_of, read_sounds
from allophone.data.importing import import_corpus
from allophone.data.noise import Sounds, SoundSource
from allophone.errors import DataError
from allophone.seeding import torch_generator

FILES = ["dog/1.wav", "animals/cat/a.wav", "bass_drum.wav", "door 02.wav", "fra/3.wav", "train/x.wav"]
LABELS = {"dog/1": "dog", "animals/cat/a": "cat", "bass_drum": "bass drum", "door 02": "door"}


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Six noises of half a second and a bit, each with its own level."""
    folder = tmp_path / "noises"
    for number, name in enumerate(FILES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(number).normal(0, 0.02 * (number + 1), 8_000 + number)
        soundfile.write(folder / name, samples, 16_000)
    return folder


def test_labels_come_from_folders_and_names(sounds: Path) -> None:
    (sounds / "bass_drum.txt").write_bytes(b"\xff not a transcript")
    entries = read_sounds(sounds)
    assert {entry.id: entry.label for entry in entries} == LABELS | {"fra/3": "fra", "train/x": "train"}
    assert {(entry.language, entry.text, entry.split) for entry in entries} == {("zxx_Zxxx", None, None)}
    assert {entry.language for entry in read_sounds(sounds, language="und")} == {"und_Zyyy"}
    assert [entry.label for entry in read_sounds(sounds / "door 02.wav")] == ["door"]
    assert label_of(Path("x/07.wav"), Path("x")) == "07"


def test_import_writes_a_corpus_with_labels(sounds: Path, tmp_path: Path) -> None:
    result = import_corpus(sounds, out=tmp_path / "corpus", sounds=True)
    assert result.format == "sounds"
    corpus = Corpus.open(tmp_path / "corpus")
    assert {row.label for row in corpus} >= {"dog", "cat", "bass drum"} and corpus.languages == ("zxx_Zxxx",)
    folder, saved = SoundSource.open(sounds), SoundSource.open(tmp_path / "corpus")
    assert folder.hash == saved.hash and len(saved) == 6
    assert Sounds(noise=saved).hashes() == {"noise": saved.hash}


def test_draws_are_keyed_and_even(sounds: Path) -> None:
    source, again = SoundSource.open(sounds), SoundSource.open(sounds)
    names = [source.draw(torch_generator(0, number))[0] for number in range(1_200)]
    assert names == [again.draw(torch_generator(0, number))[0] for number in range(1_200)]
    counts = [names.count(row.id) for row in source.corpus]
    assert min(counts) > 150 and max(counts) < 250
    name, waveform = source.draw(torch_generator(0, 1))
    row = next(row for row in source.corpus if row.id == name)
    torch.testing.assert_close(waveform, source.corpus.audio(row), atol=1 / 32768, rtol=0)


def test_memory_stays_within_the_budget(sounds: Path) -> None:
    small = SoundSource(Corpus.open(sounds, language="und"), cache_bytes=2 * 16_010)
    large = SoundSource.open(sounds)
    for number in range(60):
        (left, a), (right, b) = (one.draw(torch_generator(3, number)) for one in (small, large))
        assert left == right and torch.equal(a, b)
    assert small._cache.used_bytes <= 2 * 16_010


def test_long_recordings_become_pieces(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "rain.wav", np.random.default_rng(0).normal(0, 0.1, 70 * 8_000), 8_000)
    source = SoundSource.open(tmp_path)
    assert len(source) > 1 and all(row.duration_seconds <= 31 and row.label == "rain" for row in source.corpus)


def test_bad_files_are_set_aside_with_reasons(sounds: Path) -> None:
    (sounds / "broken.wav").write_bytes(b"RIFF nothing")
    soundfile.write(sounds / "silent.wav", np.zeros(8_000), 16_000)
    source = SoundSource.open(sounds)
    assert len(source) == 6 and {Path(item.path).name for item in source.quarantined} == {"broken.wav", "silent.wav"}
    assert str(source) == "6 sounds, 0.00 h, from 'noises', 2 files set aside"


def test_noises_of_the_test_split_are_not_heard(sounds: Path) -> None:
    corpus = Corpus.open(sounds, language="und")
    split = corpus.with_utterances(tuple(row for row in corpus if row.id in ("dog/1", "train/x")))
    assert {row.split for row in split} == {None, "train"} and len(SoundSource(split)) == 2
    import dataclasses

    tested = corpus.with_utterances(tuple(dataclasses.replace(row, split="test") for row in corpus))
    with pytest.raises(DataError, match="none of its 6 sounds can be used for training"):
        SoundSource(tested)


def test_folders_without_a_sound_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        SoundSource.open(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no sound files in this folder or below it"):
        SoundSource.open(tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.wav").write_bytes(b"text")
    with pytest.raises(DataError, match=r"bad: none of its 0 sounds can be used .*1 set aside: .*a\.wav: "):
        SoundSource.open(tmp_path / "bad")


def test_a_sound_that_went_away_is_named(sounds: Path) -> None:
    source = SoundSource.open(sounds / "bass_drum.wav")
    (sounds / "bass_drum.wav").unlink()
    with pytest.raises(DataError, match="Cannot decode utterance 'bass_drum'"):
        source.draw(torch.Generator())
