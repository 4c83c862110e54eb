"""The command line: what it says, what it refuses, what it returns, what it does not import."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from allophone.cli.main import build_parser, main
from allophone.cli.parser import Parser
from allophone.errors import AudioError, DataError

HEAVY = ("torch", "numpy", "transformers", "pyarrow", "matplotlib", "rich")


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Parsers of all verbs that do something."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield parser
    for action in nested:
        for child in action.choices.values():
            yield from leaves(child)


LEAVES = list(leaves(build_parser()))


def parser_that_raises(error: BaseException) -> Parser:
    """A command line with one verb, which fails."""

    def command(arguments: argparse.Namespace) -> None:
        raise error

    parser = Parser(prog="allophone")
    parser.add_argument("--debug", action="store_true")
    parser.set_defaults(command=command)
    return parser


@pytest.mark.parametrize(
    "arguments", [["--help"], ["pretrain", "--help"], ["expand", "--help"], ["units", "fit", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """Half a second for `--help` is what follows from this; a timing would only test the machine."""
    program = (
        "import sys\nfrom allophone.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "allophone" in done.stdout


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, allophone; assert 'torch' not in sys.modules; print(allophone.__version__, dir(allophone))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "SpeechEncoder" in done.stdout


def test_public_names_are_loaded_when_used() -> None:
    import allophone
    from allophone.data.corpus import Corpus

    assert allophone.Corpus is Corpus
    with pytest.raises(AttributeError, match="no attribute 'Corpse'; it has Corpus"):
        _ = allophone.Corpse


@pytest.mark.parametrize("parser", LEAVES, ids=lambda parser: parser.prog)
def test_every_verb_has_an_example_that_parses(parser: argparse.ArgumentParser) -> None:
    example = parser.get_default("example")
    assert example.startswith(parser.prog)
    assert example in parser.format_help()
    arguments = build_parser().parse_args(example.split()[1:])
    assert arguments.command is parser.get_default("command")
    assert arguments.debug is False


@pytest.mark.parametrize("parser", LEAVES, ids=lambda parser: parser.prog)
def test_every_option_has_help(parser: argparse.ArgumentParser) -> None:
    assert not [action.dest for action in parser._actions if not action.help]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("expand --langauge swa", "unknown option '--langauge'. Did you mean '--language'?"),
        ("expand --langauge=swa --corpus x", "unknown option '--langauge'. Did you mean '--language'?"),
        ("corpus import x --out y --max-los 1", "unknown option '--max-los'. Did you mean '--max-loss'?"),
        ("expnad", "unknown verb 'expnad'. Did you mean 'expand'?"),
        ("corpus imprt x", "unknown verb 'imprt'. Did you mean 'import'?"),
        ("corpus export x --out y --to audiofoldr", "unknown value 'audiofoldr'. Did you mean 'audiofolder'?"),
        ("doctor now", "unexpected argument 'now'"),
        ("expand --corpus x", "required: --language"),
        ("demo --seed one", "invalid int value: 'one'"),
        ("", "required: VERB"),
        ("expand --lang swa", "unknown option '--lang'"),  # no abbreviations: they break when an option is added
    ],
)
def test_a_wrong_line_is_explained(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert message in said.err
    assert "--help'" in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("corpus.csv: no column 'path'."), 1, "error: corpus.csv: no column 'path'."),
        (AudioError("a.wav: empty file."), 1, "error: a.wav: empty file."),
        (PermissionError(13, "Permission denied", "/root/x"), 1, "Permission denied: '/root/x'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("allophone.cli.main.build_parser", lambda: parser_that_raises(error))
    assert main([]) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("allophone.cli.main.build_parser", lambda: parser_that_raises(DataError("bad row")))
    assert main(["--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allophone.cli.main.build_parser", lambda: parser_that_raises(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main([])


def test_python_m_allophone_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "allophone", "corpus", "show", "/nowhere"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: /nowhere")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    line = f"{sys.executable} -m allophone doctor --json | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True)
    assert "BrokenPipe" not in done.stderr


def test_what_broke_is_said_in_the_terminal_before_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("allophone.recipes.demo.demo", lambda *_, **__: SimpleNamespace(summary="  worse     much"))
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "  worse     much"
