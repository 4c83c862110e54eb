"""Vectors of texts that a speech model learns from: computed once by a frozen text embedder, kept by the text's hash.

A teacher is anything that turns texts into vectors: :class:`TextTeacher` reads any Hugging Face text encoder (LaBSE,
BGE-M3, multilingual E5), a sentence-transformers model is one by ``lambda texts: torch.tensor(model.encode(texts))``.
A table of vectors is a folder with ``teacher.safetensors`` (keys and vectors) and ``teacher.json`` (who made them);
training reads the table and needs no teacher. Shape letters: N texts, E dim of the vectors.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from allophone.errors import CheckpointError, DataError
from allophone.models.conversion import model_hash, replace_file, write_json
from allophone.models.text_encoder import open_text_encoder
from allophone.models.text_pooling import Pooling, stated_pooling

VECTORS_FILE, INFO_FILE = "teacher.safetensors", "teacher.json"
FORMAT = "allophone-teacher-1"
PIECE = 4096
"""Texts whose vectors are written together."""
Teacher = Callable[[Sequence[str]], Tensor]
"""From N texts to their vectors, shape ``(N, E)``, float."""


def text_key(text: str) -> int:
    r"""Number of a text: the first 64 bits of the SHA-256 of its NFC form without outer space, as a signed integer.

    Example:
        >>> text_key("été ") == text_key("e\u0301te\u0301")
        True
    """
    written = unicodedata.normalize("NFC", text).strip().encode()
    return int.from_bytes(hashlib.sha256(written).digest()[:8], "big", signed=True)


@dataclass(frozen=True, slots=True)
class TeacherTable:
    """Vectors of texts, by the texts' hashes."""

    name: str
    """Who made them: a model's name, the hash of its weights, and how it is asked (pooling, prefix, cut)."""
    keys: Tensor
    """Of :func:`text_key`, ascending, each once. Shape ``(N,)``, int64."""
    vectors: Tensor
    """Shape ``(N, E)``, float32 or float16."""

    @property
    def dim(self) -> int:
        """E."""
        return self.vectors.shape[1]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts, on the CPU. Shape ``(len(texts), E)``, float32.

        Raises:
            DataError: A text has no vector.
        """
        wanted = torch.tensor([text_key(text) for text in texts], dtype=torch.int64)
        places = torch.searchsorted(self.keys, wanted).clamp(max=max(len(self.keys) - 1, 0))
        found = torch.zeros_like(wanted, dtype=torch.bool) if not len(self.keys) else self.keys[places] == wanted
        if not bool(found.all()):
            missing = [text for text, there in zip(texts, found.tolist(), strict=True) if not there]
            raise DataError(
                f"The teacher's table ({self.name}, {len(self.keys)} texts) has no vector for {len(missing)} of "
                f"{len(texts)} texts, the first is {missing[0]!r}. Add them with `cached_vectors`."
            )
        return self.vectors[places].float()

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Texts without a vector, each once as it is written, in order."""
        known = set(self.keys.tolist())
        return [text for text in dict.fromkeys(texts) if text_key(text) not in known]


def cached_vectors(
    texts: Sequence[str],
    teacher: Teacher,
    name: str,
    folder: str | Path,
    *,
    batch_size: int = 64,
    dtype: torch.dtype = torch.float16,
    progress: Callable[[int, int], None] | None = None,
) -> TeacherTable:
    """The table of a folder with the vectors of all these texts; only those that are not there yet are computed.

    It is written every :data:`PIECE` texts, so that what was computed is kept when it is interrupted.

    Args:
        texts: All that a corpus says, and what else vectors are needed of.
        teacher: Turns texts into vectors.
        name: Who it is, with the hash of its weights and what else changes vectors; another teacher's table is refused.
        folder: Where the table lies or will lie.
        batch_size: Texts at once.
        dtype: Of the vectors on the disk.
        progress: Called with (done, total).

    Raises:
        CheckpointError: The folder holds another teacher's table, or a damaged one.
        DataError: The teacher gives vectors that are not finite, or of changing dims; or there is no text.
    """
    folder = Path(folder)
    table = load_teacher_table(folder) if (folder / INFO_FILE).exists() else None
    if table is not None and table.name != name:
        raise CheckpointError(f"{folder}: vectors of {table.name}; expected those of {name}. Use another folder.")
    wanted = list({text_key(text): text for text in (texts if table is None else table.missing(texts))}.values())
    order = sorted(wanted, key=len, reverse=True)  # texts of one batch are about as long
    dim, new = None if table is None else table.dim, dict[int, Tensor]()
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        vectors = _checked(teacher(part), part, dim)
        dim, new = vectors.shape[1], new | dict(zip(map(text_key, part), vectors.to(dtype), strict=True))
        done = start + len(part)
        if len(new) >= PIECE or done == len(order):
            table, new = _joined(table, name, new), {}
            save_teacher_table(table, folder)
        if progress is not None:
            progress(done, len(order))
    if table is None:
        raise DataError("There is no text that the teacher could make a vector of. Add transcripts to the corpus.")
    return table


def _joined(old: TeacherTable | None, name: str, new: Mapping[int, Tensor]) -> TeacherTable:
    """A table with further vectors, by key."""
    keys, vectors = torch.tensor(list(new), dtype=torch.int64), torch.stack(list(new.values()))
    if old is not None:
        keys, vectors = torch.cat([old.keys, keys]), torch.cat([old.vectors, vectors.to(old.vectors.dtype)])
    ranks = keys.argsort()
    return TeacherTable(name, keys[ranks], vectors[ranks])


def _checked(vectors: Tensor, texts: Sequence[str], dim: int | None) -> Tensor:
    vectors = vectors.detach().float().cpu()
    dim = vectors.shape[-1] if dim is None else dim
    if vectors.shape != (len(texts), dim) or not bool(vectors.isfinite().all()):
        raise DataError(
            f"The teacher gave {tuple(vectors.shape)} for {len(texts)} texts; expected ({len(texts)}, {dim}), all "
            f"finite. The first text is {texts[0]!r}."
        )
    return vectors


def save_teacher_table(table: TeacherTable, folder: str | Path, *, eight_bits: bool = False) -> Path:
    """Write ``teacher.safetensors`` and, last, ``teacher.json``.

    Args:
        table: The vectors.
        folder: Where to.
        eight_bits: Keep each value in 8 bits, with a scale for each vector; half of the size of float16.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"keys": table.keys.contiguous(), "vectors": table.vectors.contiguous()}
    if eight_bits:
        scales = table.vectors.float().abs().amax(dim=1) / 127
        tensors["scales"] = scales
        tensors["vectors"] = (table.vectors.float() / scales.clamp(min=1e-12)[:, None]).round().to(torch.int8)
    # Slow, and beside the old vectors: an interruption takes none of those that were there.
    replace_file(folder / f"new-{VECTORS_FILE}", save(tensors))
    (folder / INFO_FILE).unlink(missing_ok=True)
    (folder / f"new-{VECTORS_FILE}").replace(folder / VECTORS_FILE)
    write_json(folder / INFO_FILE, {"format": FORMAT, "name": table.name, "texts": len(table.keys), "dim": table.dim})
    return folder


def load_teacher_table(folder: str | Path) -> TeacherTable:
    """Read what :func:`save_teacher_table` wrote.

    Raises:
        CheckpointError: A file is missing or damaged, or the two do not belong together.
    """
    folder = Path(folder)
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            raise CheckpointError(f"the format is not '{FORMAT}'.")
        tensors = load_file(folder / VECTORS_FILE)
        vectors = tensors["vectors"]
        if "scales" in tensors:
            vectors = (vectors.float() * tensors["scales"][:, None]).half()
        table = TeacherTable(info["name"], tensors["keys"], vectors)
        got = (len(table.keys), table.dim)
        if got != (info["texts"], info["dim"]) or len(table.vectors) != len(table.keys):
            raise CheckpointError(f"says {info['texts']} texts of {info['dim']} dims; {VECTORS_FILE} has {got}.")
        if bool((table.keys[1:] <= table.keys[:-1]).any()):
            raise CheckpointError("the keys are not in order.")
    except (OSError, ValueError, KeyError, SafetensorError, CheckpointError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / INFO_FILE}: {reason} Copy the folder again, or make it again.") from error
    return table


class TextTeacher:
    """A frozen text encoder of ``transformers`` with the pooling it was trained for.

    Args:
        folder_or_hub_id: The model.
        pooling: ``mean`` of the real tokens (E5), the first token (``cls``, BGE-M3), or the encoder's own ``pooler``
            (LaBSE); ``auto`` = as the model's ``1_Pooling`` says, ``mean`` where it has none.
        prefix: Stands before every text (``query: `` for E5).
        max_tokens: Longer texts are cut.
        device: Where to compute.

    Raises:
        CheckpointError: There is no such model, or it is damaged.
        ConfigError: It has no pooler and one is asked for, or it pools in a way that is not known here.
    """

    def __init__(
        self,
        folder_or_hub_id: str | Path,
        *,
        pooling: Pooling | Literal["auto"] = "auto",
        prefix: str = "",
        max_tokens: int = 256,
        device: torch.device | str = "cpu",
    ) -> None:
        pooling = stated_pooling(folder_or_hub_id) if pooling == "auto" else pooling
        self._tokenizer, self._model = open_text_encoder(folder_or_hub_id, pooler=pooling == "pooler")
        if pooling != "pooler" and getattr(self._model, "pooler", None) is not None:
            self._model.pooler = None  # it is not used, so no part of the hash
        self._model.to(device).eval().requires_grad_(False)
        self._pooling, self._prefix, self._max_tokens, self._device = pooling, prefix, max_tokens, device
        # All that changes a vector is in the name, because tables are told apart by it.
        settings = f"{pooling}, prefix {prefix!r}, {max_tokens} tokens"
        self.name = f"{Path(folder_or_hub_id).name} {model_hash(self._model)} {settings}"

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts, on the CPU. Shape ``(N, E)``, float32, not normalized."""
        tokens = self._tokenizer(
            [self._prefix + text for text in texts],
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        ).to(self._device)
        output = self._model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        hidden: Tensor = output.last_hidden_state
        if self._pooling == "pooler":
            pooled: Tensor = output.pooler_output
            return pooled.cpu()
        if self._pooling == "cls":
            return hidden[:, 0].cpu()
        weights = tokens["attention_mask"][..., None].to(hidden.dtype)
        mean: Tensor = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        return mean.cpu()
