"""What a report is made from: numbers, curves, recordings and plain texts, all given by the caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from allophone.errors import DataError
from allophone.evaluate.measurements import Measurement


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Clip:
    """A recording with a player."""

    audio: Tensor | ArrayLike
    """Waveform ``(S,)`` at 16 kHz, in [-1, 1]."""
    caption: str
    """What it is: ``Bulgarian, held out, voice 2``."""
    text: str = ""
    """What is said."""
    units_before: str | Sequence[str] = ()
    """Sound units that the model heard before, as short strings, or one string with spaces."""
    units_after: str | Sequence[str] = ()
    """The same after."""

    def waveform(self) -> NDArray[np.float32]:
        """Samples as they are played, shape ``(S,)``.

        Raises:
            DataError: The audio is not one row of finite samples.
        """
        given = self.audio.detach().cpu().numpy() if isinstance(self.audio, Tensor) else self.audio
        samples = np.asarray(given, dtype=np.float32)
        if samples.ndim != 1 or samples.size == 0 or not np.isfinite(samples).all():
            raise DataError(
                f"Clip {self.caption!r}: audio of shape {samples.shape} cannot be played; expected (samples,) at "
                "16 kHz, not empty, every sample finite. Load it with allophone.audio.io.load_audio."
            )
        return samples / max(1.0, float(np.abs(samples).max()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A line over training steps."""

    name: str
    """``LoRA``, ``head only``, ``LoRA, validation``."""
    steps: Sequence[float]
    """Where; as many as ``values``."""
    values: Sequence[float]
    """Loss; what is not finite is left out."""

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise DataError(
                f"Curve {self.name!r}: {len(self.steps)} steps, {len(self.values)} values; expected one value a step."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of other numbers, such as purity of units against phones."""

    title: str
    explanation: str
    """One plain sentence."""
    columns: tuple[str, ...]
    """Headings; the first is that of the rows' names."""
    rows: tuple[tuple[str, ...], ...]
    """Cells, as many as columns in every row."""
    note: str = ""
    """Below the table."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise DataError(
                    f"Table {self.title!r}: a row has {len(row)} cells ({', '.join(row)}), the table "
                    f"{len(self.columns)} columns; expected a cell for each column."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContent:
    """Everything that stands on the page."""

    title: str
    new_language: str
    """ISO 639-3 + script."""
    new_language_name: str
    """In English."""
    kept_languages: tuple[str, ...]
    """Tags of the languages that were to be kept."""
    base_model: str
    """Name or path of the model that the language was added to."""
    facts: tuple[tuple[str, str], ...]
    """Label and value: audio added, trained parameters, seeds; those with ``hash`` in the label go to the footer."""
    measurements: tuple[Measurement, ...]
    extra_tables: tuple[Table, ...] = ()
    curves: tuple[Curve, ...] = ()
    clips: tuple[Clip, ...] = ()
    warnings: tuple[str, ...] = ()
    """What a reader must know before believing the numbers."""
    commands: tuple[str, ...] = ()
    """Commands or Python that make the same again."""
    pack_path: str | None = None
    """Where the language pack lies."""
