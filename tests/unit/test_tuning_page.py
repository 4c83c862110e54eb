"""What the page of a tuning picks out to be heard, and pictures with and without UMAP."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.decomposition import PCA

from allophone.evaluate import plane as plane_module
from allophone.evaluate.embedding_probes import Embedded
from allophone.evaluate.plane import draw_planes, plane
from allophone.evaluate.tuning_page import (
    Pair,
    TuningPage,
    confusions,
    crossings,
    worst_first,
    write_tuning_page,
)
from allophone.metrics.intervals import Interval


def at(degrees: list[float], classes: list[int]) -> Embedded:
    """Vectors of length 2 in a plane, by their angle."""
    angles = np.radians(degrees)
    return Embedded.of(2 * np.stack([np.cos(angles), np.sin(angles)], axis=1), classes)


TRAIN = at([0, 10, 90, 100, 200], [0, 0, 1, 1, 2])
TEST = at([5, 60, 88, 150, 98], [0, 0, 0, 2, 1])


def test_neighbors_across_a_border_nearest_first() -> None:
    found = crossings(TRAIN, TEST, 10)
    assert [(one.test, one.train) for one in found] == [(2, 2), (1, 2)]
    assert found[0].cosine == pytest.approx(np.cos(np.radians(2)))
    assert crossings(TRAIN, TEST, 1) == found[:1]
    assert crossings(TRAIN, TRAIN, 5) == []


def test_confusions_by_how_often_with_the_likest_recording() -> None:
    predicted = np.array([0, 1, 1, 1, 1])
    found = confusions(predicted, TRAIN, TEST, 5)
    assert [(count, one.test, one.train) for count, one in found] == [(2, 2, 2), (1, 3, 3)]
    assert confusions(TEST.classes, TRAIN, TEST, 5) == []
    assert worst_first(["b", "a", "c"], [50.0, 50.0, 10.0]) == (("c", 10.0), ("a", 50.0), ("b", 50.0))


def test_principal_components_without_umap_and_umap_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 5))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    monkeypatch.setattr(plane_module, "find_spec", lambda name: None)
    places, how = plane(vectors)
    assert how == "principal components"
    np.testing.assert_allclose(np.abs(places), np.abs(PCA(2).fit_transform(unit)), atol=1e-10)
    stand_in, asked = ModuleType("umap"), {}

    class UMAP:
        def __init__(self, **settings: object) -> None:
            asked.update(settings)

        def fit_transform(self, values: np.ndarray) -> np.ndarray:
            return values[:, :2]

    stand_in.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", stand_in)
    monkeypatch.setattr(plane_module, "find_spec", lambda name: stand_in)
    places, how = plane(vectors)
    assert how == "UMAP" and np.array_equal(places, unit[:, :2])
    assert asked["metric"] == "cosine" and asked["random_state"] == 42 and asked["n_neighbors"] == 15
    assert plane(vectors[:10])[1] == "principal components"  # too few for so many neighbors


def test_the_page_escapes_and_has_its_players(tmp_path: Path) -> None:
    pair = Pair(said="1 times: a was taken for b", heard="data:x", heard_is="<b>id</b>", other="data:y", other_is="o")
    page = TuningPage(
        label="speaker",
        names=("a", "b", "c"),
        facts=(("Model", "m"),),
        readers=("linear",),
        cells={"pair": {"linear": Interval(51.0, 40.0, 60.0, 5)}},
        shown="pair",
        counts=np.array([[1, 2, 0], [0, 1, 0], [0, 1, 0]]),
        by_class=(("c", 0.0), ("a", 33.3), ("b", 100.0)),
        by_speaker=(),
        confused=(pair,),
        crossed=(),
        spaces=(("frozen", TEST), ("pair", TEST)),
    )
    text = write_tuning_page(page, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;id" in text and text.count("<audio") == 2 and "51.0" in text and "40.0–60.0" in text
    assert "Every test recording is nearest to one of its own class" in text
    assert text.index(">c<") < text.index(">b<") and "http" not in text.replace("http-equiv", "")
    assert draw_planes([("frozen", TEST.vectors)], TEST.classes, page.names).startswith("data:image/svg+xml")
