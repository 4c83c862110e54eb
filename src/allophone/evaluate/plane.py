"""Embeddings as points of a plane, to look at; no number is read off such a picture.

Source: McInnes et al. 2018, arXiv:1802.03426 (UMAP), by the package ``umap-learn``, an extra; without it the two
strongest principal components are drawn, and the picture says so. Shape letters: N embeddings, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from allophone.evaluate.report_media import STYLE, svg_address

NEIGHBORS, SHORTEST, SEED = 15, 0.1, 42
"""Of UMAP: neighbors, least distance, random state."""
MOST_POINTS = 1000
"""Embeddings in a picture."""
MARKERS = "o^sDvP*X"
"""One after another as colors repeat."""


def plane(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    """Places of embeddings in a plane and how they were found; near ones have a small angle between them.

    Args:
        vectors: Shape ``(N, D)``.

    Returns:
        Shape ``(N, 2)``, and ``UMAP`` or ``principal components``.
    """
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if find_spec("umap") is not None and len(unit) > NEIGHBORS:
        import umap

        fitted = umap.UMAP(n_neighbors=NEIGHBORS, min_dist=SHORTEST, metric="cosine", random_state=SEED, n_jobs=1)
        return np.asarray(fitted.fit_transform(unit), dtype=np.float64), "UMAP"
    places: NDArray[np.float64] = PCA(2, svd_solver="full").fit_transform(unit)
    return places, "principal components"


def draw_planes(
    spaces: Sequence[tuple[str, NDArray[np.float64]]], classes: NDArray[np.int64], names: Sequence[str]
) -> str:
    """Pictures side by side of the same recordings in several spaces, a color and marker for each class.

    Args:
        spaces: Title and embeddings, shape ``(N, D)``.
        classes: Shape ``(N,)``; the first :data:`MOST_POINTS` are drawn.
        names: Of the classes; shown where they are few.

    Returns:
        A ``data:`` address of an SVG.
    """
    colors = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    shown = classes[:MOST_POINTS]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(spaces), 4.6), layout="constrained")
        for number, (title, vectors) in enumerate(spaces):
            axes = figure.add_subplot(1, len(spaces), number + 1)
            places, how = plane(vectors[:MOST_POINTS])
            for name in np.unique(shown):
                own = places[shown == name]
                style = {"color": colors[name % 10], "marker": MARKERS[name // 10 % len(MARKERS)]}
                axes.scatter(own[:, 0], own[:, 1], s=14, alpha=0.75, linewidths=0, label=names[name], **style)
            axes.set_title(f"{title} ({how})", fontsize=11)
            axes.set_xticks([])
            axes.set_yticks([])
        if len(names) <= 24:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
        return svg_address(figure)
