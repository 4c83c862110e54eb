"""Each check tells good from bad and says the mend."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from allophone.cli.main import main
from allophone.run import doctor as module
from allophone.run.doctor import Check, doctor


def test_all_checks_run_and_each_fault_has_a_mend(tmp_path: Path) -> None:
    checks = doctor(tmp_path)
    has_ray = importlib.util.find_spec("ray") is not None
    assert len({check.name for check in checks}) == len(checks) == 10 + has_ray
    assert has_ray == ("ray" in {check.name for check in checks})
    for check in checks:
        assert check.found
        assert bool(check.mend) == (check.status != "good")


@pytest.mark.parametrize(
    ("check", "status", "says"),
    [
        (module.check_python((3, 10, 2)), "bad", "Use Python 3.11"),
        (module.check_python((3, 12, 0)), "good", ""),
        (module.check_bfloat16(False, 0.6), "warning", "fp32"),
        (module.check_bfloat16(True, 2.7), "good", ""),
        (module.check_starter({}), "warning", "pip install ./starter"),
        (module.check_starter({"corpus": True, "encoder": False}), "warning", "pip install ./starter"),
        (module.check_codecs({"wav": True, "opus": False}), "warning", "No opus"),
        (module.check_codecs({"wav": False}), "bad", "No wav"),
        (module.check_codecs({"wav": True}), "good", ""),
        (module.check_disk(Path(), 2**30), "warning", "5 GiB"),
        (module.check_disk(Path(), 2**36), "good", ""),
        (module.check_memory(None), "warning", "does not tell"),
        (module.check_memory(2**30), "warning", "smaller"),
        (module.check_memory(2**35), "good", ""),
        (module.check_versions({"torch": "2.13.0"}, {"torch": "2.6.0"}), "warning", "constraints.txt"),
        (module.check_versions({"torch": "2.13.0", "ray": "1"}, {"torch": "2.13.0"}), "good", ""),
        (module.check_versions({}, {"torch": "2.13.0"}), "good", ""),
    ],
)
def test_good_is_told_from_bad(check: Check, status: str, says: str) -> None:
    assert check.status == status
    assert says in check.mend


def test_the_version_that_differs_is_named() -> None:
    check = module.check_versions({"torch": "2.13.0", "numpy": "2.0"}, {"torch": "2.6.0", "numpy": "2.0"})
    assert check.found == "torch 2.6.0 (tested: 2.13.0)"


def test_pinned_versions_are_read_from_the_checkout(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("# comment\ntorch==2.13.0  # cpu\nHuggingface_Hub==2.4.0\n\n")
    assert module.pinned_versions(file) == {"torch": "2.13.0", "huggingface-hub": "2.4.0"}
    assert module.pinned_versions(tmp_path / "none.txt") == {}
    assert "torch" in module.pinned_versions(module.constraints_path())


def test_common_formats_can_be_read_here() -> None:
    readable = module.readable_codecs()
    assert set(readable) == {"wav", "flac", "mp3", "ogg", "opus"}
    assert readable["wav"]
    assert readable["flac"]


def test_a_format_that_is_unknown_is_not_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CODECS", {"opus": ("OGG", "NO_SUCH_ENCODING")})
    assert module.readable_codecs() == {"opus": False}


def test_the_verb_prints_a_line_each_and_exits_by_the_worst(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = (
        Check(name="disk", status="good", found="9 GiB"),
        Check(name="codecs", status="bad", found="none", mend="Install soundfile."),
    )
    monkeypatch.setattr(module, "doctor", lambda folder: checks)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "ok    disk      9 GiB\n" in said
    assert "Install soundfile." in said
    monkeypatch.setattr(module, "doctor", lambda folder: checks[:1])
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["found"] == "9 GiB"
