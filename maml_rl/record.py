"""``python -m maml_rl.record``; see ``--help``."""

import sys

from maml_rl.cli import main

if __name__ == "__main__":
    sys.exit(main(["record", *sys.argv[1:]]))
