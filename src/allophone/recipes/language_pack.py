"""What an expansion hands over: the adapted model with units and a head of its own, and the language pack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allophone.data.corpus import Corpus, merge
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash, save_encoder
from allophone.nn.codebook import Codebook
from allophone.recipes.ledger import main_voices
from allophone.recipes.own_units import own_codebook
from allophone.run.base import Base
from allophone.run.execute import save_heads
from allophone.run.expansion import Expanded
from allophone.run.expansion_config import ExpandConfig
from allophone.run.head import train_own_head
from allophone.run.pack import STACK_FILE, Stack, pack_card, pack_hash, write_pack_info, write_stack
from allophone.run.progress import Report, silent
from allophone.run.start import HEADS
from allophone.run.used import record_use


@dataclass(frozen=True, kw_only=True, slots=True)
class HandedOver:
    """The model after an expansion."""

    encoder: Encoder
    """Adapter merged in."""
    codebook: Codebook
    """Its own units."""
    heads: MaskedPrediction
    """Projection and label table: for its own units, or, where none were trained for these, for the targets."""
    card: str
    """Text of its README."""


def hand_over(
    base: Base,
    expanded: Expanded,
    where: Path | str,
    new: Corpus,
    kept: Corpus | None,
    config: ExpandConfig,
    out: Path,
    report: Report = silent,
) -> HandedOver | None:
    """Give the adapted encoder units and a head, and write ``out/model``, a base for the next language.

    Args:
        base: What was expanded.
        expanded: What the runs left.
        where: Name of the base, for the card.
        new: The new language, all voices.
        kept: What was heard of the kept languages, or None.
        config: How.
        out: Run folder.
        report: Told how far it is.

    Returns:
        None when a signal stopped it; the same call goes on.
    """
    adapted: Any = expanded.expansion.artifact()
    main = main_voices(new)
    both = main if kept is None else merge(main, kept)
    record_use(out, {"trained": [row for row in both if row.split in (None, "train")]})
    codebook = own_codebook(base, adapted, expanded, main, kept, config, report)
    heads: MaskedPrediction | None = expanded.expansion.method
    if config.head_steps:
        place = out / f"head-{codebook.hash}"  # of these units; other ones of the same run have another
        heads = train_own_head(adapted, codebook, expanded, both, config.head_steps, place, report)
    if heads is None:
        return None
    folder, card = out / "model", model_card(where, new.languages[0], new, config)
    for name in (HEADS, STACK_FILE):
        (folder / name).unlink(missing_ok=True)
    parents = [model_hash(base.encoder), codebook.hash]
    save_encoder(adapted, folder, card, parents=parents, created_by="allophone expand")
    codebook.save(folder)
    if config.head_steps:
        save_heads(heads, folder)
    return HandedOver(encoder=adapted, codebook=codebook, heads=heads, card=card)


def save_pack(expanded: Expanded, made: HandedOver, base: Base, folder: Path, language: str) -> Path:
    """Write the language pack, what PEFT loads and what only allophone reads, and beside the model what is in it."""
    expanded.expansion.save_pack(folder)
    made.codebook.save(folder)
    save_heads(made.heads, folder)
    (folder / "README.md").write_text(pack_card(made.card, base.encoder), encoding="utf-8")
    write_pack_info(
        folder,
        base.encoder,
        base.stack,
        language=language,
        codebook=made.codebook.hash,
        targets=expanded.codebook.hash,
    )
    below = base.stack or Stack(root=model_hash(base.encoder))
    stack = Stack(root=below.root, packs=(*below.packs, pack_hash(folder)))
    write_stack(folder.parent / "model", stack, made.encoder)
    return folder


def model_card(base: Path | str, language: str, new: Corpus, config: ExpandConfig) -> str:
    """Short card of model and pack."""
    name = base.name if isinstance(base, Path) else base
    licences = sorted({row.licence for row in new if row.licence})
    return (
        f"---\nlanguage: {language.split('_')[0]}\nbase_model: {name}\nbase_model_relation: adapter\n"
        f"library_name: peft\n---\n\n# {language} added to {name}\n\nMade by `allophone expand` from "
        f"{sum(new.hours().values()):.2f} h of {language} (licences: {', '.join(licences) or 'not stated'}); rank "
        f"{config.rank}, {config.steps} updates, seed {config.seed}. The ledger of gains and losses is the report.\n"
    )
