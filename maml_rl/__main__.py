"""``python -m maml_rl COMMAND``; see ``cli.COMMANDS``."""

import sys

from maml_rl.cli import main

if __name__ == "__main__":
    sys.exit(main())
