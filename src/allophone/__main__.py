"""``python -m allophone`` is ``allophone``."""

from allophone.cli.main import entry

if __name__ == "__main__":
    entry()
