"""``python -m maml_rl.evaluate``; see ``--help``."""

import sys

from maml_rl.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
