"""The import graph: arrows point strictly down, and nothing that loads data can run code."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "allophone"
LEVELS = [
    *(["errors"], ["frames"], ["config"], ["seeding"], ["distributed"], ["engine"], ["batch"]),  # L0, in this order
    ["nn", "audio", "text", "metrics"],  # L1
    ["models", "losses", "data"],  # L2
    ["methods", "units", "evaluate", "search"],  # L3
    ["train"],  # L4
    ["run"],  # L5
    ["recipes", "benchmarks"],  # L6
    ["cli", "serve", "hub"],  # L7
    ["__init__", "__main__"],  # the doors of the package
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
OPTIONAL = {
    "allophone_starter",
    "av",
    "datasets",
    "lancedb",
    "ray",
    "mteb",
    "onnx",
    "onnxruntime",
    "sacrebleu",
    "fastapi",
    "faster_whisper",
}
OPTIONAL |= {"espeakng_loader", "num2words", "umap"}
"""Packages of extras. They alone may be imported inside a function below the command line, and these:"""
SLOW = {"transformers", "allophone.models.text_decoder"}
"""What takes longer to import than what is asked for takes; a translator whose decoder is ours needs none of it."""
PEERS = {"fairseq", "s3prl", "torchaudio", "faiss", "kaldi_native_fbank", "librosa"}
"""What benchmarks compare with may be missing, and is then listed with the reason."""
RUNS_CODE = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FILES = sorted(SOURCE.rglob("*.py"))


def home(file: Path) -> str:
    """Package below ``allophone``, or module, that a file belongs to: ``models``, ``frames``, ``__init__``."""
    return file.relative_to(SOURCE).with_suffix("").parts[0]


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Each import statement with the full name of what it imports: ``a.b`` for ``from a import b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the full name"
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def name_of(file: Path) -> str:
    return str(file.relative_to(SOURCE))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_strictly_down(file: Path) -> None:
    own = home(file)
    assert own in LEVEL, f"{own} has no level; give it one in DESIGN.md and here"
    for node, target in imports(parse(file)):
        if target.split(".")[0] != "allophone":
            continue
        other = target.split(".")[1]
        if own == other or (own == "cli" and target == "allophone.__version__"):
            continue
        assert other in LEVEL, f"line {node.lineno}: unknown package allophone.{other}"
        assert LEVEL[other] < LEVEL[own], f"line {node.lineno}: {own} imports {other}, which is not below it"


@pytest.mark.parametrize("file", [file for file in FILES if home(file) != "cli"], ids=name_of)
def test_only_optional_and_slow_packages_are_imported_inside_functions(file: Path) -> None:
    functions = (node for node in ast.walk(parse(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    for function in functions:
        for node, target in imports(function):
            package = target.split(".")[0]
            allowed = OPTIONAL | PEERS if home(file) == "benchmarks" else OPTIONAL
            slow = target in SLOW or target.rpartition(".")[0] in SLOW
            assert package in allowed or slow, f"line {node.lineno}: {target} belongs at the top of the file"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_that_is_loaded_runs_code(file: Path) -> None:
    tree = parse(file)
    for node, target in imports(tree):
        safe = target == "pickle.UnpicklingError"
        assert safe or target.split(".")[0] not in RUNS_CODE, f"line {node.lineno}: {target} runs what it loads"
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called, keywords = ast.unparse(call.func), {key.arg: ast.unparse(key.value) for key in call.keywords}
        where = f"line {call.lineno}: {called}"
        assert called not in ("eval", "exec", "os.system", "os.popen"), where
        assert called != "torch.load" or keywords.get("weights_only") == "True", f"{where} without weights_only=True"
        for unsafe in ("allow_pickle", "trust_remote_code", "shell"):
            assert keywords.get(unsafe, "False") == "False", f"{where} with {unsafe}"


@pytest.mark.parametrize("file", [file for file in FILES if home(file) != "cli"], ids=name_of)
def test_only_the_command_line_prints(file: Path) -> None:
    calls = (node for node in ast.walk(parse(file)) if isinstance(node, ast.Call))
    assert not [call.lineno for call in calls if ast.unparse(call.func) == "print"]


def test_the_graph_is_not_empty() -> None:
    """Guards the tests above: were the source not found, they would all pass."""
    assert {"errors.py", "batch.py", "frames.py"} <= {name_of(file) for file in FILES}
    assert not list(SOURCE.rglob("utils.py"))


def test_translating_a_file_imports_nothing_slow() -> None:
    """A person waits for it: where the decoder is ours, nothing is read that takes a second."""
    code = "import sys, allophone.recipes.write_files; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in found and not {"transformers", "sklearn", "scipy", "pandas", "matplotlib"} & set(found)
