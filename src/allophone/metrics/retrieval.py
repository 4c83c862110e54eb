"""Recall at k, and dynamic time warping of all pairs of two lists of sequences.

Shape legend: Q queries, C candidates, T frames, D dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from allophone.errors import ConfigError, DataError, NumericsError, ShapeError

Distance = Literal["cosine", "euclidean"]


def recall_at(similarity: Tensor, truth: Tensor, ks: Sequence[int] = (1, 5)) -> dict[int, Tensor]:
    """Whether each query finds a right candidate among its k most similar.

    Ties are broken as chance would: where r right candidates tie for the best right place with t wrong ones, a query
    gets the probability that a random order of these r + t puts a right one among the first k. So constant embeddings
    score :func:`chance_recall` and not 0 or 100 %.

    Args:
        similarity: Larger = more alike. Shape ``(Q, C)``.
        truth: Index of the right candidate, shape ``(Q,)`` int64, or right ones marked, shape ``(Q, C)`` bool.
        ks: Depths.

    Returns:
        For each k the hits in [0, 1], shape ``(Q,)`` float64.

    Raises:
        ShapeError: ``truth`` fits neither shape.
        NumericsError: A similarity is NaN.
        DataError: A query has no right candidate.
    """
    num_queries, num_candidates = similarity.shape
    if truth.dtype != torch.bool and truth.shape == (num_queries,):
        truth = torch.nn.functional.one_hot(truth, num_candidates).bool()
    if truth.shape != similarity.shape or truth.dtype != torch.bool:
        raise ShapeError(
            f"recall_at: truth is {tuple(truth.shape)} {truth.dtype}, expected ({num_queries},) int64 "
            f"or ({num_queries}, {num_candidates}) bool."
        )
    if bool(similarity.isnan().any()):
        row = int(similarity.isnan().any(dim=1).nonzero()[0])
        raise NumericsError(f"recall_at: a similarity of query {row} is NaN; look for empty or constant frames.")
    if not bool(truth.any(dim=1).all()):
        row = int((~truth.any(dim=1)).nonzero()[0])
        raise DataError(f"recall_at: query {row} has no right candidate; drop it or add its partner.")
    best = similarity.masked_fill(~truth, -math.inf).amax(dim=1, keepdim=True)
    better = ((similarity > best) & ~truth).sum(dim=1).double()
    level = similarity == best
    wrong, tied = (level & ~truth).sum(dim=1).double(), level.sum(dim=1).double()
    return {k: 1.0 - _missed(wrong, tied, k - better, min(k, num_candidates)) for k in ks}


def _missed(wrong: Tensor, tied: Tensor, places: Tensor, most: int) -> Tensor:
    """Chance that the first ``places`` of ``tied`` candidates in random order are all ``wrong``; shapes ``(Q,)``."""
    missed = torch.ones_like(wrong)
    for place in range(most):
        drawn = (wrong - place).clamp(min=0) / (tied - place).clamp(min=1)
        missed = torch.where(place < places, missed * drawn, missed)
    return missed


def chance_recall(truth: Tensor, ks: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Expected recall of a random order; k/C when each query has one right candidate.

    Args:
        truth: Right candidates marked. Shape ``(Q, C)``, bool.
        ks: Depths.
    """
    num_candidates = truth.shape[1]
    right = truth.sum(dim=1).tolist()

    def hit(relevant: int, k: int) -> float:
        k = min(k, num_candidates)
        return 1.0 - math.comb(num_candidates - relevant, k) / math.comb(num_candidates, k)

    return {k: sum(hit(relevant, k) for relevant in right) / len(right) for k in ks}


GROUP_FRAMES = 2**10
"""Frames of the sequences that are warped together, on each side."""


def dtw_distance(first: Tensor, second: Tensor, distance: Distance = "cosine") -> float:
    """Path-normalized dynamic time warping distance of two sequences, shapes ``(T1, D)`` and ``(T2, D)``.

    Example:
        >>> dtw_distance(torch.eye(3), torch.eye(3))
        0.0
    """
    return float(dtw_distances([first], [second], distance)[0, 0])


def dtw_distances(
    queries: Sequence[Tensor],
    candidates: Sequence[Tensor],
    distance: Distance = "cosine",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Dynamic time warping distance of every query to every candidate.

    The cheapest path of steps right, down and diagonal, each of weight 1, divided by T1 + T2. A diagonal step of
    weight 2 (Sakoe and Chiba's symmetric form) makes that division exact but detours free: on two voices of the
    same prompts it halves recall (log-mel, 24 slices: 20 against 34 % at 1), as does dividing by the path's length.

    Args:
        queries: Q tensors of shape ``(T, D)``; T may vary.
        candidates: C tensors of shape ``(T, D)``.
        distance: Of two frames. ``"cosine"``: 1 - cosine, in [0, 2] (of square roots of probabilities: the squared
            Hellinger distance); ``"euclidean"``.
        progress: Called with (queries done, Q).

    Returns:
        Distances, shape ``(Q, C)``, float32.

    Raises:
        ShapeError: A sequence is empty or not two-dimensional, or dims differ.
        ConfigError: ``distance`` is unknown.

    Source:
        Sakoe and Chiba 1978, "Dynamic programming algorithm optimization for spoken word recognition", P = 0.
        Deviations: no window; weights as above.
    """
    if distance not in ("cosine", "euclidean"):
        raise ConfigError(f"dtw: unknown distance {distance!r}; known: cosine, euclidean.")
    _check_sequences(queries, candidates)
    result = torch.empty(len(queries), len(candidates))
    rows, columns = (_groups_of_similar_length(sequences, distance) for sequences in (queries, candidates))
    done = 0
    for group in rows:
        for other in columns:
            found = _warp(_local(group.frames, other.frames, distance), group.lengths, other.lengths)
            result[group.places[:, None], other.places[None]] = found.cpu()
        done += len(group.places)
        if progress is not None:
            progress(done, len(queries))
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Sequences of like length."""

    places: Tensor
    """Where they stood. Shape ``(n,)``."""
    frames: Tensor
    """Padded, shape ``(n, T, D)``."""
    lengths: Tensor
    """Shape ``(n,)``."""


def _check_sequences(queries: Sequence[Tensor], candidates: Sequence[Tensor]) -> None:
    if not queries or not candidates:
        raise ShapeError(f"dtw: {len(queries)} queries and {len(candidates)} candidates; at least one each is needed.")
    dim = queries[0].shape[-1]
    for name, sequences in (("query", queries), ("candidate", candidates)):
        for index, sequence in enumerate(sequences):
            if sequence.ndim != 2 or len(sequence) == 0 or sequence.shape[1] != dim:
                raise ShapeError(f"dtw: {name} {index} is {tuple(sequence.shape)}, expected (frames >= 1, {dim}).")


def _prepare(sequence: Tensor, distance: Distance) -> Tensor:
    sequence = sequence.detach().float()
    return torch.nn.functional.normalize(sequence, dim=-1) if distance == "cosine" else sequence


def _groups_of_similar_length(sequences: Sequence[Tensor], distance: Distance) -> list[_Group]:
    """Shortest first; of some :data:`GROUP_FRAMES` each, so that vectors are long, padding little, memory bounded."""
    prepared = [_prepare(sequence, distance) for sequence in sequences]
    lengths = torch.tensor([len(sequence) for sequence in prepared])
    order = lengths.argsort(stable=True)
    groups, start = [], 0
    while start < len(order):
        end = start + 1
        while end < len(order) and int(lengths[order[end]]) * (end + 1 - start) <= GROUP_FRAMES:
            end += 1
        places = order[start:end]
        frames = torch.nn.utils.rnn.pad_sequence([prepared[int(place)] for place in places], batch_first=True)
        groups.append(_Group(places=places, frames=frames, lengths=lengths[places]))
        start = end
    return groups


def _local(queries: Tensor, candidates: Tensor, distance: Distance) -> Tensor:
    """Distances of all frames: (q, T1, D), (n, T2, D) -> (q, T1, T2, n), contiguous."""
    count, frames, dim = candidates.shape
    flat = candidates.permute(2, 1, 0).reshape(dim, frames * count)
    product = queries.flatten(0, 1) @ flat
    if distance == "cosine":
        # Rounding leaves about -1e-7 for equal frames; a distance is never negative.
        local = product.neg_().add_(1.0).clamp_(min=0.0)
    else:
        squares = queries.flatten(0, 1).square().sum(dim=1)[:, None] + flat.square().sum(dim=0)[None, :]
        local = squares.sub_(product, alpha=2.0).clamp_(min=0.0).sqrt_()
    return local.view(*queries.shape[:2], frames, count)


def _warp(local: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Best path cost over the sum of both lengths, of each pair, along anti-diagonals.

    What is padded lies behind the end of a pair, so no path to it leads there.

    Args:
        local: Frame distances, shape ``(q, T1, T2, n)``, contiguous.
        first: Real frames of each of the q queries. Shape ``(q,)``.
        second: Real frames of each of the n candidates. Shape ``(n,)``.

    Returns:
        Shape ``(q, n)``.
    """
    queries, rows, columns, count = local.shape
    ends: dict[int, list[tuple[int, int, int]]] = {}
    for query, length in enumerate(first.tolist()):
        for candidate, other in enumerate(second.tolist()):
            ends.setdefault(length + other - 2, []).append((length, query, candidate))
    found = local.new_empty(queries, count)
    # Index i + 1 of a diagonal holds row i, index 0 the wall before the first row.
    before, last, current = (local.new_full((rows + 1, queries, count), math.inf) for _ in range(3))
    before[0] = 0.0
    for diagonal in range(rows + columns - 1):
        low, high = max(0, diagonal - columns + 1), min(rows - 1, diagonal)
        step = local.as_strided(
            (high - low + 1, queries, count),
            ((columns - 1) * count, rows * columns * count, 1),
            local.storage_offset() + (low * columns + diagonal - low) * count,
        )
        target = current[low + 1 : high + 2]
        torch.minimum(before[low : high + 1], last[low : high + 1], out=target)
        torch.minimum(target, last[low + 1 : high + 2], out=target)
        target.add_(step)
        current[low] = math.inf
        if high + 2 <= rows:
            current[high + 2] = math.inf
        if diagonal in ends:
            row, query, candidate = torch.tensor(ends[diagonal]).T
            found[query, candidate] = current[row, query, candidate]
        before, last, current = last, current, before
    return found / (first[:, None] + second[None]).to(local.device)
