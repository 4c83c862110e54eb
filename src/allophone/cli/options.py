"""Options made from a frozen dataclass: one ``--field-name`` per field, with the docstring under the field as help.

The dataclass is read from its source, not imported, because ``--help`` must not wait for torch. The instance is
made (and checked by its ``__post_init__``) only when the verb runs.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One field of a dataclass as its source has it."""

    name: str
    """Field name, ``batch_seconds``."""
    annotation: ast.expr
    """Its annotation."""
    default: ast.expr | None
    """Its default, None when the field must be given."""
    help: str
    """First paragraph of the docstring under it."""


def read_options(target: str) -> tuple[Option, ...]:
    """Fields of the dataclass named ``module:Class``, in the order of the source.

    Raises:
        LookupError: There is no such module or class.
    """
    module, _, name = target.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(f"No module {module} for the options {target}.")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return tuple(_fields(node.body))
    raise LookupError(f"No class {name} in {module}.")


def _fields(body: Sequence[ast.stmt]) -> list[Option]:
    found = []
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                text = " ".join(str(following.value.value).split("\n\n")[0].split())
            found.append(
                Option(name=statement.target.id, annotation=statement.annotation, default=statement.value, help=text)
            )
    return found


def add_options(parser: argparse.ArgumentParser, target: str, *, leave_out: Sequence[str] = ()) -> None:
    """Give ``parser`` an option for each field of ``module:Class`` except those named in ``leave_out``."""
    group = parser.add_argument_group("settings")
    for option in read_options(target):
        if option.name not in leave_out:
            settings = _settings(option.annotation)
            shown = "" if option.default is None else f" (default: {ast.unparse(option.default)})"
            group.add_argument(
                "--" + option.name.replace("_", "-"),
                dest=option.name,
                default=argparse.SUPPRESS,
                required=option.default is None,
                help=(option.help.replace("``", "") + shown).replace("%", "%%"),
                **settings,
            )


def make(target: str, arguments: argparse.Namespace, **fixed: Any) -> Any:
    """The dataclass ``module:Class`` from the options that were given, its own defaults, and ``fixed`` values."""
    module, _, name = target.partition(":")
    given = vars(arguments)
    chosen = {option.name: given[option.name] for option in read_options(target) if option.name in given}
    return getattr(importlib.import_module(module), name)(**{**chosen, **fixed})


def _settings(annotation: ast.expr) -> dict[str, Any]:
    """What ``add_argument`` needs for an annotation; a ``| None`` is looked through."""
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        sides = [side for side in (annotation.left, annotation.right) if ast.unparse(side) != "None"]
        if len(sides) == 1:
            return _settings(sides[0])
    if isinstance(annotation, ast.Subscript):
        outer = ast.unparse(annotation.value)
        if outer == "Literal":
            return {"choices": ast.literal_eval(ast.Tuple(elts=_elements(annotation.slice), ctx=ast.Load()))}
        elements = _elements(annotation.slice)
        if outer == "tuple" and len(elements) == 2 and ast.unparse(elements[1]) == "...":
            inner = _simple(elements[0])
            return {"type": lambda text: tuple(inner(part) for part in text.split(",") if part), "metavar": "A,B,..."}
    if ast.unparse(annotation) == "bool":
        return {"action": argparse.BooleanOptionalAction}
    metavar = {"int": "N", "float": "X", "str": "NAME", "Path": "PATH"}
    return {"type": _simple(annotation), "metavar": metavar[ast.unparse(annotation)]}


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _simple(annotation: ast.expr) -> Callable[[str], Any]:
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "Path": Path}
    text = ast.unparse(annotation)
    if text not in kinds:
        raise TypeError(
            f"No option can be made from the annotation '{text}'; known: {', '.join(kinds)}, bool, Literal."
        )
    return kinds[text]
