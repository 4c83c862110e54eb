"""``make evidence``: four languages, three seeds each; goes on where it stopped. Hours on two cores."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import ended, stages
from allophone.cli.parser import counts, languages
from allophone.recipes.evidence import LANGUAGES, evidence


def main() -> int:
    """Run what is asked for and say where the tables are; exit code 75 after a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"), help="folder of all runs")
    parser.add_argument("--languages", type=languages, default=LANGUAGES, help="new languages")
    parser.add_argument("--seeds", type=counts, default=(0, 1, 2), help="seeds")
    arguments = parser.parse_args()
    with stages() as report:
        page = evidence(arguments.out, languages=arguments.languages, seeds=arguments.seeds, report=report)
    return ended(page is not None, arguments.out / "evidence.md")


if __name__ == "__main__":
    raise SystemExit(main())
