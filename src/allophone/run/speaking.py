"""A vocoder at work: units of one utterance to a waveform, in pieces, and vocoders as folders with their voices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from allophone.audio.pitch import pitch
from allophone.errors import DataError
from allophone.frames import FrameClock
from allophone.models.unit_vocoder import UnitVocoder, pack_units, without_repeats
from allophone.models.vocoder_conversion import Voices, load_vocoder, load_voices
from allophone.nn.codebook import Codebook

PIECE_UNITS = 500
"""Units that are spoken at once, so that memory does not grow with the recording: 10 s of 20-ms units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speech:
    """A vocoder and what its numbers stand for."""

    vocoder: UnitVocoder
    """In evaluation mode, without weight norm."""
    voices: Voices
    """Whose units it speaks, names of speakers and languages."""

    @staticmethod
    def load(folder: Path) -> Speech:
        """Open what ``allophone vocoder train`` wrote.

        Raises:
            CheckpointError: It is not that, or damaged.
        """
        return Speech(vocoder=load_vocoder(folder), voices=load_voices(folder))

    def ids(self, codebook: Codebook) -> Tensor:
        """What the vocoder calls each unit of a codebook, shape ``(K,)``.

        The same, or, for a codebook that was anchored to the vocoder's own (once or several times in a row), the old
        ids and for every appended one the unit that it grew from.

        Raises:
            DataError: It is another codebook, and not anchored to the vocoder's.
        """
        for one in codebook.info.kin:
            if one.codebook == self.voices.codebook_hash:
                return torch.tensor(one.called)
        self.require(codebook.hash)
        return torch.arange(codebook.info.num_units)

    def require(self, codebook_hash: str) -> None:
        """Refuse units of another codebook.

        Raises:
            DataError: They are.
        """
        if codebook_hash != self.voices.codebook_hash:
            raise DataError(
                f"The vocoder speaks units of codebook {self.voices.codebook_hash}, these are of {codebook_hash}. Give "
                "the codebook it was trained with, one whose units were anchored to that (`expand --units anchored`; "
                "with --units name it by --codebook), or train a vocoder for this one (`allophone vocoder train`)."
            )


@torch.inference_mode()
def speak(
    vocoder: UnitVocoder,
    units: Tensor,
    clock: FrameClock,
    *,
    speaker: int = 0,
    language: int = 0,
    recorded: Tensor | None = None,
    predict_durations: bool = False,
) -> Tensor:
    """Speak the units of one utterance.

    Args:
        vocoder: In evaluation mode.
        units: Shape ``(T,)``, int64, one a frame.
        clock: How the frames behind the units cut time.
        speaker: Row of the speaker table.
        language: Row of the language table.
        recorded: What the units were made from, for the melody of a vocoder with pitch. Shape ``(S,)``.
        predict_durations: Units without repeats last as long as the vocoder thinks, not as long as they did.

    Returns:
        Shape ``(samples,)``, float32 in [-1, 1], 16 kHz: as many samples as make T frames, silent where the first and
        last frame reach beyond their hop, so that it lies under the recording sample by sample.

    Raises:
        DataError: The vocoder needs a melody and there is no recording, or durations are predicted under a melody.
    """
    one = pack_units([units])
    if predict_durations:
        one = vocoder.lengthened(without_repeats(one)[0])
    before = (clock.receptive_field - clock.hop) // 2
    melody = None
    if vocoder.config.pitch:
        if recorded is None or predict_durations:
            raise DataError(
                "This vocoder follows the melody of a recording; give the recording, and keep the units' own durations."
            )
        melody = pitch(recorded[before : before + len(units) * clock.hop], clock.hop)
    device = vocoder.unit_embedding.weight.device
    rows = [torch.tensor([row], device=device) for row in (speaker, language)]
    pieces = []
    for start in range(0, len(one.values), PIECE_UNITS):
        stop = min(start + PIECE_UNITS, len(one.values))
        first, last = max(0, start - vocoder.config.context), min(len(one.values), stop + vocoder.config.context)
        wave = vocoder(
            pack_units([one.values[first:last].to(device)]),
            *rows,
            None if melody is None else melody[first:last].to(device),
        ).values
        pieces.append(wave[(start - first) * clock.hop : (stop - first) * clock.hop].cpu())
    after = clock.samples(len(one.values)) - before - len(one.values) * clock.hop
    return torch.nn.functional.pad(torch.cat(pieces), (before, after))
