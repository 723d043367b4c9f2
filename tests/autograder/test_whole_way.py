"""Every assignment of this course the whole way: released, handed in, graded, and its marks read back from nbgrader."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import with_first_cell
from nbgrader.api import Gradebook

from autograder.authoring import Script, read_script, solved_notebook
from autograder.course import load_course
from autograder.results import SubmissionResult, load_result, result_path

ROOT = Path(__file__).parents[2]
COURSE = load_course(ROOT)
ASSIGNMENTS = [assignment.name for assignment in COURSE.assignments]

ALWAYS_EQUAL = (
    "class Yes:\n"
    "    def __eq__(self, other): return True\n"
    "    __hash__ = object.__hash__\n"
    "    def __getattr__(self, name): return self\n"
    "    def __call__(self, *args, **kwargs): return self\n"
    "    def __float__(self): return 1.0\n"
)
CHEATS = {
    "equal": ALWAYS_EQUAL,
    "patched": ALWAYS_EQUAL
    + "import torch\ntorch.allclose = torch.isclose = torch.equal = torch.testing.assert_close = lambda *a, **k: True\n"
    "torch.Tensor.__eq__ = lambda *a: torch.tensor(True)\n",
    "asserts": ALWAYS_EQUAL + "import ast\n"
    "class Drop(ast.NodeTransformer):\n"
    "    def visit_Assert(self, node): return ast.Pass()\n"
    "get_ipython().ast_transformers.append(Drop())\n",
    "hook": ALWAYS_EQUAL + "seen = []\n"
    "get_ipython().events.register('pre_run_cell', lambda info: seen.append(info.raw_cell))\n"
    "def tell(result): print('SAW', any('@' + 'task' in source for source in seen))\n"
    "get_ipython().events.register('post_run_cell', tell)\n",
    "reading": ALWAYS_EQUAL + "import glob, os\n"
    "found = []\n"
    "for folder, folders, names in os.walk('/'):\n"
    "    folders[:] = [] if folder in ('/usr', '/opt', '/proc', '/sys') else folders\n"
    "    found += [name for name in names if name.startswith('test_')]\n"
    "print('READ', found, glob.glob('../../../tests/**'))\n",
}  # fmt: skip


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

    def hand_in(self, student: str, notebook: Any, **files: str) -> None:
        """Put a notebook, and modules beside it, where submissions are collected."""
        folder = self.root / "submitted" / student / self.assignment
        folder.mkdir(parents=True)
        (folder / f"{self.assignment}.ipynb").write_text(json.dumps(notebook))
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)

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


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_the_reference_earns_everything_and_the_release_nothing(
    copied: Path, assignment: str, environment: dict[str, str]
) -> None:
    handed = Handed(copied, assignment, environment)
    handed.hand_in("perfect", solved_notebook(handed.script))
    handed.hand_in("untouched", json.loads((copied / "release" / assignment / f"{assignment}.ipynb").read_text()))
    assert handed.marks() == {"perfect": COURSE.assignment(assignment).points, "untouched": 0}
    assert not any(check.passed for task in handed.result("untouched").tasks for check in task.checks)


def test_tricks_earn_nothing_and_hide_nothing(copied: Path, environment: dict[str, str]) -> None:
    handed = Handed(copied, ASSIGNMENTS[0], environment)
    points = {cell.checks: cell.points for cell in handed.script.cells if cell.checks}
    cheated = handed.script.tasks[0]
    handed.hand_in("shadow", solved_notebook(handed.script), torch="raise SystemExit", pytest="raise SystemExit")
    for student, cell in CHEATS.items():
        answers = {cheated: f"def {cheated}(*args, **kwargs):\n    return Yes()"}
        handed.hand_in(student, with_first_cell(solved_notebook(handed.script, answers), cell))
    marks = handed.marks()
    rest = 20 - (points[cheated] or 0)
    patched = marks.pop("patched")
    assert marks == {"shadow": 20} | dict.fromkeys(CHEATS.keys() - {"patched"}, rest)
    assert patched <= rest  # its own patches may break its own honest answers
    for student in ("hook", "reading"):
        printed = "".join(output.get("text", "") for cell in handed.result(student).cells for output in cell.outputs)
        assert {"hook": "SAW False", "reading": "READ [] []"}[student] in printed
        assert "SAW True" not in printed
