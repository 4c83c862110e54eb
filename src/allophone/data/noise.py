"""Sounds to lay over speech, and measured rooms: a folder or a corpus of them, drawn from by key, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from allophone.data.corpus import CORPUS_TABLE, Corpus, embedded_media_folder
from allophone.data.gather import gather, source_name
from allophone.data.loader import WaveformCache
from allophone.data.quarantine import Quarantined
from allophone.data.utterance import Utterance
from allophone.errors import DataError

SOUND_CACHE_BYTES = 256 * 1024**2
"""Decoded sounds kept in memory; 256 MiB hold 2.3 hours."""


class SoundSource:
    """Sounds, decoded when they are drawn and kept up to a number of bytes.

    Args:
        corpus: Its rows are the sounds, those of the splits ``dev`` and ``test`` left for scoring.
        cache_bytes: Decoded audio kept in memory.

    Raises:
        DataError: It has no sound that can be used for training.
    """

    def __init__(self, corpus: Corpus, *, cache_bytes: int = SOUND_CACHE_BYTES) -> None:
        rows = tuple(row for row in corpus if row.split in (None, "train"))
        if not rows:
            raise DataError(
                f"{corpus.name or corpus.folder}: none of its {len(corpus)} sounds can be used for training "
                f"({_reasons(corpus.quarantined)}). Expected at least one of 25 ms or more that is not silent, in the "
                f"training split or in none. Give another folder of sounds or corpus."
            )
        self.corpus = corpus.with_utterances(rows)
        self._cache: WaveformCache[Utterance] = WaveformCache(corpus, cache_bytes)

    @classmethod
    def open(cls, source: str | Path, *, progress: Callable[[int, int], None] | None = None) -> Self:
        """Open a corpus folder, or import a plain folder of sounds without writing a corpus.

        Every file of a plain folder is decoded once; what cannot be used is listed in :attr:`quarantined` and left out.
        Sounds longer than 30 s are cut into pieces, each a sound of its own.

        Args:
            source: Folder that ``allophone corpus import`` wrote, folder of sound files, or one sound file.
            progress: Called with (files done, files in all).

        Raises:
            DataError: There is no such folder, no sound file in it, or none that can be used.
        """
        path = Path(source)
        if (path / CORPUS_TABLE).is_file():
            return cls(Corpus.open(path))
        found = gather(path, media=embedded_media_folder(), sounds=True, progress=progress)
        return cls(Corpus.gathered(found, source_name(path)))

    def __len__(self) -> int:
        return len(self.corpus)

    def __str__(self) -> str:
        hours = sum(self.corpus.hours().values())
        bad = f", {len(self.quarantined)} files set aside" if self.quarantined else ""
        return f"{len(self)} sounds, {hours:.2f} h, from {self.corpus.name!r}{bad}"

    @property
    def hash(self) -> str:
        """Of the sounds; the same wherever the files lie."""
        return self.corpus.hash

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Files that cannot be used, with reasons; empty for a corpus that was opened, which has its own list."""
        return self.corpus.quarantined

    def draw(self, generator: torch.Generator) -> tuple[str, Tensor]:
        """Id and waveform of one sound, each with the same chance. ``(R,)``, float32, 16 kHz.

        Raises:
            DataError: It can no longer be decoded; the message names it.
        """
        row = self.corpus.utterances[int(torch.randint(len(self), (), generator=generator))]
        return row.id, self._cache.get(row)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sounds:
    """What a run is given besides speech."""

    noise: SoundSource | None = None
    """Laid over clips."""
    responses: SoundSource | None = None
    """Measured rooms; None = made-up ones, where rooms are asked for."""

    def hashes(self) -> dict[str, str]:
        """Name to hash of what is there, for the identity of a run."""
        named = {"noise": self.noise, "responses": self.responses}
        return {name: source.hash for name, source in named.items() if source is not None}


NO_SOUNDS = Sounds()


def _reasons(quarantined: tuple[Quarantined, ...]) -> str:
    """The first reasons, for messages."""
    shown = "; ".join(f"{item.path}: {item.reason}" for item in quarantined[:3])
    return f"{len(quarantined)} set aside: {shown}" if quarantined else "none set aside"
