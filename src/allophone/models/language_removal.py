"""What a text embedder's vectors say of the language, and not of the meaning, taken off them.

Vectors of one language lie around a mean of their own (arXiv:2004.05160). Projecting away the few directions in which
these means differ needs no language at use (after arXiv:2401.05792, which decomposes the means likewise). Shape
letters: N vectors, L languages, K directions, E dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from allophone.errors import CheckpointError
from allophone.models.conversion import replace_file
from allophone.models.text_teacher import TeacherTable

REMOVED_FILE = "teacher_removed.safetensors"
"""What is taken off the teacher's vectors before they are compared with those of speech."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Removed:
    """A mean and directions."""

    mean: Tensor
    """Shape ``(E,)``, float32."""
    directions: Tensor
    """Orthonormal. Shape ``(K, E)``, float32; K may be 0."""

    def __call__(self, vectors: Tensor) -> Tensor:
        """Vectors ``(N, E)`` less the mean and what they have of the directions. Shape ``(N, E)``, float32."""
        rest = vectors.float() - self.mean
        return rest - rest @ self.directions.T @ self.directions

    def off(self, teacher: TeacherTable) -> TeacherTable:
        """The same texts with these vectors."""
        what = "a mean" if not len(self.directions) else f"a mean and {len(self.directions)} directions of languages"
        return TeacherTable(f"{teacher.name}, less {what}", teacher.keys, self(teacher.vectors))

    def save(self, folder: Path) -> None:
        """Write :data:`REMOVED_FILE`, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"mean": self.mean.contiguous(), "directions": self.directions.contiguous()}
        replace_file(folder / REMOVED_FILE, save(tensors))


LEAST_TEXTS = 20
"""A language with fewer has no direction: its mean would be its texts', and they would lose what they say."""


def fit_removal(vectors: Sequence[Tensor], *, languages: bool) -> Removed:
    """The mean of all texts and, where wanted, the directions in which the languages' means differ.

    Args:
        vectors: Of the texts of each language. Shape ``(N, E)`` each.
        languages: Whether to find directions; their number is that of the languages with :data:`LEAST_TEXTS` less one.
    """
    every = torch.cat([one.float() for one in vectors])
    mean = every.mean(dim=0)
    directions = mean.new_zeros(0, len(mean))
    enough = [one for one in vectors if len(one) >= LEAST_TEXTS]
    if languages and len(enough) > 1:
        means = torch.stack([one.float().mean(dim=0) for one in enough])
        _, strengths, found = torch.linalg.svd(means - means.mean(dim=0), full_matrices=False)
        directions = found[strengths > 1e-5 * strengths[0]][: len(enough) - 1]
    return Removed(mean=mean, directions=directions)


def read_removed(folder: Path) -> Removed | None:
    """What a distilled model takes off its teacher's vectors; None = nothing.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = folder / REMOVED_FILE
    if not path.exists():
        return None
    try:
        found = load_file(path)
        return Removed(mean=found["mean"], directions=found["directions"])
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}. Copy the model's folder again.") from error
