"""Every assignment of this course the whole way: released, handed in, graded, and its marks read back from nbgrader."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nbgrader.api import Gradebook

from autograder.authoring import Script, read_script, solved_notebook
from autograder.course import load_course
from autograder.results import SubmissionResult, load_result, result_path

ROOT = Path(__file__).parents[2]
COURSE = load_course(ROOT)
ASSIGNMENTS = [assignment.name for assignment in COURSE.assignments]


@dataclass
class Handed:
    """A copy of this course, to hand in one assignment's notebooks and grade them."""

    root: Path
    assignment: str
    environment: dict[str, str]

    @property
    def script(self) -> Script:
        """The reference solution."""
        return read_script(self.root / "solutions" / f"{self.assignment}.py")

    def hand_in(self, student: str, notebook: Any) -> None:
        """Put a notebook where submissions are collected."""
        folder = self.root / "submitted" / student / self.assignment
        folder.mkdir(parents=True)
        (folder / f"{self.assignment}.ipynb").write_text(json.dumps(notebook))

    def marks(self) -> dict[str, float]:
        """Grade everyone with the command; the marks in nbgrader's gradebook."""
        command = ["course", "grade", self.assignment]
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        with Gradebook(f"sqlite:///{self.root / 'gradebook.db'}", COURSE.id) as gradebook:
            return {one.student.id: one.score for one in gradebook.assignment_submissions(self.assignment)}

    def result(self, student: str) -> SubmissionResult:
        """What was found for one student."""
        found = load_result(result_path(self.root, self.assignment, student))
        assert found is not None
        return found


@pytest.fixture
def copied(environment: dict[str, str], tmp_path: Path) -> Path:
    """The course without what was handed in."""
    root = tmp_path / "course"
    root.mkdir()
    for name in ("course_config.py", "nbgrader_config.py", "constraints.txt"):
        shutil.copy2(ROOT / name, root / name)
    for name in ("solutions", "source", "release", "tests/checks"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.mark.long  # the demo's test does the same with one assignment
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_the_reference_earns_everything_and_the_release_nothing(
    copied: Path, assignment: str, environment: dict[str, str]
) -> None:
    handed = Handed(copied, assignment, environment)
    handed.hand_in("perfect", solved_notebook(handed.script))
    handed.hand_in("untouched", json.loads((copied / "release" / assignment / f"{assignment}.ipynb").read_text()))
    assert handed.marks() == {"perfect": COURSE.assignment(assignment).points, "untouched": 0}
    assert not any(check.passed for task in handed.result("untouched").tasks for check in task.checks)
