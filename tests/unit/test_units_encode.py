"""Units: encoding, the file, refusals, and the places of labels beside frames."""

import json
import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allophone.audio.features import mfcc39
from allophone.errors import CheckpointError, ConfigError, DataError
from allophone.frames import FrameClock
from allophone.models.build import build_encoder
from allophone.models.wav2vec2_bert import Wav2Vec2BertConfig
from allophone.nn.clustering import Codebook, assign
from allophone.units import encode as units_encode
from allophone.units.beside_frames import labels_for_frames
from allophone.units.encode import Units, encode, encode_units
from allophone.units.fit import fit, fit_codebook


@pytest.fixture(scope="module")
def waveforms(speech):
    return {f"utt-{i}": speech(0.5 + 0.3 * i, seed=i) for i in range(5)}


@pytest.fixture(scope="module")
def book(waveforms):
    return fit_codebook(lambda: waveforms.items(), "mfcc39", 9, seed=0)


def clock(rate: float, receptive_field: int = 400) -> FrameClock:
    return FrameClock(hop=round(16_000 / rate), receptive_field=receptive_field)


def units_of(labels, *, rate=100.0, num_units=9, codebook_hash="0" * 16) -> Units:
    arrays = {name: np.asarray(values, dtype=np.uint16) for name, values in labels.items()}
    return Units(arrays, codebook_hash, clock(rate), num_units)


def test_units_are_the_nearest_centroids(waveforms, book):
    units = encode_units(lambda: waveforms.items(), book)
    assert list(units) == list(waveforms) and len(units) == 5
    for name, waveform in waveforms.items():
        assert units[name].dtype == torch.int64
        assert torch.equal(units[name], assign(mfcc39(waveform), book.centroids))
    assert units.codebook_hash == book.hash and units.unit_rate == 100.0 and units.num_units == 9
    assert int(units.counts().sum()) == book.info.frames_fitted


@pytest.mark.parametrize("most", [1, 200, 8192])
def test_units_lie_together_in_the_smallest_type(waveforms, book, monkeypatch, most):
    monkeypatch.setattr(units_encode, "LABELLED_FRAMES", most)
    units = encode_units(lambda: waveforms.items(), book)
    for name, waveform in waveforms.items():
        assert units.labels[name].dtype == np.uint8
        assert torch.equal(units[name], assign(mfcc39(waveform), book.centroids))
    assert len({id(labels.base) for labels in units.labels.values()}) == {1: 5, 200: 4, 8192: 1}[most]


def test_units_of_an_utterance_do_not_depend_on_the_others(waveforms, book):
    together = encode_units(lambda: waveforms.items(), book)
    alone = encode_units(lambda: [("utt-3", waveforms["utt-3"])], book)
    assert torch.equal(together["utt-3"], alone["utt-3"])


def test_units_of_a_model(waveforms):
    torch.manual_seed(0)
    config = Wav2Vec2BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    encoder, other = build_encoder(config).eval(), build_encoder(config).eval()
    book = fit_codebook(lambda: waveforms.items(), "model", 5, seed=0, encoder=encoder, layer=2)
    units = encode_units(lambda: waveforms.items(), book, encoder=encoder)
    assert {name: len(units[name]) for name in units} == {
        name: encoder.clock.count(len(waveform)) for name, waveform in waveforms.items()
    }
    with pytest.raises(DataError, match=r"fitted on model .* the encoder given is"):
        encode_units(lambda: waveforms.items(), book, encoder=other)
    with pytest.raises(ConfigError, match="needs both"):
        encode_units(lambda: waveforms.items(), book)


def test_voice_statistics_are_made_anew(waveforms):
    speakers = dict.fromkeys(waveforms, "one") | {"utt-4": "two"}
    book = fit_codebook(lambda: waveforms.items(), "mfcc39", 6, seed=0, normalization="voice", speakers=speakers)
    grouped = encode_units(lambda: waveforms.items(), book, speakers=speakers)
    louder = {name: 0.5 * waveform for name, waveform in waveforms.items()}
    again = encode_units(lambda: louder.items(), book, speakers=speakers)
    same = np.mean([float((grouped[name] == again[name]).float().mean()) for name in waveforms])
    assert same > 0.95
    single = encode_units(lambda: [("utt-4", waveforms["utt-4"])], book)
    assert torch.equal(single["utt-4"], grouped["utt-4"])


def test_the_file_comes_back(waveforms, book, tmp_path):
    units = encode_units(lambda: waveforms.items(), book)
    path = units.save(tmp_path / "deep" / "units.parquet")
    back = Units.load(path, book)
    assert list(back) == list(units)
    assert all(torch.equal(back[name], units[name]) for name in units)
    assert (back.codebook_hash, back.unit_rate, back.num_units) == (book.hash, 100.0, 9)
    assert [file.name for file in path.parent.iterdir()] == ["units.parquet"]


@settings(max_examples=8, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=5), st.lists(st.integers(0, 8), max_size=20), max_size=5))
def test_any_units_come_back(tmp_path_factory, labels):
    path = units_of(labels).save(tmp_path_factory.mktemp("units") / "units.parquet")
    back = Units.load(path)
    assert {name: back[name].tolist() for name in back} == labels


def test_large_codebooks_keep_their_ids(tmp_path):
    units = Units({"a": np.array([0, 69_999, 65_536], dtype=np.uint32)}, "h", clock(50.0), 70_000)
    assert Units.load(units.save(tmp_path / "u.parquet"))["a"].tolist() == [0, 69_999, 65_536]


def test_another_codebook_is_refused(waveforms, book, tmp_path):
    path = encode_units(lambda: waveforms.items(), book).save(tmp_path / "units.parquet")
    other = Codebook(book.centroids, replace(book.info, seed=1))
    with pytest.raises(DataError, match=f"made with codebook {book.hash}, but the codebook given is {other.hash}"):
        Units.load(path, other)


def test_collapsed_units_are_refused(speech, book, tmp_path):
    far = Codebook(torch.cat([book.centroids[:1], book.centroids[1:] + 1e4]), book.info)
    audio = [(str(i), speech(2.5, seed=i)) for i in range(5)]
    with pytest.raises(DataError, match=r"collapsed: 100\.0 % of .* frames are unit 0"):
        encode_units(lambda: audio, far)
    assert len(encode_units(lambda: audio, far, may_collapse=True)) == 5
    path = units_of({"a": [3] * 2_000 + [1, 2]}).save(tmp_path / "u.parquet")
    with pytest.raises(DataError, match="frames are unit 3"):
        Units.load(path)
    assert len(encode_units(lambda: audio[:1], far)) == 1


def test_ids_out_of_range_are_refused():
    with pytest.raises(DataError, match="'a' has unit 9, expected 0 to 8"):
        units_of({"a": [0, 9]}).check()


def test_an_id_that_occurs_twice(speech, book):
    with pytest.raises(DataError, match="'a' occurs twice"):
        encode_units(lambda: [("a", speech(0.5)), ("a", speech(0.5))], book)


def test_damaged_files_are_refused(tmp_path):
    path = units_of({"a": [1, 2, 3]}).save(tmp_path / "u.parquet")
    content = path.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="truncated or not Parquet"):
            Units.load(path)
    with pytest.raises(CheckpointError, match="no such file"):
        Units.load(tmp_path / "none.parquet")


def test_units_are_on_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    """A power cut between the two must not leave an empty file under the name."""
    path, synced = tmp_path / "u.parquet", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((os.fstat(descriptor).st_size, path.exists())))
    units_of({"a": [1, 2, 3]}).save(path)
    assert synced == [(path.stat().st_size, False)]


def test_other_tables_are_refused(tmp_path):
    path = units_of({"a": [1, 2, 3]}).save(tmp_path / "u.parquet")
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(CheckpointError, match="expected units of format 2"):
        Units.load(path)
    described = {
        b"allophone.units": json.dumps(
            {"format": 2, "codebook_hash": "h", "hop": 160, "receptive_field": 400, "num_units": 9}
        )
    }
    pq.write_table(table.take([0, 0]).replace_schema_metadata(described), path)
    with pytest.raises(CheckpointError, match="an id stands twice"):
        Units.load(path)


def test_corpus_to_units(speech, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "audio" / "fra").mkdir(parents=True)
    for i in range(3):
        soundfile.write(tmp_path / "audio" / "fra" / f"{i}.wav", speech(0.6, seed=i).numpy(), 16_000)
    book = fit(tmp_path / "audio", num_units=4)
    book.save(tmp_path / "book")
    calls = []
    units = encode(
        tmp_path / "audio", tmp_path / "book", out=tmp_path / "u.parquet", progress=lambda *count: calls.append(count)
    )
    assert len(units) == 3 and calls == [(1, 3), (2, 3), (3, 3)]
    assert list(Units.load(tmp_path / "u.parquet", book)) == list(units)


@settings(max_examples=100, deadline=None)
@given(st.integers(400, 40_000), st.sampled_from([320, 640, 1280]), st.sampled_from([1, 2, 4]))
def test_mfcc_labels_for_every_length(samples, hop, labels_per_frame):
    """Every frame of an encoder finds labels, each within half a step of the place where it belongs."""
    mfcc, encoder = clock(100.0), FrameClock(hop=hop, receptive_field=400 + hop)
    count, frames = mfcc.count(samples), encoder.count(samples)
    placed = labels_for_frames(torch.arange(count), mfcc, encoder, frames, labels_per_frame)
    assert placed.shape == (frames, labels_per_frame)
    assert bool((placed.diff(dim=1) >= 0).all()) and (frames == 0 or int(placed.max()) < count)
    for frame in range(frames):
        wanted = [encoder.center(frame + (r + 0.5) / labels_per_frame - 0.5) for r in range(labels_per_frame)]
        heard = [mfcc.center(int(unit)) for unit in placed[frame]]
        assert max(abs(a - b) for a, b in zip(wanted, heard, strict=True)) <= 80


def test_labels_of_fairseq_for_hubert():
    placed = labels_for_frames(torch.arange(100), clock(100.0), clock(50.0), 49)
    assert placed[:, 0].tolist() == [2 * t for t in range(49)]


def test_labels_stand_at_the_center_of_a_wide_frame():
    wide = FrameClock(hop=640, receptive_field=2_320)
    assert labels_for_frames(torch.arange(40), clock(100.0), wide, 7, 2).tolist()[:2] == [[5, 7], [9, 11]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(0, 200))
def test_labels_of_a_crop_are_a_crop_of_the_labels(frames, offset):
    labels = torch.randint(0, 50, (1_000,), generator=torch.Generator().manual_seed(1))
    encoder = clock(25.0, 880)
    whole = labels_for_frames(labels, clock(100.0), encoder, 250, 2)
    crop = labels_for_frames(labels[4 * offset : 4 * (offset + frames)], clock(100.0), encoder, frames, 2)
    assert torch.equal(crop[: 250 - offset], whole[offset : offset + frames])


def test_labels_are_spread_over_the_frame():
    labels = torch.arange(12)
    assert labels_for_frames(labels, clock(100.0), clock(25.0, 880), 3, 2).tolist() == [[1, 3], [5, 7], [9, 11]]
    assert labels_for_frames(labels, clock(50.0), clock(50.0), 12).tolist() == [[i] for i in range(12)]
    halved = labels_for_frames(labels[:3], clock(25.0, 720), clock(50.0, 400), 6)
    assert halved.tolist() == [[0], [0], [1], [1], [2], [2]]
    assert labels_for_frames(labels[:1], clock(100.0), clock(50.0), 1, 2).tolist() == [[0, 0]]


def test_frames_beyond_the_last_unit_are_cut_off():
    assert labels_for_frames(torch.arange(10), clock(50.0), clock(50.0), 12).shape == (10, 1)
    assert labels_for_frames(torch.arange(1), clock(25.0, 720), clock(50.0, 400), 4).shape == (2, 1)


@pytest.mark.parametrize(("count", "frames"), [(10, 13), (20, 10), (100, 50)])
def test_units_and_frames_that_disagree(count, frames):
    with pytest.raises(DataError, match=f"got {count} units at 50 Hz .* {frames} frames at 50 Hz.*frames apart"):
        labels_for_frames(torch.arange(count), clock(50.0), clock(50.0), frames)


def test_impossible_numbers():
    with pytest.raises(DataError, match="at least one label a frame"):
        labels_for_frames(torch.arange(3), clock(50.0), clock(50.0), 3, 0)


def test_aligned_units_are_those_of_labels_for_frames(waveforms, book):
    units = encode_units(lambda: waveforms.items(), book)
    encoder = FrameClock(hop=640, receptive_field=880)
    frames = {name: encoder.count(len(waveform)) for name, waveform in waveforms.items()}
    rows = units.aligned(frames, encoder, 2)
    for name, count in frames.items():
        assert rows[name].tolist() == labels_for_frames(units[name], clock(100.0), encoder, count, 2).tolist()
    with pytest.raises(DataError, match="1 of 1 utterances have no units, the first is 'new'"):
        units.aligned({"new": 3}, encoder)
    with pytest.raises(DataError, match="for utterance 'utt-0'"):
        units.aligned({"utt-0": 99}, encoder)
