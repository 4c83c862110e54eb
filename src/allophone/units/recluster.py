"""Anchored re-clustering: units of a changed encoder on more audio whose old ids keep their meaning.

Every unit of the old codebook follows the frames that it labels from the old encoder's space into the new one's, so
that its meaning survives the drift of the encoder; new units are appended where these leave the greatest distortion;
and a map says which old units were split, merged or died. What was trained on old ids (a vocoder, a unit language
model) then still reads them. The paper re-clusters anew (arXiv:2406.14092), which gives every id another meaning; the
rest here is our choice.

Shape letters: A units of the old codebook, K units, T frames, D dim. Frames are streamed and never written; labels by
the old codebook are held, two bytes a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.errors import ConfigError, DataError
from allophone.metrics.units import joint_counts, usage_entropy
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash
from allophone.nn.clustering import assign, fit_kmeans
from allophone.nn.codebook import Codebook, IdMap
from allophone.units.beside_frames import labels_for_frames
from allophone.units.encode import Units, encode_units
from allophone.units.extract import FrameCache, FrameExtractor, Speakers, VoiceNormalizer, Waveforms
from allophone.units.fit import Heard

SPLIT_SHARE = 0.1
"""Share of an old unit's frames that appended ids must carry for it to count as split."""
MERGED_SHARE = 0.5
"""Share of an old unit's frames that one other old id must carry, and more, for it to count as merged into that."""


def recluster(
    waveforms: Waveforms,
    parent: Codebook,
    *,
    encoder: Encoder | None,
    parent_encoder: Encoder | None,
    new_units: int,
    seed: int,
    move: float = 0.0,
    anchored_on: Collection[str] | None = None,
    iterations: int = 20,
    speakers: Speakers | None = None,
    init_frames: int | None = None,
    cache: FrameCache | None = None,
    parent_cache: FrameCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Codebook:
    """Units of another encoder on a corpus, the old ids first and with their meaning, new ones after them.

    Args:
        waveforms: Starts the stream of (utterance id, waveform ``(S,)``, 16 kHz); called once a pass, and must give
            the same every time.
        parent: The old codebook. Layer and normalization stay its own.
        encoder: The new encoder, for a codebook of front end ``model``.
        parent_encoder: The encoder that the old codebook was fitted on.
        new_units: How many ids are appended; 0 or more.
        seed: Of the clustering.
        move: How far old units may follow all frames that are now nearest to them: 0 moves each as the old unit's
            frames moved, 1 makes it the mean of its frames as k-means does.
        anchored_on: Ids of the utterances that say where old units went, such as those of the languages to keep; None
            = all. A unit that does not occur in them is placed by all.
        iterations: At most so many updates over all frames.
        speakers: Speaker of each utterance id, for a codebook of standardized voices.
        init_frames: Frames in the reservoir of the clustering.
        cache: Keeps the new encoder's frames between passes, within its budget.
        parent_cache: The same for the old encoder's frames.
        progress: Called with (passes done, passes at most).

    Returns:
        The codebook: the parent's hash and the map of ids stand in its ``info``.

    Raises:
        ConfigError: ``new_units`` or ``move`` is out of range, or codebook and encoders do not fit together.
        DataError: No frame, too few distinct ones, or the old encoder is another than the old codebook's.
    """
    if new_units < 0 or not 0 <= move <= 1:
        raise ConfigError(f"recluster: new_units {new_units}, move {move}; expected 0 or more, and 0 to 1.")
    info = parent.info
    extractor, heard = FrameExtractor(info.front_end, encoder, info.layer, cache), Heard()
    old = encode_units(
        lambda: heard.listen(waveforms()), parent, encoder=parent_encoder, speakers=speakers, cache=parent_cache
    )
    before = FrameExtractor(info.front_end, parent_encoder, info.layer, parent_cache)
    now, then = (
        _Frames(one, waveforms, one.voices(waveforms, parent.info.normalization, speakers))
        for one in (extractor, before)
    )
    pairs = _Pairs(now, then, old)
    result = fit_kmeans(
        lambda: (frames for _, frames in now()),
        info.num_units + new_units,
        seed=seed,
        iterations=iterations,
        init_frames=init_frames,
        start=pairs.anchors(parent, anchored_on),
        move=move,
        progress=progress,
    )
    centroids = result.centroids.cpu()
    ids = id_map(pairs.together(centroids))
    made = replace(
        info,
        model_hash=None if encoder is None else model_hash(encoder),
        hop=extractor.clock.hop,
        receptive_field=extractor.clock.receptive_field,
        num_units=len(centroids),
        seed=seed,
        usage_entropy=usage_entropy(result.counts.cpu().numpy()),
        frames_fitted=result.frames,
        parent=parent.hash,
        corpus_hash=heard.hash,
        id_map=ids,
        ancestors=tuple(replace(one, called=tuple(one.called[unit] for unit in ids.called)) for one in info.kin),
    )
    return Codebook(centroids, made)


def frozen(parent: Codebook, encoder: Encoder) -> Codebook:
    """The old centroids as they are, for another encoder of the same kind: what shows how far units drifted.

    Raises:
        ConfigError: The codebook is not one of an encoder.
    """
    if parent.info.front_end != "model":
        raise ConfigError(
            f"frozen: the codebook is of {parent.info.front_end}, which no encoder changes; use it as is."
        )
    return Codebook(
        parent.centroids,
        replace(parent.info, model_hash=model_hash(encoder), parent=parent.hash, id_map=None, ancestors=()),
    )


def id_map(together: NDArray[np.int64]) -> IdMap:
    """What became of old units, from how often old id a met new id k. ``together``: shape ``(A, K)``, K at least A.

    Example:
        >>> id_map(np.array([[8, 0, 2], [7, 0, 0]]))
        IdMap(kept=2, grown_from=(0,), split=(0,), merged=((1, 0),), died=(1,), agreement=0.47058823529411764)
    """
    kept, units = together.shape
    frames = together.sum(1)
    appended = together[:, kept:].sum(1)
    split = tuple(
        int(unit) for unit in np.flatnonzero((frames > 0) & (appended >= SPLIT_SHARE * np.maximum(frames, 1)))
    )
    others = together[:, :kept].copy()
    np.fill_diagonal(others, 0)
    into = others.argmax(1) if kept else np.zeros(0, dtype=np.int64)
    merged = tuple(
        (unit, int(other)) for unit, other in enumerate(into) if others[unit, other] > MERGED_SHARE * frames[unit]
    )
    died = tuple(int(unit) for unit in np.flatnonzero(together[:, :kept].sum(0) == 0))
    return IdMap(
        kept=kept,
        grown_from=tuple(int(together[:, unit].argmax()) for unit in range(kept, units)),
        split=split,
        merged=merged,
        died=died,
        agreement=float(np.trace(together[:, :kept]) / max(1, together.sum())),
    )


@dataclass(frozen=True, slots=True)
class _Frames:
    """Frames of one encoder, as its codebook takes them."""

    extractor: FrameExtractor
    waveforms: Waveforms
    voices: VoiceNormalizer | None

    def __call__(self) -> Iterator[tuple[str, Tensor]]:
        """(utterance id, frames ``(T, D)``)."""
        return self.extractor.standardized(self.waveforms(), self.voices)

    def labelled(self, units: Units) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(utterance id, frames ``(T, D)``, units ``(T,)``); frames without a unit are left out."""
        for name, frames in self():
            labels = labels_for_frames(units[name], units.clock, self.extractor.clock, len(frames))[:, 0]
            yield name, frames[: len(labels)], labels.to(frames.device)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Frames of the new encoder and of the old one, each beside the unit that the old codebook gives it."""

    now: _Frames
    then: _Frames
    old: Units

    def anchors(self, parent: Codebook, anchored_on: Collection[str] | None) -> Tensor:
        """Old centroids, each moved as the mean of its frames was moved by the change of encoder. Shape ``(A, D)``.

        A shift: right for an encoder that drifted, as under LoRA, not for one whose space was turned. One that did not
        change leaves them where they are, also where the frames at hand lie to one side of them. A unit without frames
        goes as far as the used one that was nearest to it. Where new frames have another number of dimensions than old
        ones, a unit lies at the mean of its new frames.
        """
        means, counts = self._means(self.now, anchored_on)
        before = parent.centroids.to(means.device)
        unused, used = (counts == 0).nonzero()[:, 0], (counts > 0).nonzero()[:, 0]
        if before.shape != means.shape:
            if len(unused):
                raise DataError(
                    f"recluster: {len(unused)} of {len(before)} old units occur in none of this audio, the first is "
                    f"{int(unused[0])}, and old frames have {before.shape[1]} dimensions, new ones {means.shape[1]}; "
                    "so nobody can say where they lie. Give audio that they occur in, such as the old training audio."
                )
            return means
        moved = means - self._means(self.then, anchored_on)[0].to(means.device)
        moved[unused] = moved[used[assign(before[unused], before[used])]]
        return before + moved

    def _means(self, frames: _Frames, chosen: Collection[str] | None) -> tuple[Tensor, Tensor]:
        """Mean ``(A, D)`` and number ``(A,)`` of each old unit's frames, in chosen utterances or else in all."""
        sums, counts = _sums(frames.labelled(self.old), self.old.num_units, chosen)
        rare = counts[0] == 0
        found = torch.where(rare[:, None], sums.sum(0), sums[0])
        times = torch.where(rare, counts.sum(0), counts[0])
        return (found / times.clamp_min(1)[:, None]).float(), times

    def together(self, centroids: Tensor) -> NDArray[np.int64]:
        """How often each old unit meets each new one. ``centroids``: ``(K, D)``; returns shape ``(A, K)``."""
        found = np.zeros((self.old.num_units, len(centroids)), dtype=np.int64)
        for _, frames, old in self.now.labelled(self.old):
            new = assign(frames, centroids.to(frames.device))
            found += joint_counts(old.cpu().numpy(), new.cpu().numpy(), *found.shape)
        return found


def _sums(
    labelled: Iterable[tuple[str, Tensor, Tensor]], units: int, chosen: Collection[str] | None
) -> tuple[Tensor, Tensor]:
    """Sum ``(2, A, D)``, float64, and number ``(2, A)`` of each old unit's frames: in chosen utterances, in others.

    Raises:
        DataError: The chosen ones, all where None are, have no frame.
    """
    sums, counts = None, torch.zeros(2, units, dtype=torch.int64)
    for name, frames, old in labelled:
        if sums is None:
            sums = torch.zeros(2, units, frames.shape[1], dtype=torch.float64, device=frames.device)
            counts = counts.to(frames.device)
        part = 0 if chosen is None or name in chosen else 1
        sums[part].index_add_(0, old, frames.double())
        counts[part] += torch.bincount(old, minlength=units)
    if sums is None or not counts[0].any():
        raise DataError("recluster: no frame to say where the old units lie. Give audio, and ids that are in it.")
    return sums, counts
