"""Utterances to one batch: crop, perturb, reverberate, mix, mask. A pure function of its arguments.

Every random choice comes from a generator keyed by (seed, purpose, epoch, utterance id, repeat), so a sample does not
depend on its batch mates, the worker or a resume; that holds for what is mixed into it too, because the secondary is
drawn from the corpus and not from the batch (:mod:`~allophone.data.denoising` has the reasons).
Shape letters: B batch, S samples, T frames, R labels of one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.audio.augment import AugmentConfig, augment, change_speed
from allophone.audio.mixing import MixConfig
from allophone.audio.reverberation import ReverbConfig
from allophone.batch import SpeechBatch
from allophone.data.denoising import Pools, disturb, disturbance_sums, require_pools
from allophone.errors import ConfigError, DataError, ShapeError
from allophone.frames import SAMPLE_RATE, FrameClock, seconds_to_samples
from allophone.nn.masking import span_mask
from allophone.seeding import torch_generator

NO_POOLS = Pools()
FRAME_TOLERANCE = 2
"""Frames by which the units of an utterance may be fewer or more than its audio has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollateConfig:
    """How utterances become a batch."""

    crop_seconds: float
    """Longest piece of an utterance that is used (HuBERT 15.6)."""
    equal_lengths: bool = True
    """Crop all utterances of a batch to its shortest, as HuBERT does; False keeps them ragged."""
    mask_probability: float = 0.8
    """Expected spans times their length over frames (HuBERT 0.8); 0 draws no masks at all."""
    mask_length: int = 10
    """Frames of one span (HuBERT 10 of 20 ms)."""
    min_mask_spans: int = 2
    """Fewest spans of an utterance."""
    augment: AugmentConfig | None = None
    """Perturbation of the cropped waveform; units stay those of the clean audio."""
    reverb: ReverbConfig | None = None
    """Rooms around the perturbed clip; units stay those of the clean audio."""
    mix: MixConfig | None = None
    """Law by which another utterance or a noise is laid over the clip at last; units stay those of the clean audio."""

    def __post_init__(self) -> None:
        if not self.crop_seconds > 0:
            raise ConfigError(f"crop_seconds must be positive; got {self.crop_seconds}.")
        if not 0.0 <= self.mask_probability <= 1.0 or self.mask_length < 1:
            raise ConfigError(
                f"Masks need 0 <= mask_probability <= 1 and mask_length >= 1 frame; "
                f"got {self.mask_probability} and {self.mask_length}."
            )


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance as it comes off the disk."""

    id: str
    waveform: Tensor
    """Shape ``(S,)``, float32, 16 kHz."""
    repeat: int = 0
    """How often the same epoch drew it before; gives each draw its own crop and mask."""


def collate(
    items: Sequence[Example],
    units: Sequence[NDArray[np.integer] | None] | None,
    clock: FrameClock,
    config: CollateConfig,
    seed: int,
    epoch: int,
    pools: Pools = NO_POOLS,
) -> SpeechBatch:
    """Make one batch.

    Crops start at a multiple of the hop, so the units of a crop are the crop of the units.

    Args:
        items: Utterances, at least one.
        units: Unit ids of each whole utterance, shape ``(T,)`` or ``(T, R)``, int; None for a batch without units.
        clock: Frames of the encoder that will see the batch.
        config: What to do.
        seed: Seed of the run.
        epoch: Number of the epoch; crops and masks differ between epochs.
        pools: Where other utterances, noise and measured rooms come from.

    Returns:
        Batch with waveform ``(B, S)``, units ``(B, T, R)`` or None, masked ``(B, T)`` or None; its ``sums`` say what
        was mixed and reverberated.

    Raises:
        ConfigError: ``config.mix`` takes from a pool that is not there, or speed is to change under units.
        DataError: An utterance has no frame, or units and audio disagree by more than two frames.
        ShapeError: A waveform is not one-dimensional, or augmentation changed its length.
    """
    require_pools(config.mix, pools)
    items = [_at_speed(item, config, units is not None, seed, epoch) for item in items]
    labels = [None if units is None else _as_matrix(units[i], item) for i, item in enumerate(items)]
    usable = [_usable_frames(item, label, clock) for item, label in zip(items, labels, strict=True)]
    longest = max(1, clock.count(seconds_to_samples(config.crop_seconds)))
    lengths = [min(frames, longest) for frames in usable]
    if config.equal_lengths:
        lengths = [min(lengths)] * len(items)
    starts = [
        _draw_start(item, spare=whole - kept, seed=seed, epoch=epoch)
        for item, whole, kept in zip(items, usable, lengths, strict=True)
    ]
    waveforms = [
        _crop(item, start, frames, clock, config, seed, epoch)
        for item, start, frames in zip(items, starts, lengths, strict=True)
    ]
    heard = [
        disturb(waveform, item.id, config.mix, config.reverb, pools, (seed, epoch, item.repeat))
        for item, waveform in zip(items, waveforms, strict=True)
    ]
    return SpeechBatch(
        ids=tuple(item.id for item in items),
        waveform=_pad([waveform for waveform, _ in heard], 0.0),
        waveform_lengths=torch.tensor([len(waveform) for waveform in waveforms]),
        frame_lengths=torch.tensor(lengths),
        units=None if units is None else _crop_units(items, labels, starts, lengths),
        masked=_draw_masks(items, lengths, config, seed, epoch) if config.mask_probability > 0 else None,
        sums=disturbance_sums([done for _, done in heard], config.mix, config.reverb),
    ).validate()


def _at_speed(item: Example, config: CollateConfig, has_units: bool, seed: int, epoch: int) -> Example:
    """The utterance, faster or slower where that is asked for and its turn has come."""
    if config.augment is None or config.augment.speed_probability == 0:
        return item
    if has_units:
        raise ConfigError(
            "augment.speed_probability changes when things are heard, so units no longer fit; set it to 0."
        )
    generator = torch_generator(seed, "speed", epoch, item.id, item.repeat)
    return replace(item, waveform=change_speed(item.waveform, config.augment, generator))


def _as_matrix(units: NDArray[np.integer] | None, item: Example) -> NDArray[np.integer]:
    if units is None:
        raise DataError(f"No units for utterance {item.id!r}. Encode the units of this corpus again; it has grown.")
    if units.ndim not in (1, 2):
        raise ShapeError(f"Units of utterance {item.id!r} are {units.shape}; expected (frames,) or (frames, labels).")
    return units[:, None] if units.ndim == 1 else units


def _usable_frames(item: Example, units: NDArray[np.integer] | None, clock: FrameClock) -> int:
    if item.waveform.ndim != 1:
        raise ShapeError(f"Waveform of utterance {item.id!r} is {tuple(item.waveform.shape)}; expected (samples,).")
    samples = len(item.waveform)
    frames = clock.count(samples)
    if frames == 0:
        raise DataError(
            f"Utterance {item.id!r} has {samples} samples ({samples / SAMPLE_RATE:.3f} s), too few for one frame of "
            f"{clock.receptive_field} samples. Leave it out of the corpus."
        )
    if units is None:
        return frames
    if abs(len(units) - frames) > FRAME_TOLERANCE or len(units) == 0:
        raise DataError(
            f"Units and audio disagree for utterance {item.id!r}: {len(units)} frames of units, but {samples} samples "
            f"({samples / SAMPLE_RATE:.2f} s) make {frames} frames of {clock.hop} samples; more than {FRAME_TOLERANCE} "
            f"apart. Encode the units of this corpus again with this encoder's frame rate."
        )
    return min(frames, len(units))


def _draw_start(item: Example, *, spare: int, seed: int, epoch: int) -> int:
    """First frame of the crop, uniform over ``spare + 1`` places."""
    if spare == 0:
        return 0
    generator = torch_generator(seed, "crop", epoch, item.id, item.repeat)
    return int(torch.randint(spare + 1, (), generator=generator))


def _crop(
    item: Example, start: int, frames: int, clock: FrameClock, config: CollateConfig, seed: int, epoch: int
) -> Tensor:
    """The samples that ``frames`` frames from ``start`` on see, perturbed if asked for. Shape ``(S,)``."""
    offset = clock.start(start)
    waveform = item.waveform[offset : offset + clock.samples(frames)]
    if config.augment is None:
        return waveform
    changed = augment(waveform, config.augment, torch_generator(seed, "augment", epoch, item.id, item.repeat))
    if changed.shape != waveform.shape:
        raise ShapeError(
            f"Augmentation turned utterance {item.id!r} from {tuple(waveform.shape)} into {tuple(changed.shape)}; "
            f"it must keep the length, or labels no longer fit."
        )
    return changed


def _crop_units(
    items: Sequence[Example],
    labels: Sequence[NDArray[np.integer] | None],
    starts: Sequence[int],
    lengths: Sequence[int],
) -> Tensor:
    """Units of the crops. Shape ``(B, T, R)``, int64, -1 beyond each length."""
    crops = []
    for item, label, start, frames in zip(items, labels, starts, lengths, strict=True):
        assert label is not None
        crops.append(torch.from_numpy(label[start : start + frames].astype(np.int64)))
        if crops[-1].shape[1] != crops[0].shape[1]:
            raise ShapeError(
                f"Units of utterance {item.id!r} have {crops[-1].shape[1]} labels a frame, those of "
                f"{items[0].id!r} have {crops[0].shape[1]}. Encode the units of this corpus again."
            )
    return _pad(crops, -1)


def _draw_masks(
    items: Sequence[Example], lengths: Sequence[int], config: CollateConfig, seed: int, epoch: int
) -> Tensor:
    """Hidden frames. Shape ``(B, T)``, bool, False beyond each length."""
    masks = [
        span_mask(
            frames,
            probability=config.mask_probability,
            length=config.mask_length,
            generator=torch_generator(seed, "mask", epoch, item.id, item.repeat),
            min_spans=config.min_mask_spans,
        )
        for item, frames in zip(items, lengths, strict=True)
    ]
    return _pad(masks, False)


def _pad(rows: Sequence[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
