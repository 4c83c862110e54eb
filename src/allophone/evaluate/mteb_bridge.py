"""Our encoders in ``mteb``, and its audio tasks on recordings that lie on this disk; the one place that imports it.

``mteb`` (extra ``mteb``) takes its data from a model hub. Here a task gets a corpus of ours instead, read by whichever
importer fits, so that nothing is downloaded and no decoder beyond ours is needed. Scores are ``mteb``'s own.

Source: ``mteb`` 2.26, ``EncoderProtocol`` and ``AbsTask``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError
from allophone.frames import SAMPLE_RATE
from allophone.models.speech_encoder import SpeechEncoder

FIELDS = ("id", "language", "speaker", "text", "label", "group")
"""Columns that every task sees, beside ``audio`` and a corpus's own further columns."""


class MtebEncoder:
    """A speech encoder as ``mteb`` calls it: the mean of a layer's frames, compared by cosine."""

    def __init__(self, encoder: SpeechEncoder, name: str, *, layer: int | None = None) -> None:
        """Wrap an encoder.

        Args:
            encoder: What embeds.
            name: For result files, ``owner/model``; a name without an owner gets ``local/``.
            layer: Hidden state that is averaged, 0 = input of layer 1; None = the last.

        Raises:
            ConfigError: ``mteb`` is not installed.
        """
        self.encoder = encoder
        self.layer = layer
        self.mteb_model_meta = _mteb().models.ModelMeta.create_empty(
            overwrites={
                "name": name if "/" in name else f"local/{name}",
                "revision": encoder.model_hash if layer is None else f"{encoder.model_hash}-layer-{layer}",
                "modalities": ["audio"],
                "embed_dim": encoder.encoder.dim,
                "n_parameters": sum(parameter.numel() for parameter in encoder.encoder.parameters()),
                "similarity_fn_name": "cosine",
                "framework": ["PyTorch"],
            }
        )

    @staticmethod
    def load(model: str | Path, *, layer: int | None = None) -> MtebEncoder:
        """Read a model folder or hub model."""
        return MtebEncoder(SpeechEncoder.load(model), Path(model).name, layer=layer)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[Mapping[str, Any]]]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int = 32,
        show_progress_bar: bool = True,
    ) -> NDArray[np.float32]:
        """Vectors of the recordings of a data loader, as ``mteb`` asks for them.

        Args:
            inputs: Batches with ``audio``: items with ``array`` and ``sampling_rate``.
            task_metadata: Of the task; an encoder without instructions has no use for it.
            hf_split: Of the task.
            hf_subset: Of the task.
            prompt_type: Query or document; both are recordings.
            batch_size: Recordings at once.
            show_progress_bar: Not heeded: nothing below the command line prints.

        Returns:
            Shape ``(recordings, D)``.

        Raises:
            DataError: A batch has no ``audio``.
        """
        vectors = []
        for batch in inputs:
            if "audio" not in batch:
                raise DataError(f"mteb task {task_metadata.name}: a batch has {sorted(batch)}; expected 'audio'.")
            clips = [
                {"array": np.asarray(one["array"], dtype=np.float32), "sampling_rate": int(one["sampling_rate"])}
                for one in batch["audio"]
            ]
            vectors.append(self.encoder.encode(clips, batch_size=batch_size, layer=self.layer))
        return np.concatenate(vectors)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of all pairs: shapes ``(N, D)`` and ``(M, D)`` -> ``(N, M)``."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of corresponding rows: shapes ``(N, D)`` and ``(N, D)`` -> ``(N,)``."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=-1)


def local_task(name: str, corpus: Corpus | Path | str, *, columns: Mapping[str, str] | None = None) -> Any:
    """One of ``mteb``'s own audio tasks, on a corpus in place of its data set.

    The result names the corpus and its hash as data set and revision.

    Args:
        name: As ``mteb.get_task`` knows it, such as ``CommonLanguageLanguageDetection``.
        corpus: With the splits that the task asks for, or what ``Corpus.open`` reads.
        columns: A column of the task to the field of the corpus that it is, where they have different names.

    Raises:
        ConfigError: ``mteb`` is not installed, or the task does not read audio or has subsets.
        DataError: The corpus lacks a split or a column that the task needs.
    """
    task = _mteb().get_task(name)
    if "audio" not in task.metadata.modalities or task.metadata.is_multilingual:
        raise ConfigError(f"mteb task {name}: expected one that reads audio and has no subsets.")
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    own = {field: column for column, field in (columns or {}).items()}
    train = getattr(task, "train_split", None)
    splits = dict.fromkeys([*([train] if train else []), *task.metadata.eval_splits])
    data = {}
    for split in splits:
        rows = [row for row in opened if row.split == split]
        if not rows:
            found = ", ".join(sorted({row.split or "none" for row in opened}))
            raise DataError(f"{opened.name}: no utterance in split {split!r}, which {name} asks for; it has {found}.")
        data[split] = _dataset(opened, rows, own)
    wanted = {getattr(task, "label_column_name", None)} - {None}
    lacking = [column for column in wanted if any(column not in part.column_names for part in data.values())]
    if lacking:
        raise DataError(
            f"{opened.name}: no column {lacking[0]!r}, which {name} asks for; it has "
            f"{', '.join(next(iter(data.values())).column_names)}. Say which it is: columns={{{lacking[0]!r}: ...}}."
        )
    task.metadata = task.metadata.model_copy(update={"dataset": {"path": opened.name, "revision": opened.hash}})
    task.dataset = _datasets().DatasetDict(data)
    task.dataset_transform()
    task.data_loaded = True
    return task


def _dataset(corpus: Corpus, rows: Sequence[Utterance], names: Mapping[str, str]) -> Any:
    """Columns of a split; those without a value in some utterance are left out. Audio is mono at 16 kHz."""
    values: dict[str, list[Any]] = {field: [getattr(row, field) for row in rows] for field in FIELDS}
    values |= {field: [row.extra.get(field) for row in rows] for field in rows[0].extra if field not in values}
    kept = {names.get(field, field): column for field, column in values.items() if None not in column}
    audio = [{"array": corpus.audio(row).numpy(), "sampling_rate": SAMPLE_RATE} for row in rows]
    return _datasets().Dataset.from_dict({"audio": audio, **kept})


def _unit(embeddings: Any) -> Tensor:
    return functional.normalize(torch.atleast_2d(torch.as_tensor(embeddings)).float(), dim=-1)


def _mteb() -> Any:
    try:
        import mteb
    except ImportError as error:
        raise ConfigError("mteb is not installed. Run: pip install 'allophone[mteb]'") from error
    return mteb


def _datasets() -> Any:
    import datasets

    return datasets
