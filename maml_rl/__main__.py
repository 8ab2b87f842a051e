"""``python -m maml_rl train|evaluate|compare|record|play|plot|baselines|list``."""

import sys

from maml_rl.cli import main

if __name__ == "__main__":
    sys.exit(main())
