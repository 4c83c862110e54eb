"""Packs merged into the model that they belong on, as a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from allophone.models.conversion import model_hash, replace_file, save_encoder
from allophone.nn.codebook import Codebook
from allophone.run.pack import Stack, load_packs, write_stack
from allophone.run.start import HEADS, load_heads
from allophone.run.starter import open_base


def apply_packs(base: str | Path, packs: Sequence[Path], *, out: Path) -> Stack:
    """Merge packs into a model and write it, with units and head of the last pack.

    Args:
        base: ``starter``, a model folder or a hub id.
        packs: Folders, lowest first.
        out: Model folder to write.

    Returns:
        What the model is made of.

    Raises:
        CheckpointError: A pack is damaged or belongs on another model.
    """
    model, name = open_base(base)
    merged, stack = load_packs(model.encoder, packs, model.stack)
    encoder: Any = merged
    codebook = Codebook.load(packs[-1])
    # Merging is rounded differently on different machines; the units are those of this very stack all the same.
    codebook = replace(codebook, info=replace(codebook.info, model_hash=model_hash(encoder)))
    parents = [model_hash(model.encoder), *stack.packs, codebook.hash]
    card = f"# {name} with {len(stack.packs)} language packs\n\nMade of {stack}.\n"
    save_encoder(encoder, out, card, parents=parents, created_by="allophone pack apply")
    codebook.save(out)
    heads = load_heads(packs[-1])
    if heads is not None:
        replace_file(out / HEADS, save({key: value.contiguous() for key, value in heads.items()}))
    write_stack(out, stack, encoder)
    return stack
