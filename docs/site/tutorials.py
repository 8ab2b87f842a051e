"""Execute the tutorials and save them with their outputs: python docs/site/tutorials.py [NAME].

Each has a new kernel and an empty folder, so that files of a run stay out of the repository.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Return the notebook with the outputs of an execution in a folder.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    # tqdm's hint about widgets is not for readers.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore:IProgress not found"}
    environment.pop("MPLBACKEND", None)  # the kernel's own shows figures
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(env=environment)
    # Progress bars say how fast this machine was.
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    for tutorial in sorted(TUTORIALS.glob("*.ipynb")):
        if not sys.argv[1:] or tutorial.stem in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as folder:
                nbformat.write(executed(tutorial, Path(folder)), tutorial)
