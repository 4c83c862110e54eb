"""What a package reader yields: one ``Clip`` per recording, before anything is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class AudioRef:
    """Where the samples of one recording are.

    Attributes:
        path: File that holds the recording.
        byte_offset: First byte, for recordings packed inside an archive.
        byte_size: Number of bytes; ``None`` means to the end of the file.
        start_seconds: First second to keep after decoding.
        end_seconds: Last second to keep; ``None`` means the end.
    """

    path: Path
    byte_offset: int = 0
    byte_size: int | None = None
    start_seconds: float = 0.0
    end_seconds: float | None = None


@dataclass(frozen=True)
class Clip:
    """One recording of a package.

    Attributes:
        name: Unique inside its source and language, safe as a file name.
        source: Package name.
        language: ISO 639-3 code and script, ``fra_Latn``.
        speaker: Voice, ``asterisk-fra-june``.
        licence: SPDX-like identifier.
        audio: Where the samples are.
        text: What is said, or ``None`` when the package does not tell.
        label: Class of the recording, or ``None``.
        group: Content shared with other voices and languages, or ``None``.
        translations: The same content as text. Language tag to text.
        phones: Phone labels with their end in seconds, before trimming.
        second_voice: Kept for testing only, whatever its group.
    """

    name: str
    source: str
    language: str
    speaker: str
    licence: str
    audio: AudioRef
    text: str | None = None
    label: str | None = None
    group: str | None = None
    translations: Mapping[str, str] = field(default_factory=dict)
    phones: tuple[tuple[str, float, float], ...] = ()
    second_voice: bool = False

    @property
    def id(self) -> str:
        """Name that is unique in a corpus: ``source/language/name``."""
        return f"{self.source}/{self.language}/{self.name}"
