"""The README tells the truth: its commands parse, its make targets exist, its files exist, its example runs."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from allophone.cli.main import build_parser
from allophone.cli.parser import ON_CPU, every_verb
from allophone.run.doctor import starter_files

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *kinds: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")) if kind in kinds]


def commands(page: Path, program: str) -> list[list[str]]:
    """Arguments of each command line of ``program`` in the shell blocks and inline code of a page."""
    lines = [line for body in blocks(page, "sh", "bash", "console") for line in body.replace("\\\n", " ").splitlines()]
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    lines += re.findall(r"`([^`\n]+)`", prose)
    words = [shlex.split(line.strip().removeprefix("$ "), comments=True) for line in lines if program in line]
    return [found[1:] for found in words if found and found[0] == program]


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    for arguments in commands(page, "allophone"):
        verbs_only = all(re.fullmatch(r"[a-z]+", argument) for argument in arguments)
        try:
            build_parser().parse_args(arguments)
        except SystemExit as stop:  # `--help` ends with 0; a bare verb in prose only names it
            assert stop.code == 0 or (verbs_only and len(arguments) < 3), f"allophone {' '.join(arguments)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    named = {a for arguments in commands(page, "make") for a in arguments if re.fullmatch(r"[a-z]+", a)}
    assert named <= makefile_targets()


def test_verbs_with_a_plan_and_those_for_torchrun_are_named() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    verbs = every_verb(build_parser())
    planned = page.partition("Every verb has")[2].partition("say with `--plan`")[0]
    shared = page.partition("## Several GPUs")[2].partition("under `torchrun`")[0]
    for said, marked in (
        (planned, {verb.prog for verb in verbs if "--plan" in verb._option_string_actions}),
        (shared, {verb.prog for verb in verbs if verb.get_default("shared")}),
    ):
        named = {f"allophone {name.removeprefix('allophone ')}" for name in re.findall(r"`([a-z ]+)`", said)}
        assert named == marked


def test_verbs_that_take_a_gpu_are_named() -> None:
    """They alone choose a device; help that says otherwise would be wrong."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    told = page.partition("Without `torchrun`, ")[2].partition("the first GPU")[0]
    parser = build_parser()
    taking = {
        verb.prog.removeprefix("allophone ")
        for verb in every_verb(parser)
        if "process_group()" in inspect.getsource(verb.get_default("command"))
    }
    assert set(re.findall(r"`([a-z ]+)`", told)) == taking
    assert {name.split()[0] for name in taking} == set(re.findall(r"`([a-z]+)`", parser.epilog or "")) - {"train"}
    on_cpu = {verb.prog for verb in every_verb(parser) if ON_CPU in (verb.description or "")}
    assert {"allophone evaluate", "allophone expand", "allophone mlsuperb"} <= on_cpu
    assert not on_cpu & {f"allophone {name}" for name in taking}


def test_the_two_commands_are_there() -> None:
    named = [arguments for arguments in commands(ROOT / "README.md", "make") if arguments]
    assert ["demo"] in named
    assert ["test"] in named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_mapped_files_exist() -> None:
    """The map of the files names folders below src/allophone; each is there."""
    rows = re.findall(r"^\| `([\w/]+/)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows
    assert not [row for row in rows if not (ROOT / "src/allophone" / row).is_dir() and not (ROOT / row).is_dir()]


@pytest.mark.skipif(not starter_files().get("encoder"), reason="needs the starter distribution with its encoder")
def test_python_example_runs(tmp_path: Path) -> None:
    for example in blocks(ROOT / "README.md", "python"):
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
