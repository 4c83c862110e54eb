"""Starter corpus, encoder and teacher vectors of allophone; data only."""

from pathlib import Path

__all__ = ["corpus_path", "encoder_path", "teacher_path"]


def corpus_path() -> Path:
    """Folder of the starter corpus: ``corpus.parquet``, ``corpus.json``, ``phones.parquet``, audio and licences."""
    return Path(__file__).parent / "corpus"


def encoder_path() -> Path:
    """Folder of the starter encoder, in Hugging Face format."""
    return Path(__file__).parent / "encoder"


def teacher_path() -> Path:
    """Folder of the teacher vectors: what a multilingual text embedder makes of the corpus' texts."""
    return Path(__file__).parent / "teacher"
