"""Where the starter corpus and encoder are, which come as a distribution of their own."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from allophone.data.corpus import Corpus
from allophone.errors import DataError
from allophone.models.conversion import load_encoder
from allophone.nn.codebook import Codebook
from allophone.run.base import Base
from allophone.run.pack import read_stack
from allophone.run.start import load_heads

STARTER = "starter"


def starter_corpus() -> Corpus:
    """The starter corpus.

    Raises:
        DataError: ``allophone-starter`` is not installed.
    """
    return Corpus.open(_starter().corpus_path())


def starter_model() -> Path:
    """Folder of the starter encoder.

    Raises:
        DataError: ``allophone-starter`` is not installed.
    """
    return Path(_starter().encoder_path())


def starter_teacher() -> Path:
    """Folder of the teacher vectors of the starter corpus.

    Raises:
        DataError: ``allophone-starter`` is not installed, or older.
    """
    starter = _starter()
    if not hasattr(starter, "teacher_path"):
        raise DataError("This allophone-starter has no teacher vectors. Install the one beside this version.")
    return Path(starter.teacher_path())


def open_base(name: str | Path) -> tuple[Base, Path | str]:
    """A model by name: ``starter``, a folder or a hub id, with codebook and heads where they lie beside it.

    Returns:
        The base, and the name as it was given, for cards and reports.

    Raises:
        CheckpointError: There is no such model or it is damaged.
    """
    where: Path | str = starter_model() if str(name) == STARTER else name
    folder = Path(where)
    codebook = Codebook.load(folder) if (folder / "codebook.json").exists() else None
    encoder = load_encoder(where)
    stack = read_stack(folder, encoder)
    return Base(encoder=encoder, codebook=codebook, heads=load_heads(folder), stack=stack), name


def _starter() -> ModuleType:
    try:
        import allophone_starter
    except ImportError as error:
        raise DataError(
            "The starter corpus and encoder are not installed. Install them with `pip install ./starter` from a clone "
            "of the project, or name another model and corpus."
        ) from error
    return allophone_starter
