"""Build the starter corpus again from its Debian packages: ``python -m starter.build [--packages DIR]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Fetch the packages that are not there yet, then build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, default=Path("runs/packages"), help="folder of extracted packages")
    arguments = parser.parse_args()
    for script in ("fetch.py", "build_starter.py"):
        command = [sys.executable, str(HERE / script), "--packages", str(arguments.packages.resolve())]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
