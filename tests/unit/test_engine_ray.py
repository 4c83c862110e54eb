"""The engine on a real Ray cluster: one node here; three, with one killed in the middle, in the tests marked slow."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from allophone import engine as module
from allophone.cli.main import main
from allophone.data.audit import audit
from allophone.data.corpus import Corpus
from allophone.engine import RayEngine
from allophone.errors import AudioError, ClusterError
from allophone.run.starter import starter_corpus, starter_model
from allophone.units.encode import encode
from allophone.units.fit import fit

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of Ray's own log files
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(autouse=True)
def _no_network() -> None:
    """Nodes talk over this machine's own address, which is not the local one; nothing leaves the machine."""


@contextmanager
def cluster_of(nodes: int) -> Iterator[tuple[Any, list[Any]]]:
    """A Ray cluster of real processes on this machine, and those of its nodes that may be killed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    try:
        yield cluster, [cluster.add_node(**NODE) for _ in range(nodes - 1)]
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with cluster_of(1) as (cluster, _):
        yield cluster


def sometimes_fails(number: int) -> int:
    if number == 7:
        raise AudioError("Utterance 'seven' has no frame.")
    if number == 8:
        raise KeyError("eight")
    return number * number


def dies(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def where(number: int) -> tuple[int, str]:
    time.sleep(0.3)
    return number, ray.get_runtime_context().get_node_id()


class Weighs:
    """Uses a shared value."""

    def __init__(self, shared: Any) -> None:
        self.shared = shared

    def __call__(self, number: int) -> tuple[int, int]:
        return number * self.shared.get()["weight"], id(self.shared.get())


def test_one_node(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test, because a cluster takes long to start: order, bound, shared values, errors."""
    monkeypatch.setattr(module, "RETRIES", 1)
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 20:
            yield taken % 7
            taken += 1

    with RayEngine(cluster.address, in_flight=3) as engine:
        ahead, results = [], []
        for result in engine.map(sometimes_fails, items()):
            results.append(result)
            ahead.append(taken + 1 - len(results))
        assert results == [(number % 7) ** 2 for number in range(20)]
        assert max(ahead) <= 3
        weighed = list(engine.map(Weighs(engine.share({"weight": 3})), range(6)))
        assert [value for value, _ in weighed] == [0, 3, 6, 9, 12, 15]
        assert len({place for _, place in weighed}) == 1
        with pytest.raises(AudioError, match="'seven'") as caught:
            list(engine.map(sometimes_fails, [1, 7]))
        assert type(caught.value) is AudioError
        with pytest.raises(KeyError, match="eight") as unexpected:
            list(engine.map(sometimes_fails, [8]))
        assert "in sometimes_fails" in str(unexpected.value.__cause__)
        with pytest.raises(ClusterError, match=r"lost a shard for good: WorkerCrashedError.* 1 times"):
            list(engine.map(dies, [1]))
        monkeypatch.setattr(engine._ray, "get", out_of_memory)
        with pytest.raises(ClusterError, match=r"ran out of memory 4 times .*--num-cpus N.* Ray says: 9 of 10 GiB"):
            list(engine.map(sometimes_fails, [1]))


def out_of_memory(reference: Any) -> None:
    raise ray.exceptions.OutOfMemoryError("9 of 10 GiB")


def recordings(count: int) -> Corpus:
    """Real speech in several languages."""
    corpus = starter_corpus()
    return corpus.with_utterances(corpus.utterances[:: len(corpus) // count][:count])


def killing(cluster: Any, node: Any, at: int) -> Any:
    """Progress that kills a node when so much is done, and notes that it did."""
    killed: list[int] = []

    def progress(done: int, total: int) -> None:
        if done >= at and not killed:
            killed.append(done)
            cluster.remove_node(node, allow_graceful=False)

    progress.killed = killed  # type: ignore[attr-defined]
    return progress


@pytest.mark.slow
def test_same_bytes_with_a_node_killed_in_the_middle(tmp_path: Path) -> None:
    """Units and codebook of a real encoder over real recordings: three nodes, then two, then one, as here."""
    corpus, model = recordings(600), starter_model()
    book = fit(corpus, model=model, layer=2, num_units=12, iterations=2)
    encode(corpus, book, model=model, out=tmp_path / "here.parquet")
    heard = audit(corpus, tmp_path / "here.html", players=0)
    with cluster_of(3) as (cluster, nodes), RayEngine(cluster.address) as engine:
        on = list(engine.map(where, range(18)))
        assert [number for number, _ in on] == list(range(18)) and len({node for _, node in on}) == 3
        progress = killing(cluster, nodes[0], 100)
        encode(corpus, book, model=model, out=tmp_path / "there.parquet", engine=engine, progress=progress)
        assert 100 <= progress.killed[0] < 200 and len(live()) == 2
        assert (tmp_path / "there.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
        progress = killing(cluster, nodes[1], 2)
        again = fit(corpus, model=model, layer=2, num_units=12, iterations=2, engine=engine, progress=progress)
        assert progress.killed and len(live()) == 1
        assert again.hash == book.hash
        assert audit(corpus, tmp_path / "there.html", players=0, engine=engine) == heard


def live() -> list[Any]:
    return [node for node in ray.nodes() if node["Alive"]]


@pytest.mark.slow
def test_the_command_line_on_a_cluster(tmp_path: Path) -> None:
    """The same verbs with --engine ray write the same bytes."""
    recordings(150).save(tmp_path / "corpus")
    corpus = ["--corpus", str(tmp_path / "corpus")]
    with cluster_of(2) as (cluster, _):
        for name, place in (("here", []), ("there", ["--engine", "ray", "--address", cluster.address])):
            book, units = str(tmp_path / name), str(tmp_path / f"{name}.parquet")
            fitting = ["units", "fit", *corpus, "--num-units", "9", "--normalization", "voice", "--out", book]
            assert main([*fitting, *place]) == 0
            assert main(["units", "encode", *corpus, "--codebook", book, "--out", units, *place]) == 0
            page = str(tmp_path / f"{name}.html")
            assert main(["corpus", "audit", str(tmp_path / "corpus"), "--out", page, *place]) == 0
    for file in ("codebook.safetensors", "codebook.json"):
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()
