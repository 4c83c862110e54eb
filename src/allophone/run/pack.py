"""Language packs: LoRA files that PEFT reads by itself, which model they belong on, and how several stack.

A pack belongs on one model. A second language is added to the model with the first pack merged in, so packs stack in
the order in which they were made: merge, then the next one. Each pack names the model at the bottom and the packs under
it by their hashes; merging is rounded differently on different machines, so a stack is known by these, not by the sum.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from allophone.errors import CheckpointError
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash, read_json, tensors_hash, write_json
from allophone.models.wavlm import Wavlm

PACK_FORMAT = "allophone-pack-1"
STACK_FORMAT = "allophone-packs-1"
ADAPTER = "adapter_model.safetensors"
PACK_FILE, STACK_FILE = "allophone.json", "packs.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """A model without packs, and those that were merged into it."""

    root: str
    """Hash of the model under the lowest pack."""
    packs: tuple[str, ...] = ()
    """Hashes of the packs, lowest first."""

    def __str__(self) -> str:
        return f"model {self.root}" + "".join(f" + pack {pack}" for pack in self.packs)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackInfo:
    """What a pack says of itself."""

    hash: str
    """Of its LoRA matrices."""
    base_model_hash: str
    """Of the model that it was trained on, packs under it merged in."""
    below: Stack
    """The same model as a stack."""
    language: str | None
    """Tag of the language that it adds."""


def pack_hash(folder: Path) -> str:
    """First 16 hex digits of the SHA-256 over the LoRA matrices of a pack.

    Raises:
        CheckpointError: They are missing or damaged.
    """
    path = folder / ADAPTER
    try:
        return tensors_hash(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: missing, truncated or not safetensors ({error}). Copy the pack again."
        ) from error


def write_pack_info(
    folder: Path, base: Encoder, below: Stack | None, *, language: str, codebook: str, targets: str
) -> PackInfo:
    """Write ``allophone.json`` beside a pack's LoRA files.

    Args:
        folder: Holds what PEFT saved.
        base: The model that it was trained on.
        below: The same as a stack; None = it has no packs in it.
        language: That was added.
        codebook: Hash of the codebook beside it.
        targets: Hash of the codebook whose units it was trained on.
    """
    own = model_hash(base)
    below = Stack(root=own) if below is None else below
    info = PackInfo(hash=pack_hash(folder), base_model_hash=own, below=below, language=language)
    lineage = {
        "format": PACK_FORMAT,
        "pack_hash": info.hash,
        "language": language,
        "base_model_hash": own,
        "root_model_hash": below.root,
        "packs_below": list(below.packs),
        "codebook_hash": codebook,
        "targets_codebook_hash": targets,
    }
    write_json(folder / PACK_FILE, lineage)
    return info


def read_pack_info(folder: str | Path) -> PackInfo:
    """What a pack says of itself, checked against its LoRA matrices.

    Raises:
        CheckpointError: It is no language pack, or one of its files was replaced.
    """
    folder = Path(folder)
    values = read_json(folder / PACK_FILE)
    if values.get("format") != PACK_FORMAT or not isinstance(values.get("base_model_hash"), str):
        raise CheckpointError(
            f"{folder}: format is {values.get('format')!r}, expected '{PACK_FORMAT}'. Name the folder `pack` of a run "
            "of `allophone expand`."
        )
    found, base = pack_hash(folder), values["base_model_hash"]
    if values.get("pack_hash", found) != found:
        raise CheckpointError(
            f"{folder}: {PACK_FILE} was written for pack {values['pack_hash']}, {ADAPTER} is {found}. One of them was "
            "replaced; copy the pack again."
        )
    below = Stack(root=values.get("root_model_hash", base), packs=tuple(values.get("packs_below", ())))
    return PackInfo(hash=found, base_model_hash=base, below=below, language=values.get("language"))


def load_pack(encoder: Encoder, folder: str | Path, stack: Stack | None = None) -> tuple[Encoder, Stack]:
    """A copy of an encoder with a pack merged into its weights.

    Args:
        encoder: What the pack belongs on; stays as it is.
        folder: The pack.
        stack: What the encoder was made of, where packs are merged into it; None = it is a model without packs.

    Returns:
        The merged encoder in evaluation mode, and what it is made of.

    Raises:
        CheckpointError: The pack is damaged, or belongs on another model.
    """
    info, own = read_pack_info(folder), model_hash(encoder)
    stack = Stack(root=own) if stack is None else stack
    if own != info.base_model_hash and stack != info.below:
        advice = "Apply the packs that it names first, in that order" if info.below.packs else "Name that model"
        raise CheckpointError(
            f"{folder}: this pack belongs on {info.below} (hash {info.base_model_hash}); the model given is {stack} "
            f"(hash {own}). On other weights it would do harm without a word. {advice}."
        )
    try:
        adapted = PeftModel.from_pretrained(copy.deepcopy(encoder), str(folder))
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: PEFT cannot load it ({error}). Copy the pack again.") from error
    merged: Any = adapted.merge_and_unload()
    return merged.eval(), Stack(root=info.below.root, packs=(*info.below.packs, info.hash))


def load_packs(encoder: Encoder, folders: Sequence[str | Path], stack: Stack | None = None) -> tuple[Encoder, Stack]:
    """A copy of an encoder with packs merged in one after another, the lowest first; see :func:`load_pack`.

    Raises:
        CheckpointError: A pack is damaged or does not belong on what is under it.
    """
    stack = Stack(root=model_hash(encoder)) if stack is None else stack
    for folder in folders:
        encoder, stack = load_pack(encoder, folder, stack)
    return encoder, stack


def write_stack(folder: Path, stack: Stack, encoder: Encoder) -> None:
    """Say beside a model which packs are merged into it."""
    values = {"format": STACK_FORMAT, "model_hash": model_hash(encoder), "root_model_hash": stack.root}
    write_json(folder / STACK_FILE, {**values, "packs": list(stack.packs)})


def read_stack(folder: Path, encoder: Encoder) -> Stack | None:
    """What a model is made of; None where nothing beside it says that packs are merged in.

    Raises:
        CheckpointError: The file is damaged, or was written for other weights.
    """
    path = folder / STACK_FILE
    if not path.exists():
        return None
    values = read_json(path)
    if values.get("format") != STACK_FORMAT or values.get("model_hash") != model_hash(encoder):
        raise CheckpointError(
            f"{path}: written for model {values.get('model_hash')} in format {values.get('format')!r}; the weights "
            f"beside it are {model_hash(encoder)}. Copy the folder again; delete the file if you changed the weights."
        )
    return Stack(root=values["root_model_hash"], packs=tuple(values["packs"]))


def pack_card(card: str, encoder: Encoder) -> str:
    """The model's card, with a warning where a program that loads the pack would ignore it without a word."""
    if not isinstance(encoder, Wavlm):
        return card
    return (
        f"{card}\nThe WavLM of `transformers` (5.23 and before) reads the weights of its attention past PEFT's layers: "
        "this pack changes nothing there. Load the merged model instead, which lies beside the pack.\n"
    )
