"""The codebook as a thing on disk: centroids in safetensors, what they were made from in JSON, one hash over both.

It neither fits nor assigns (see ``clustering``), and it never opens a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from allophone.config import from_dict, to_dict
from allophone.errors import CheckpointError, ConfigError, ShapeError
from allophone.frames import FrameClock

FrontEnd = Literal["mfcc39", "fbank", "model"]
Normalization = Literal["none", "voice"]

WEIGHTS_FILE, INFO_FILE = "codebook.safetensors", "codebook.json"
FORMAT = 2
PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".mdl", ".npy", ".joblib"}


@dataclass(frozen=True, kw_only=True, slots=True)
class IdMap:
    """What became of a parent's units: the first ids are the parent's and mean what they meant, the rest are new.

    Counted over the frames that the codebook was fitted on, each labelled by the parent and by this codebook.
    """

    kept: int
    """Units of the parent; ids 0 to ``kept`` - 1 are its ids."""
    grown_from: tuple[int, ...]
    """For every appended id the parent's unit that most of its frames had; K - ``kept`` ids."""
    split: tuple[int, ...]
    """Units of the parent of whose frames a tenth or more now carries appended ids."""
    merged: tuple[tuple[int, int], ...]
    """(unit, unit): more than half of the first one's frames now carry the second one's id."""
    died: tuple[int, ...]
    """Units of the parent that no frame carries any more."""
    agreement: float
    """Share of all frames that have the id that the parent gave them."""

    @property
    def called(self) -> tuple[int, ...]:
        """What the parent calls each unit: its own ids, and for an appended one the unit that it grew from."""
        return (*range(self.kept), *self.grown_from)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ancestor:
    """A codebook before the parent whose ids were kept all the way."""

    codebook: str
    """Its hash."""
    called: tuple[int, ...]
    """What it calls each unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodebookInfo:
    """Where a codebook comes from and which frames it may label."""

    front_end: FrontEnd
    """What turns a waveform into frames."""
    model_hash: str | None
    """Of the encoder; only for front end ``model``."""
    layer: int | None
    """Hidden state that was clustered, 0 = input of layer 1; only for front end ``model``."""
    hop: int
    """Samples at 16 kHz from one unit to the next."""
    receptive_field: int
    """Samples that the frame behind one unit sees."""
    num_units: int
    """K."""
    seed: int
    """Of the clustering."""
    usage_entropy: float
    """Entropy of the units over the fitted frames as a share of log K: 1 = all equally often, 0 = collapsed."""
    frames_fitted: int
    """Frames that the clustering saw."""
    normalization: Normalization
    """``voice``: frames are standardized per speaker before they are clustered and labelled."""
    parent: str | None
    """Hash of the codebook that this one was derived from."""
    corpus_hash: str
    """Of the utterances that it was fitted on."""
    id_map: IdMap | None = None
    """What became of the parent's units; only where ids were kept on purpose."""
    ancestors: tuple[Ancestor, ...] = ()
    """Of a parent whose ids were kept on purpose too: the codebooks before it, its own parent first."""

    def __post_init__(self) -> None:
        of_model = self.front_end == "model"
        if of_model != (self.model_hash is not None) or of_model != (self.layer is not None):
            raise ConfigError(
                f"CodebookInfo: front end '{self.front_end}' with model_hash {self.model_hash} and layer {self.layer}; "
                "the front end 'model' needs both, the others have neither."
            )
        if self.num_units < 1 or min(self.hop, self.receptive_field) < 1:
            raise ConfigError(
                f"CodebookInfo: {self.num_units} units, hop {self.hop} and receptive field {self.receptive_field} "
                "samples; all must be positive."
            )
        ids = self.id_map
        if any(len(one.called) != self.num_units or ids is None for one in self.ancestors):
            raise ConfigError(
                f"CodebookInfo: {len(self.ancestors)} ancestors; expected a name for each of {self.num_units} units, "
                "and an id map."
            )
        if ids is not None and (self.parent is None or ids.kept + len(ids.grown_from) != self.num_units):
            raise ConfigError(
                f"CodebookInfo: an id map of {ids.kept} kept and {len(ids.grown_from)} new units for {self.num_units} "
                f"units and parent {self.parent}; expected as many, and the hash of the parent."
            )

    @property
    def clock(self) -> FrameClock:
        """How the frames behind the units cut time."""
        return FrameClock(hop=self.hop, receptive_field=self.receptive_field)

    @property
    def kin(self) -> tuple[Ancestor, ...]:
        """Codebooks whose ids this one kept, parent first."""
        if self.id_map is None or self.parent is None:
            return ()
        return (Ancestor(codebook=self.parent, called=self.id_map.called), *self.ancestors)


@dataclass(frozen=True, slots=True)
class Codebook:
    """Centroids that turn frames into units."""

    centroids: Tensor
    """Shape ``(K, D)``, float32."""
    info: CodebookInfo

    def __post_init__(self) -> None:
        shape, dtype = tuple(self.centroids.shape), self.centroids.dtype
        if len(shape) != 2 or shape[0] != self.info.num_units or dtype != torch.float32:
            raise ShapeError(
                f"Codebook: centroids are {dtype} of shape {shape}, expected float32 ({self.info.num_units}, dim)."
            )
        if not bool(torch.isfinite(self.centroids).all()):
            raise ShapeError("Codebook: centroids hold NaN or infinite values.")

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of centroids and info."""
        return _hash(self.centroids, _described(self.info))

    def to(self, device: torch.device | str) -> Codebook:
        """The same codebook with its centroids on another device."""
        return Codebook(self.centroids.to(device), self.info)

    def save(self, folder: Path | str) -> Path:
        """Write ``codebook.safetensors`` and, last, ``codebook.json``; each whole or not at all.

        Returns:
            The folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        info = {"format": FORMAT, "hash": self.hash, "info": _described(self.info)}
        _write(folder / WEIGHTS_FILE, save_safetensors({"centroids": self.centroids.detach().cpu().contiguous()}))
        _write(folder / INFO_FILE, (json.dumps(info, indent=2, ensure_ascii=False) + "\n").encode())
        return folder

    @staticmethod
    def load(folder: Path | str) -> Codebook:
        """Read what :meth:`save` wrote, and verify it.

        Raises:
            CheckpointError: A file is missing, truncated, changed, a pickle, or of another format.
        """
        folder = Path(folder)
        described = _read_info(folder)
        centroids = _read_centroids(folder)
        try:
            info = from_dict(
                CodebookInfo, {"id_map": None, "ancestors": [], **described["info"]}, str(folder / INFO_FILE)
            )
            book = Codebook(centroids, info)
        except (ConfigError, ShapeError) as error:
            raise CheckpointError(f"{folder}: the codebook contradicts itself: {error}") from error
        if book.hash != described["hash"]:
            raise CheckpointError(
                f"{folder}: {WEIGHTS_FILE} and {INFO_FILE} do not belong together: got hash {book.hash}, "
                f"{INFO_FILE} says {described['hash']}. One of them was replaced or edited; copy the folder again."
            )
        return book


def _described(info: CodebookInfo) -> dict[str, Any]:
    """The info as JSON values; no key for a map or ancestors that are not there: older codebooks keep their hash."""
    return {key: value for key, value in to_dict(info).items() if value or key not in ("id_map", "ancestors")}


def _hash(centroids: Tensor, info: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(info, sort_keys=True, separators=(",", ":")).encode())
    digest.update(str(tuple(centroids.shape)).encode())
    digest.update(centroids.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / INFO_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: no codebook here, {INFO_FILE} is missing.{_pickle_hint(folder)}")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: truncated or not JSON ({error}). Copy the folder again.") from error
    if (
        not isinstance(described, dict)
        or not {"format", "hash", "info"} <= described.keys()
        or not isinstance(described["info"], dict)
    ):
        raise CheckpointError(f"{path}: not a codebook description; expected the keys format, hash and info.")
    if described["format"] != FORMAT:
        raise CheckpointError(f"{path}: format {described['format']}, this version reads {FORMAT}. Update allophone.")
    return described


def _read_centroids(folder: Path) -> Tensor:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: {WEIGHTS_FILE} is missing.{_pickle_hint(folder)}")
    content = path.read_bytes()
    if content[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"):
        raise CheckpointError(f"{path}: a pickle, which can run code and is never opened. Save it as safetensors.")
    try:
        tensors = load_safetensors(content)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: truncated or not safetensors ({len(content)} bytes; {error}). Copy the folder again."
        ) from error
    if set(tensors) != {"centroids"}:
        raise CheckpointError(f"{path}: holds {sorted(tensors)}, expected one tensor named 'centroids'.")
    return tensors["centroids"]


def _pickle_hint(folder: Path) -> str:
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    if not pickles:
        return " Make one with `allophone units fit`."
    return f" Found {pickles[0]}, but pickled k-means models can run code and are never opened; fit the codebook again."
