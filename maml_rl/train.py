"""``python -m maml_rl.train``; see ``--help``."""

import sys

from maml_rl.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
