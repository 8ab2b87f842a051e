"""Import the package before torch: torch reads on import how its idle threads wait."""

import gc

import maml_rl  # noqa: F401


def pytest_collection_finish() -> None:
    """Exempt what imports and collection created from garbage collection: it is large and stays."""
    gc.collect()
    gc.freeze()
