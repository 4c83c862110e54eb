"""Docstrings keep their promises: shapes stated, errors really raised, examples run."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "allophone"
FILES = sorted(SOURCE.rglob("*.py"))
SHAPE = re.compile(r"[Ss]hape|\([A-Za-z][\w ]*,[^)]*\)|\(\)")
"""``Shape ...``, or a shape in parentheses: ``(batch, frames)``, ``(S,)``, ``()``."""

UMBRELLA = "AllophoneError"
"""The base of all: what a function documents that only calls others which document theirs."""
TABLE = re.compile(r"\b(dict|Mapping|Callable)\[")
"""Tables of named tensors, such as a state dict, and callbacks have no one shape."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(file: Path) -> str:
    return str(file.relative_to(SOURCE))


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def public_functions(body: list[ast.stmt], outer: str = "") -> Iterator[tuple[Function, str]]:
    """Public functions and methods with the docstring of the class around them."""
    for node in body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node, outer
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, ast.get_docstring(node) or "")


def takes_tensor(function: Function) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [ast.unparse(argument.annotation) for argument in arguments if argument.annotation is not None]
    return any(re.search(r"\bTensor\b", text) and not TABLE.search(text) for text in annotations)


def raises_section(docstring: str) -> list[str]:
    """Names in a Google-style ``Raises:`` section."""
    names, inside = [], False
    for line in docstring.splitlines():
        if line.strip() == "Raises:":
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
        elif inside and (match := re.match(r"^ {4}(\w+):", line)):
            names.append(match.group(1))
    return names


def raised_in(tree: ast.Module) -> set[str]:
    """Names of what the module raises or builds to be raised."""
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    bare = {ast.unparse(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None}
    return called | bare


def called_modules(tree: ast.Module) -> Iterator[Path]:
    """Files of the allophone modules that a module imports: what it calls may raise in its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("allophone."):
            file = SOURCE.joinpath(*(node.module or "").split(".")[1:]).with_suffix(".py")
            package = file.with_suffix("") / "__init__.py"
            yield from (path for path in (file, package) if path.is_file())


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_functions_that_take_tensors_state_a_shape(file: Path) -> None:
    for function, outer in public_functions(parse(file).body):
        if takes_tensor(function):
            text = (ast.get_docstring(function) or "") + outer
            assert SHAPE.search(text), f"{function.name} (line {function.lineno}) takes a Tensor and states no shape"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_documented_errors_are_raised(file: Path) -> None:
    tree = parse(file)
    documented = {
        name
        for function, _ in public_functions(tree.body)
        for name in raises_section(ast.get_docstring(function) or "")
    }
    documented -= {UMBRELLA}
    if documented:
        raised = raised_in(tree).union(*(raised_in(parse(path)) for path in called_modules(tree)))
        assert documented <= raised, f"documented, never raised: {sorted(documented - raised)}"


@pytest.mark.parametrize("file", [f for f in FILES if ">>>" in f.read_text(encoding="utf-8")], ids=name_of)
def test_examples_run(file: Path) -> None:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_checks_see_what_they_should() -> None:
    """Guards the regular expressions above."""
    assert SHAPE.search("Mean over frames, ``(batch, dim)``")
    assert not SHAPE.search("Mean over frames (see the paper)")
    assert raises_section(
        "One.\n\nRaises:\n    DataError: Bad.\n    ShapeError: Worse:\n        more.\n\nSource:\n    x"
    ) == [
        "DataError",
        "ShapeError",
    ]
