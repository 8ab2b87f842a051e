"""Examples of the documents, made short."""

from __future__ import annotations

import re

_NAMES = "num_iterations|num_episodes|num_tasks|num_trials|meta_batch_size|horizon|fps"


def with_small_sizes(text: str) -> str:
    """Return an example with sizes of at most 3, and small videos with few frames."""
    sizes = re.compile(rf"({_NAMES})([= ]+)(\d+)", re.IGNORECASE)
    text = sizes.sub(lambda size: f"{size[1]}{size[2]}{min(int(size[3]), 3)}", text)
    return re.sub(r"\bsize=\(\d+, \d+\)", "size=(128, 128)", text)
