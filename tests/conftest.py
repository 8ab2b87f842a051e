"""Import the package before torch: torch reads on import how its idle threads wait."""

import maml_rl  # noqa: F401
