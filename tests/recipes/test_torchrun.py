"""The verb under torchrun: a rank is killed, the job goes on by itself, and on another number of processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("allophone_starter", reason="needs the starter corpus")

from processes import losses, recordings

from allophone.train.loop import CHECKPOINTS

PROGRAM = Path(__file__).with_name("heard.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--monitor-interval=0.1")
KILL_AFTER = 5
"""Steps in the journal when the rank is killed: behind a checkpoint, before the next."""


class Job:
    """A run of the verb in a folder of its own."""

    def __init__(self, folder: Path, corpus: Path, *torchrun: str, options: tuple[str, ...] = ()) -> None:
        self.folder, self.run_dir = folder, folder / "run"
        folder.mkdir(exist_ok=True)
        verb = ["pretrain", "--recipe", "tiny", "--corpus", str(corpus), "--out", str(self.run_dir), *options]
        start = [*TORCHRUN, *torchrun] if torchrun else []
        environment = {**os.environ, "HEARD": str(folder)}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, *start, str(PROGRAM), *verb], env=environment, stdout=self.log, stderr=self.log
        )

    @property
    def journal(self) -> Path:
        return self.run_dir / "iteration-1"

    def steps(self) -> int:
        path = self.journal / "metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def finish(self) -> str:
        code = self.process.wait()
        self.log.close()
        text = (self.folder / "log").read_text()
        assert code == 0, text
        return text

    def heard(self) -> dict[tuple[int, int], Any]:
        """What was heard by number of the batch; what was heard twice, before and after a kill, must be the same."""
        found: dict[tuple[int, int], Any] = {}
        for path in self.folder.glob("heard-*.jsonl"):
            for line in map(json.loads, path.read_text().splitlines()):
                what = (line["ids"], line["digest"])
                assert found.setdefault(tuple(line["number"]), what) == what
        return found


@pytest.mark.slow
def test_a_killed_rank_costs_nothing_but_time(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    recordings(20).save(corpus)
    undisturbed = Job(tmp_path / "undisturbed", corpus)
    undisturbed.finish()
    expected, samples = losses(undisturbed.journal), undisturbed.heard()
    assert len(expected) == 12 and len(samples) >= 48

    job = Job(tmp_path / "killed", corpus, "--nproc-per-node=4", "--max-restarts=1")
    while job.steps() < KILL_AFTER:
        assert job.process.poll() is None, (job.folder / "log").read_text()
        time.sleep(0.005)
    first = int((job.folder / "pid-2").read_text())
    os.kill(first, signal.SIGKILL)
    shutil.copytree(job.folder, tmp_path / "left")  # what the kill leaves to a job that is started by hand
    log = job.finish()
    assert int((job.folder / "pid-2").read_text()) != first and "lost the others" in log
    assert log.count("wrote ") == 1  # rank 0 alone speaks
    assert losses(job.journal) == pytest.approx(expected, rel=1e-4)
    assert job.heard() == samples

    left = max(path.name for path in (tmp_path / "left/run/iteration-1" / CHECKPOINTS).glob("step-*"))
    assert "step-00000003" <= left < "step-00000012"
    two = Job(tmp_path / "left", corpus, "--nproc-per-node=2", options=("--parallel", "fsdp"))
    two.finish()
    assert losses(two.journal) == pytest.approx(expected, rel=1e-4)
    assert two.heard() == samples
