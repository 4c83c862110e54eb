"""What makes denoising data of a cropped clip: a room around it, another utterance or a noise over part of it.

Order: the clip is reverberated, then mixed, so that the signal-to-noise ratio is that of what is heard and no tail of
the secondary covers more than the law allows (ESPnet reverberates the mixture). Labels stay the dry clip's.

The other utterance comes from the corpus, drawn by the clip's own key as often as an epoch draws it, not from the batch
as in the sources. So a sample does not depend on its batch mates, a batch of one is mixed by the same law, and only
recordings as they were decoded are ever laid over a clip: nothing that was mixed leaks into another mixture. It costs
one more decoded recording a mixed clip, nothing where the corpus fits the cache. A corpus of one utterance has no
other: noise takes its place, and without noise the clip stays clean. Like the sources, this does not look at speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from allophone.audio.mixing import Mix, MixConfig, apply_mix, draw_kind, draw_mix
from allophone.audio.reverberation import ReverbConfig, draw_response, reverberate
from allophone.errors import ConfigError
from allophone.seeding import torch_generator


class SoundPool(Protocol):
    """Recordings to draw from; :class:`~allophone.data.noise.SoundSource` is one."""

    def draw(self, generator: torch.Generator, /) -> tuple[str, Tensor]:
        """Id and waveform of one of them, ``(R,)``, float32, 16 kHz."""
        ...


class UtterancePool(Protocol):
    """Clean utterances to draw from; the loader has one."""

    def other(self, utterance_id: str, generator: torch.Generator, /) -> tuple[str, Tensor] | None:
        """Id and waveform ``(R,)`` of an utterance that is not the one named; None where there is no other."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Pools:
    """Where secondaries and rooms come from."""

    utterances: UtterancePool | None = None
    noise: SoundPool | None = None
    responses: SoundPool | None = None
    """Measured impulse responses; None = made-up rooms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Disturbance:
    """What was done to one clip."""

    mix: Mix | None = None
    """None: nothing was laid over it, by chance or because something was silent or too short."""
    secondary: str | None = None
    """Id of what was."""
    reverberated: bool = False
    share: float = 0.0
    """Of the clip's samples that are covered."""


def require_pools(mix: MixConfig | None, pools: Pools) -> None:
    """Check that what a law mixes in is there.

    Raises:
        ConfigError: The law wants noise and there is none, or other utterances and there are none.
    """
    if mix is None or mix.probability == 0.0:
        return
    if mix.noise_probability > 0.0 and pools.noise is None:
        raise ConfigError(
            f"Mixing law {mix.law!r} takes noise for {mix.noise_probability:.0%} of the mixed clips, but there is no "
            f"noise. Name a folder of sounds or a corpus (--noise), or set mix.noise_probability to 0."
        )
    if mix.noise_probability < 1.0 and pools.utterances is None:
        raise ConfigError(
            f"Mixing law {mix.law!r} takes other utterances for {1 - mix.noise_probability:.0%} of the mixed clips, "
            f"but there is nothing to draw them from. Give collate pools with utterances, or set mix.noise_probability "
            f"to 1."
        )


def disturb(
    waveform: Tensor,
    utterance_id: str,
    mix: MixConfig | None,
    reverb: ReverbConfig | None,
    pools: Pools,
    keys: tuple[int, int, int],
) -> tuple[Tensor, Disturbance]:
    """Reverberate and mix one clip.

    Args:
        waveform: The cropped clip. Shape ``(S,)``, float32; not written to.
        utterance_id: Its id; part of the key of every draw.
        mix: Law of the mixing; None = none.
        reverb: Rooms; None = none.
        pools: Secondaries and rooms.
        keys: Seed, epoch, and how often the epoch drew this utterance before.

    Returns:
        Shape ``(S,)``, and what was done.
    """
    seed, epoch, repeat = keys
    reverberated = False
    if reverb is not None:
        generator = torch_generator(seed, "reverb", epoch, utterance_id, repeat)
        reverberated = float(torch.rand((), generator=generator)) < reverb.probability
        if reverberated:
            response = (
                draw_response(reverb, generator) if pools.responses is None else pools.responses.draw(generator)[1]
            )
            waveform = reverberate(waveform, response, reverb.max_seconds)
    if mix is not None:
        generator = torch_generator(seed, "mix", epoch, utterance_id, repeat)
        waveform, drawn, name = _mix(waveform, utterance_id, mix, pools, generator)
        if drawn is not None:
            share = drawn.length / len(waveform)
            return waveform, Disturbance(mix=drawn, secondary=name, reverberated=reverberated, share=share)
    return waveform, Disturbance(reverberated=reverberated)


def _mix(
    waveform: Tensor, utterance_id: str, config: MixConfig, pools: Pools, generator: torch.Generator
) -> tuple[Tensor, Mix | None, str | None]:
    """The mixture, what was drawn and the id of the secondary; or the clip as it was, and None."""
    kind = draw_kind(config, generator)
    found = None
    if kind == "utterance" and pools.utterances is not None:
        found = pools.utterances.other(utterance_id, generator)
    if kind is not None and found is None and pools.noise is not None:
        kind, found = "noise", pools.noise.draw(generator)
    if kind is None or found is None:
        return waveform, None, None
    name, secondary = found
    drawn = draw_mix(kind, len(waveform), len(secondary), config, generator)
    mixed = waveform if drawn is None else apply_mix(waveform, secondary, drawn, config)
    return (waveform, None, None) if mixed is waveform else (mixed, drawn, name)


def disturbance_sums(
    done: Sequence[Disturbance], mix: MixConfig | None, reverb: ReverbConfig | None
) -> dict[str, tuple[float, float]]:
    """What the journal writes of a batch, name to (sum, count); empty where neither mixing nor rooms are asked for.

    ``mixed_utterance``, ``mixed_noise`` and ``reverberated`` are numbers of clips over all clips, ``snr_db_utterance``
    and ``snr_db_noise`` decibels over mixed clips, ``mixed_share`` covered shares over mixed clips.
    """
    sums: dict[str, tuple[float, float]] = {}
    if mix is not None:
        for kind in ("utterance", "noise"):
            ratios = [one.mix.snr_db for one in done if one.mix is not None and one.mix.kind == kind]
            sums[f"mixed_{kind}"] = (float(len(ratios)), float(len(done)))
            sums[f"snr_db_{kind}"] = (sum(ratios), float(len(ratios)))
        shares = [one.share for one in done if one.mix is not None]
        sums["mixed_share"] = (sum(shares), float(len(shares)))
    if reverb is not None:
        sums["reverberated"] = (float(sum(one.reverberated for one in done)), float(len(done)))
    return sums
