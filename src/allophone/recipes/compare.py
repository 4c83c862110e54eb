"""Models side by side, from the folders that evaluations of them left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allophone.errors import DataError
from allophone.evaluate.compare import LEVEL, Comparison, Contender, compare
from allophone.evaluate.measurements import load_measurements, load_signature


def compare_folders(folders: Sequence[Path], *, level: float = LEVEL, seed: int = 0) -> Comparison:
    """Compare models that were evaluated on the same corpus with the same suite and seeds.

    Args:
        folders: That ``allophone evaluate`` wrote, two or more; the last part of each path is the model's name, the
            whole path where two are alike.
        level: Chance of calling any difference real where all models are equal.
        seed: Of the resampling.

    Raises:
        DataError: A folder holds no evaluation, or they cannot be compared.
    """
    short = [folder.resolve().name for folder in folders]
    names = [str(folder) if short.count(name) > 1 else name for folder, name in zip(folders, short, strict=True)]
    return compare([_contender(*one) for one in zip(names, folders, strict=True)], level=level, seed=seed)


def _contender(name: str, folder: Path) -> Contender:
    path = folder / "measurements.parquet"
    if not path.is_file():
        raise DataError(
            f"{folder}: no measurements.parquet, so no evaluation. Run `allophone evaluate MODEL --out` there."
        )
    return Contender(name=name, signature=load_signature(path), measurements=tuple(load_measurements(path)))
