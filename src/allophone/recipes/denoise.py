"""What a user says about denoising data, and the run configs and opened sounds that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from allophone.audio.mixing import MixConfig, mix_law
from allophone.audio.reverberation import ReverbConfig
from allophone.data.noise import Sounds, SoundSource
from allophone.data.quarantine import save_quarantine
from allophone.errors import ConfigError
from allophone.run.config import RunConfig
from allophone.run.progress import Report, counted, silent


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseConfig:
    """What is laid over the audio of a pretraining run; targets stay those of the clean audio."""

    denoise: Literal["none", "wavlm", "espnet"] = "none"
    """Law by which other utterances and noise are mixed in: WavLM's (a fifth of the clips) or ESPnet's (all)."""
    noise: Path | None = None
    """Folder of noises or corpus that the law draws from; without it only other utterances are mixed in."""
    reverb: float = 0.0
    """Share of clips that are put into a room (ESPnet 0.3)."""
    rooms: Path | None = None
    """Folder or corpus of measured impulse responses; without it rooms are made up."""

    def __post_init__(self) -> None:
        if self.noise is not None and self.denoise == "none":
            raise ConfigError(f"Noise is given ({self.noise}), but no law mixes it in. Add --denoise wavlm or espnet.")
        if self.rooms is not None and self.reverb == 0.0:
            raise ConfigError(f"Rooms are given ({self.rooms}), but no clip is put into one. Add --reverb 0.3.")


def with_denoising(configs: Sequence[RunConfig], denoise: DenoiseConfig) -> tuple[RunConfig, ...]:
    """The same runs on disturbed audio; what is not asked for stays as the recipe has it."""
    mix = None if denoise.denoise == "none" else mix_law(denoise.denoise)
    if mix is not None and denoise.noise is None:
        mix = replace(mix, noise_probability=0.0)
    reverb = ReverbConfig(probability=denoise.reverb) if denoise.reverb else None
    return tuple(
        disturbed(config, mix or config.data.collate.mix, reverb or config.data.collate.reverb) for config in configs
    )


def disturbed(config: RunConfig, mix: MixConfig | None, reverb: ReverbConfig | None) -> RunConfig:
    """The same run on audio that is disturbed in this way; None and None = as it was recorded."""
    collate = replace(config.data.collate, mix=mix, reverb=reverb)
    return replace(config, data=replace(config.data, collate=collate))


def open_sounds(denoise: DenoiseConfig, report: Report = silent) -> Sounds:
    """Noise and rooms that were named.

    Raises:
        DataError: There is no such folder, or no sound in it that can be used.
    """
    opened = {
        name: None if path is None else SoundSource.open(path, progress=counted(report(f"Reading {name}")))
        for name, path in (("noise", denoise.noise), ("rooms", denoise.rooms))
    }
    return Sounds(noise=opened["noise"], responses=opened["rooms"])


def describe(config: RunConfig, sounds: Sounds) -> tuple[str, ...]:
    """What is done to the audio and where the sounds come from, one line each; none where nothing is done."""
    mix, reverb = config.data.collate.mix, config.data.collate.reverb
    lines = [] if mix is None else [f"Mixed in by {mix}."]
    lines += [] if sounds.noise is None else [f"Noise: {sounds.noise}."]
    rooms = "made up" if sounds.responses is None else str(sounds.responses)
    lines += [] if reverb is None else [f"Reverberated: {reverb.probability:.0%} of clips; rooms: {rooms}."]
    return tuple(lines)


def save_quarantines(sounds: Sounds, folder: Path) -> None:
    """List the sounds that cannot be used, with reasons, in ``noise/`` and ``rooms/`` below the run's folder."""
    for name, source in (("noise", sounds.noise), ("rooms", sounds.responses)):
        if source is not None and source.quarantined:
            save_quarantine(source.quarantined, folder / name)
