"""Engines: order, bounds and refusals; and that shards leave no trace in a codebook, units, an audit or an import."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
import torch
from tiny_model import encoder

from allophone import engine as module
from allophone.data.audit import audit
from allophone.data.corpus import Corpus
from allophone.data.importing import import_corpus
from allophone.engine import LocalEngine, Shard, confirm_unreadable, cut, open_engine
from allophone.errors import AudioError, ClusterError, ConfigError, DataError
from allophone.frames import SAMPLE_RATE
from allophone.models.conversion import load_encoder, save_encoder
from allophone.nn.clustering import ShardedFrames, fit_kmeans
from allophone.nn.reservoir import draw_sample, one_shard
from allophone.units import shards as unit_shards
from allophone.units.encode import encode, encode_units
from allophone.units.fit import fit, fit_codebook


@dataclass(frozen=True)
class Elsewhere:
    """A cluster whose machines lack a file."""

    missing: str = ""
    elsewhere: bool = True

    def share(self, value):
        return LocalEngine().share(value)

    def map(self, function, items):
        for item in items:
            names = [str(getattr(one, "path", "")) for one in item.items]
            hidden = [Path(name) for name in names if self.missing and self.missing in name]
            for path in hidden:
                path.rename(path.with_suffix(".hidden"))
            result = function(item)
            for path in hidden:
                path.with_suffix(".hidden").rename(path)
            yield result


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, speech) -> Corpus:
    """Twelve utterances of three voices and one that nobody knows."""
    root = tmp_path_factory.mktemp("engine")
    (root / "in").mkdir()
    lines = ["path\tspeaker\tlanguage"]
    for number in range(12):
        waveform = speech(0.4 + 0.11 * number, seed=number)
        soundfile.write(root / f"in/{number:02}.wav", waveform.numpy(), SAMPLE_RATE)
        lines.append(f"{number:02}.wav\t{['ann', 'bob', 'cid', ''][number % 4]}\tfra")
    (root / "in/table.tsv").write_text("\n".join(lines) + "\n")
    return import_corpus(root / "in/table.tsv", out=root / "corpus").corpus


def stream(corpus):
    return lambda: ((row.id, corpus.audio(row)) for row in corpus)


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order(threads):
    assert list(LocalEngine(threads).map(lambda n: n * n, range(50))) == [n * n for n in range(50)]
    assert list(LocalEngine(threads).map(str, [])) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_items_are_taken_only_a_little_ahead(threads):
    taken = 0

    def items():
        nonlocal taken
        while taken < 100:
            taken += 1
            yield taken

    ahead = [taken - given for given, _ in enumerate(LocalEngine(threads).map(str, items()))]
    assert len(ahead) == 100 and max(ahead) <= 2 * threads


def test_an_error_keeps_its_type_and_stops_the_rest():
    begun, lock = [], threading.Lock()

    def fail(number):
        with lock:
            begun.append(number)
        if number == 3:
            raise AudioError("Utterance 'three' is silent.")
        return number

    with pytest.raises(AudioError, match="'three'"):
        list(LocalEngine(2).map(fail, range(1_000)))
    assert len(begun) < 10


def test_cut_keeps_order_and_loses_nothing():
    shards = cut(range(10), 4)
    assert [shard.number for shard in shards] == [0, 1, 2]
    assert [item for shard in shards for item in shard.items] == list(range(10))
    assert cut([], 4) == ()


def test_sample_does_not_depend_on_the_shards():
    frames = torch.randn(3_000, 4)
    whole = draw_sample(one_shard(lambda: frames.split(100)), 4, 7, 500)
    for size in (1, 5, 13):
        shards = cut(list(frames.split(100)), size)
        starts = tuple(100 * size * shard.number for shard in shards)
        sharded = ShardedFrames(shards, starts, lambda shard: shard.items, LocalEngine(2))
        assert torch.equal(draw_sample(sharded, 4, 7, 500).frames, whole.frames)
        torch.testing.assert_close(
            fit_kmeans(sharded, 5, seed=0, init_frames=500, iterations=3).centroids,
            fit_kmeans(lambda: frames.split(100), 5, seed=0, init_frames=500, iterations=3).centroids,
        )


def test_frames_that_change_after_they_were_counted_are_refused():
    shards = (Shard(0, (torch.randn(50, 3),)), Shard(1, (torch.randn(50, 3),)))
    changed = ShardedFrames(shards, (0, 40), lambda shard: shard.items, LocalEngine())
    with pytest.raises(DataError, match="begins at frame 50 of the stream, expected 40"):
        fit_kmeans(changed, 4, seed=0)


@pytest.mark.parametrize("normalization", ["none", "voice"])
def test_shards_leave_no_trace_in_codebook_and_units(corpus, monkeypatch, normalization):
    monkeypatch.setattr(unit_shards, "SHARD_UTTERANCES", 5)
    speakers = {row.id: row.speaker for row in corpus}
    sharded = fit(corpus, num_units=3, iterations=4, normalization=normalization)
    whole = fit_codebook(
        stream(corpus), "mfcc39", 3, seed=0, iterations=4, normalization=normalization, speakers=speakers
    )
    assert sharded.info == whole.info
    torch.testing.assert_close(sharded.centroids, whole.centroids)
    units = encode(corpus, whole)
    straight = encode_units(stream(corpus), whole, speakers=speakers)
    assert list(units) == list(straight)
    assert all(torch.equal(units[name], straight[name]) for name in units)


def test_an_encoder_is_shared_with_the_workers(corpus, tmp_path):
    save_encoder(encoder(), tmp_path / "model", "card", parents=[], created_by="test")
    book = fit(corpus, model=tmp_path / "model", layer=1, num_units=3, iterations=2)
    whole = fit_codebook(
        stream(corpus), "model", 3, seed=0, iterations=2, encoder=load_encoder(tmp_path / "model"), layer=1
    )
    assert book.info == whole.info
    assert len(encode(corpus, book, model=tmp_path / "model", engine=Elsewhere())) == len(corpus)
    with pytest.raises(ConfigError, match="needs both"):
        encode(corpus, book)


def test_the_engine_does_not_change_an_audit_or_an_import(corpus, tmp_path):
    here = audit(corpus, tmp_path / "a.html", players=0, workers=3)
    assert audit(corpus, tmp_path / "b.html", players=0, engine=Elsewhere()) == here
    source = corpus.audio_path(corpus.utterances[0]).parent / "table.tsv"
    done = []
    again = import_corpus(source, out=tmp_path / "c", engine=Elsewhere(), progress=lambda *step: done.append(step))
    assert again.corpus.hash == corpus.hash and done == [(number, 12) for number in range(1, 13)]


def test_a_worker_that_does_not_see_the_files_is_named(corpus, tmp_path):
    blind = Elsewhere(missing="07.wav")
    with pytest.raises(ClusterError, match=r"cannot read 1 recordings that this machine reads, .*07\.wav"):
        audit(corpus, tmp_path / "a.html", engine=blind)
    source = corpus.audio_path(corpus.utterances[0]).parent / "table.tsv"
    with pytest.raises(ClusterError, match=r"same path on every machine"):
        import_corpus(source, out=tmp_path / "c", engine=blind)


def test_what_nobody_can_read_is_no_fault_of_the_cluster():
    confirm_unreadable(Elsewhere(), ["a.wav"], lambda: ["a.wav", "b.wav"])
    confirm_unreadable(LocalEngine(), ["a.wav"], lambda: [])
    with pytest.raises(ClusterError, match=r"the first is 'a\.wav'"):
        confirm_unreadable(Elsewhere(), ["b.wav", "a.wav"], lambda: [])


def test_an_address_without_a_cluster_is_refused():
    with open_engine("local") as engine:
        assert engine is None
    with pytest.raises(ConfigError, match="add --engine ray"), open_engine("local", "10.0.0.1:6379"):
        pass


def test_ray_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ConfigError, match=r"every machine of the cluster: pip install 'allophone\[ray\]'"),
        open_engine("ray"),
    ):
        pass


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "ray://head"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        module._require_answer(address)


def test_an_address_where_nothing_answers_is_refused_at_once():
    with pytest.raises(ClusterError, match=r"Nothing answers at 127\.0\.0\.1:1 .*`ray status`"):
        module._require_answer("127.0.0.1:1")


def test_a_worker_with_other_versions_refuses(monkeypatch):
    versions = module._versions()
    assert module._work(versions, str, 3) == "3"
    with pytest.raises(ClusterError, match=r"torch .* \(wanted: 1\.0\)"):
        module._work(versions | {"torch": "1.0"}, str, 3)
