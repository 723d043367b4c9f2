"""Grading works as root and as an ordinary user. Whoever runs the tests, these grade as an ordinary user."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TinyCourse
from ordinary_user import as_ordinary_user, give_to_ordinary_user

from autograder.authoring import read_script, solved_notebook

ROOT = Path(__file__).parents[2]

GRADE = """
import os, sys
from pathlib import Path
from autograder.course import load_course
from autograder.gradebook import record
from autograder.grading import Grader

root = Path(sys.argv[1])
course = load_course(root)
print("user", os.getuid())
with Grader(root, course, "shapes") as grader:
    for student in ("perfect", "looking", "untouched"):
        result = grader.grade(student)
        print(student, result.verdict, result.score, result.sandbox, record(root, course, result).score)
"""


@pytest.fixture
def owned(released_once: TinyCourse) -> Iterator[TinyCourse]:
    """A released tiny course with submissions, in a folder that belongs to the ordinary user."""
    folder = Path(tempfile.mkdtemp(prefix="ordinary-", dir="/tmp"))
    course = TinyCourse(folder / "course")
    shutil.copytree(released_once.root, course.root)
    (course.root / "gradebook.db").unlink()
    solved = json.loads(json.dumps(solved_notebook(read_script(course.script))))
    looking = (
        "def area(side):\n"
        "    import glob, os\n"
        "    assert not glob.glob('/root/*') and os.getuid() == 1000\n"
        "    return side**2"
    )
    submissions = {
        "perfect": solved,
        "looking": solved_notebook(read_script(course.script), {"area": looking}),
        "untouched": json.loads((course.root / "release/shapes/shapes.ipynb").read_text()),
    }
    for student, notebook in submissions.items():
        place = course.root / "submitted" / student / "shapes"
        place.mkdir(parents=True)
        (place / "shapes.ipynb").write_text(json.dumps(notebook))
    give_to_ordinary_user(folder)
    yield course
    shutil.rmtree(folder)


def test_an_ordinary_user_grades_and_records(owned: TinyCourse, environment: dict[str, str]) -> None:
    needed = [Path(sys.base_prefix), Path(sys.prefix), ROOT]
    command = as_ordinary_user([sys.executable, "-c", GRADE, str(owned.root)], needed)
    home = owned.root.parent
    environment = {**environment, "HOME": str(home), "TMPDIR": "/tmp", "JUPYTER_CONFIG_DIR": str(home / ".jupyter")}
    done = subprocess.run(command, env=environment, cwd=owned.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    user, *lines = done.stdout.splitlines()
    assert user != "user 0"
    assert lines == [
        "perfect GRADED 5.0 namespaces 5.0",
        "looking GRADED 5.0 namespaces 5.0",
        "untouched GRADED 0.0 namespaces 0.0",
    ]
