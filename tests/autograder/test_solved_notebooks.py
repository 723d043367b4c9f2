"""Every solved notebook from top to bottom, pictures and long training included, in a real Jupyter kernel.

`make test-long` runs these: they take up to a minute each.
"""

import shutil
from pathlib import Path

import nbclient
import pytest

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.parametrize("assignment", [assignment.name for assignment in load_course(ROOT).assignments])
def test_the_solved_notebook_runs_and_draws(assignment: str, tmp_path: Path) -> None:
    for file in (ROOT / "release" / assignment).iterdir():
        shutil.copy2(file, tmp_path)
    notebook = solved_notebook(read_script(ROOT / "solutions" / f"{assignment}.py"))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    demos = [cell for cell in notebook.cells if "demo" in cell.metadata.get("tags", [])]
    assert demos
    for cell in demos:
        assert cell.outputs, cell.source[:80]
    said = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "stream"]
    assert not [output.text for output in said if output.name == "stderr"]
