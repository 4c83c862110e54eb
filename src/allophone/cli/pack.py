"""``allophone pack apply``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import say, wrote
from allophone.cli.parser import Verbs, add_group, add_out, add_verb


def add(verbs: Verbs) -> None:
    """Add the verb."""
    group = add_group(verbs, "pack", summary="Language packs: merge them into the model that they belong on.")
    parser = add_verb(
        group,
        "apply",
        command,
        summary="Merge packs into a model, one after another, and write it with the last one's units.",
        details="A pack that belongs on another model is refused.",
        example="allophone pack apply runs/bul/pack runs/ell/pack --base starter --out models/bul-ell",
    )
    parser.add_argument("packs", nargs="+", type=Path, metavar="PACK", help="folders, the one made first first")
    parser.add_argument(
        "--base", default="starter", metavar="MODEL", help="encoder: 'starter', a folder or a hub id (default: starter)"
    )
    add_out(parser, "the model")


def command(arguments: argparse.Namespace) -> None:
    """Merge packs."""
    from allophone.recipes.apply_packs import apply_packs

    say(str(apply_packs(arguments.base, arguments.packs, out=arguments.out)))
    wrote(arguments.out)
