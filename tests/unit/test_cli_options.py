"""Options made from a dataclass: names, types, help and defaults are those of its source."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from pathlib import Path

import pytest

from allophone.cli.options import add_options, make, read_options
from allophone.cli.parser import Parser
from allophone.errors import ConfigError

SOURCE = '''
"""A module that must not be imported to print help."""
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from allophone.errors import ConfigError

@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings."""

    steps: int
    """Updates of the weights (the paper has 5 %)."""
    learning_rate: float = 1e-3
    """Peak, reached after ``warmup``.

    Not shown: further paragraphs.
    """
    bf16: bool = False
    """Compute in bfloat16."""
    layer: int | None = None
    target: Literal["mfcc", "model"] = "mfcc"
    """What is clustered."""
    keep: tuple[str, ...] = ()
    """Languages."""
    folder: Path = Path("runs")
    """Where."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps must be positive, got {self.steps}.")
'''


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a dataclass in a module that nobody has imported."""
    (tmp_path / "settings_for_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "settings_for_test", raising=False)
    return "settings_for_test:Settings"


def parser_for(target: str) -> argparse.ArgumentParser:
    parser = Parser(prog="x")
    add_options(parser, target)
    return parser


def test_help_comes_from_the_source_without_importing_it(target: str) -> None:
    text = " ".join(parser_for(target).format_help().split())
    assert "--learning-rate X Peak, reached after warmup. (default: 0.001)" in text
    assert "Updates of the weights (the paper has 5 %)." in text
    assert "further paragraphs" not in text
    assert "settings_for_test" not in sys.modules


def test_given_options_reach_the_dataclass_and_others_keep_its_defaults(target: str) -> None:
    line = "--steps 7 --bf16 --layer 4 --target model --keep eng,spa --folder out".split()
    settings = make(target, parser_for(target).parse_args(line))
    assert dataclasses.asdict(settings) == {
        "steps": 7,
        "learning_rate": 1e-3,
        "bf16": True,
        "layer": 4,
        "target": "model",
        "keep": ("eng", "spa"),
        "folder": Path("out"),
    }


def test_fixed_values_win(target: str) -> None:
    assert make(target, parser_for(target).parse_args(["--steps", "7"]), steps=9).steps == 9


def test_the_dataclass_checks_the_values(target: str) -> None:
    with pytest.raises(ConfigError, match="steps must be positive, got 0"):
        make(target, parser_for(target).parse_args(["--steps", "0"]))


@pytest.mark.parametrize(
    ("line", "message"),
    [("--layer 4", "required: --steps"), ("--steps 1 --target mfc", "unknown value 'mfc'. Did you mean 'mfcc'?")],
)
def test_wrong_options_are_refused(target: str, line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser_for(target).parse_args(line.split())
    assert message in capsys.readouterr().err


def test_fields_are_those_that_dataclasses_sees(target: str) -> None:
    names = [option.name for option in read_options(target)]
    assert names == [f.name for f in dataclasses.fields(importlib.import_module("settings_for_test").Settings)]


def test_unknown_sources_are_defects() -> None:
    with pytest.raises(LookupError, match="No class Nothing in"):
        read_options("allophone.frames:Nothing")
    with pytest.raises(LookupError, match="No module"):
        read_options("allophone.nothing:Nothing")


def test_an_annotation_that_cannot_be_an_option_is_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_for_test.py").write_text("class Odd:\n    x: dict[str, int] = {}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TypeError, match="annotation 'dict"):
        parser_for("odd_for_test:Odd")
