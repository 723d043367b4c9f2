"""What our steps save and show is what nbgrader's own would, in a few questions and one commit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyCourse
from nbformat.v4 import new_output
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.preprocessors import GetGrades, SaveAutoGrades
from sqlalchemy import event

from autograder.database import quiet_queries, shared_engine
from autograder.gradebook_rows import SaveMarks, ShowMarks
from autograder.rebuilt import rebuild
from autograder.submission import read_released

EARNED = {"area_checks": 1.25, "volume_checks": 3.0}


def address(root: Path) -> str:
    return f"sqlite:///{root / 'gradebook.db'}"


def about(root: Path) -> dict[str, Any]:
    submission = {"notebook": "shapes", "assignment": "shapes", "student": "ada"}
    return {"nbgrader": {**submission, "db_url": address(root)}}


def graded_notebook(root: Path) -> Any:
    """A submission with `area` as it was released and `volume` answered, and the marks in its cells."""
    released = read_released(root, "shapes")
    submitted = json.loads(json.dumps(released))
    for cell in submitted["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("grade_id") == "volume":
            cell["source"] = "def volume(side, height):\n    return side"
    notebook = rebuild(submitted, released)
    for cell in notebook.cells:
        earned = EARNED.get(cell.metadata.get("nbgrader", {}).get("grade_id"))
        if earned is not None:
            cell.outputs = [new_output("execute_result", data={"text/plain": str(earned)})]
    return notebook


@pytest.fixture
def marked(released: TinyCourse) -> Path:
    """A course whose gradebook holds ada's submission, with a mark and a comment by hand."""
    with quiet_queries(), Gradebook(address(released.root), "tiny") as gradebook:
        gradebook.update_or_create_student("ada")
        gradebook.update_or_create_submission("shapes", "ada")
        gradebook.find_grade("volume_checks", "shapes", "shapes", "ada").manual_score = 2.5
        gradebook.find_comment("volume", "shapes", "shapes", "ada").manual_comment = "Nearly."
        gradebook.db.commit()
    return released.root


def saved(root: Path) -> dict[str, tuple[object, ...]]:
    """All that the gradebook holds of ada's cells."""
    with Gradebook(address(root), "tiny") as gradebook:
        notebook = gradebook.find_submission_notebook("shapes", "shapes", "ada")
        grades = {one.name: (one.auto_score, one.manual_score, one.needs_manual_grade) for one in notebook.grades}
        return grades | {one.name: (one.auto_comment, one.manual_comment) for one in notebook.comments}


def test_it_saves_what_nbgraders_own_step_saves(marked: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(marked, theirs)
    SaveAutoGrades().preprocess(graded_notebook(theirs), about(theirs))
    SaveMarks().preprocess(graded_notebook(marked), about(marked))
    assert saved(marked) == saved(theirs)
    assert saved(marked) == {
        "area_checks": (1.25, None, False), "volume_checks": (3.0, 2.5, True),
        "area": ("No response.", None), "volume": (None, "Nearly."),
    }  # fmt: skip


def test_all_marks_of_a_submission_are_one_commit(marked: Path) -> None:
    engine = shared_engine(address(marked), echo=False, future=True)
    happened: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *seen: happened.append(seen[2].split()[0]))
    event.listen(engine, "commit", lambda _: happened.append("commit"))
    SaveMarks().preprocess(graded_notebook(marked), about(marked))
    writing = happened[happened.index("UPDATE") :]
    assert set(writing[:-1]) == {"UPDATE"} and writing[-1] == "commit"
    assert saved(marked)["area_checks"] == (1.25, None, False)


def test_a_cell_that_the_gradebook_does_not_know_is_named_and_nothing_is_saved(marked: Path) -> None:
    notebook, before = graded_notebook(marked), saved(marked)
    notebook.cells[-1].metadata.nbgrader.grade_id = "weight_checks"
    with pytest.raises(MissingEntry, match="no cell weight_checks: run `course release`"):
        SaveMarks().preprocess(notebook, about(marked))
    assert saved(marked) == before


def test_it_shows_what_nbgraders_own_step_shows(marked: Path) -> None:
    SaveMarks().preprocess(graded_notebook(marked), about(marked))
    with Gradebook(address(marked), "tiny") as gradebook:
        gradebook.find_submission_notebook("shapes", "shapes", "ada").late_submission_penalty = 0.5
        gradebook.db.commit()
    theirs = GetGrades().preprocess(graded_notebook(marked), about(marked))
    assert ShowMarks().preprocess(graded_notebook(marked), about(marked)) == theirs
    shown = {cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader for cell in theirs[0].cells if cell.metadata}
    assert (shown["volume_checks"]["score"], shown["volume"]["comment"]) == (2.5, "Nearly.")
    assert (theirs[1]["nbgrader"]["score"], theirs[1]["nbgrader"]["max_score"]) == (1.25 + 2.5 - 0.5, 5)
