"""Every assignment of this course the whole way: released, handed in, graded, and its marks read back from nbgrader."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import with_first_cell
from nbgrader.api import Gradebook

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course
from autograder.results import load_result, result_path

ROOT = Path(__file__).parents[2]
COURSE = load_course(ROOT)

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


@pytest.mark.parametrize("assignment", [assignment.name for assignment in COURSE.assignments])
def test_marks_of_a_whole_assignment(assignment: str, environment: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "course"
    root.mkdir()
    for name in ("course_config.py", "nbgrader_config.py", "constraints.txt"):
        shutil.copy2(ROOT / name, root / name)
    for name in ("solutions", "source", "release", "tests/checks"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    script = read_script(root / "solutions" / f"{assignment}.py")
    points = {cell.checks: cell.points for cell in script.cells if cell.checks}
    cheated = next(iter(points))
    assert cheated is not None

    def hand_in(student: str, notebook: Any, **files: str) -> None:
        folder = root / "submitted" / student / assignment
        folder.mkdir(parents=True)
        (folder / f"{assignment}.ipynb").write_text(json.dumps(notebook))
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)

    hand_in("perfect", solved_notebook(script))
    hand_in("untouched", json.loads((root / "release" / assignment / f"{assignment}.ipynb").read_text()))
    hand_in("shadow", solved_notebook(script), torch="raise SystemExit", pytest="raise SystemExit")
    for student, cell in CHEATS.items():
        answers = {cheated: f"def {cheated}(*args, **kwargs):\n    return Yes()"}
        hand_in(student, with_first_cell(solved_notebook(script, answers), cell))
    done = subprocess.run(
        ["course", "grade", assignment], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

    total, rest = sum(points.values()), sum(points.values()) - points[cheated]
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}", COURSE.id) as gradebook:
        marks = {one.student.id: one.score for one in gradebook.assignment_submissions(assignment)}
    patched = marks.pop("patched")
    assert total == 20
    assert marks == {"perfect": 20, "untouched": 0, "shadow": 20} | dict.fromkeys(CHEATS.keys() - {"patched"}, rest)
    assert patched <= rest  # its own patches may break its own honest answers

    untouched = load_result(result_path(root, assignment, "untouched"))
    assert untouched is not None
    assert not any(check.passed for task in untouched.tasks for check in task.checks)
    for student in ("hook", "reading"):
        result = load_result(result_path(root, assignment, student))
        assert result is not None
        printed = "".join(output.get("text", "") for cell in result.cells for output in cell.outputs)
        assert {"hook": "SAW False", "reading": "READ [] []"}[student] in printed
        assert "SAW True" not in printed
