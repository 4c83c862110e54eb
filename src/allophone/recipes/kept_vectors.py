"""Vectors of recordings in a folder, so that a scoring that is interrupted goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVarTuple

from safetensors.torch import load_file, save
from torch import Tensor

from allophone.models.conversion import replace_file
from allophone.seeding import derive

FOLDER = "vectors"
Arguments = TypeVarTuple("Arguments")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptVectors:
    """Vectors that lie in a folder from a scoring that was interrupted; others are made and kept there."""

    folder: Path
    made_from: str
    """What all of them depend on: hashes of models and recordings."""

    def __call__(self, name: str, make: Callable[[*Arguments], Tensor], *args: *Arguments) -> Tensor:
        """What ``make`` returned for these arguments, or returns now; of any shape."""
        file = self.folder / f"{derive(0, 'vectors', self.made_from, name):016x}.safetensors"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(file, save({"vectors": make(*args)}))
        return load_file(file)["vectors"]
