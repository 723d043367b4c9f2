"""A whole class through the real commands: graded side by side, interrupted, resumed, and graded again by nbgrader."""

import json
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commands import run
from conftest import TinyCourse
from nbgrader.api import Gradebook

from autograder.authoring import read_script, solved_notebook
from autograder.classroom import grade_all
from autograder.course import load_course
from autograder.grading import Grader
from autograder.results import SubmissionResult, Verdict

CLASS = 14
ANSWERS: list[dict[str, str]] = [
    {},
    {"area": "def area(side):\n    return side.square() + 1"},
    {"volume": "def volume(side, height):\n    return side"},
    {"volume": "import os\ndef volume(side, height):\n    os._exit(1)"},
    {"area": "def area(side:\n    return"},
    {"volume": "def volume(side, height):\n    while True:\n        pass"},
    {"area": "def area(side):\n    raise SystemExit"},
]
SCORES = (5.0, 1.33, 2.0, 2.0, 0.0, 2.0, 0.0)
"""What these earn."""


def marks(root: Path) -> list[tuple[str, float]]:
    """Every submission in the gradebook with its score: a student who stood there twice would show."""
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}", "tiny") as gradebook:
        return sorted((one.student.id, one.score) for one in gradebook.assignment_submissions("shapes"))


def hand_in(course: TinyCourse, student: str, answers: dict[str, str]) -> None:
    notebook: Any = solved_notebook(read_script(course.script), answers)
    folder = course.root / "submitted" / student / "shapes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shapes.ipynb").write_text(json.dumps(notebook))


@pytest.fixture(scope="module")
def classroom(released_once: TinyCourse, tmp_path_factory: pytest.TempPathFactory) -> TinyCourse:
    """A released course with short limits and fourteen submissions of seven kinds."""
    root = tmp_path_factory.mktemp("classroom") / "course"
    shutil.copytree(released_once.root, root)
    course = TinyCourse(root)
    course.edit(course.config, "import Assignment, Course", "import Assignment, Course, Limits")
    course.edit(
        course.config, "    assignments=", "    limits=Limits(cell_seconds=1, check_seconds=1),\n    assignments="
    )
    for number in range(CLASS):
        hand_in(course, f"student{number:02}", ANSWERS[number % len(ANSWERS)])
    return course


@pytest.fixture(scope="module")
def finished(
    classroom: TinyCourse, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> TinyCourse:
    """The class after a run that was interrupted, and another that went on."""
    root = tmp_path_factory.mktemp("finished") / "course"
    shutil.copytree(classroom.root, root)
    command = subprocess.Popen(
        ["course", "grade", "shapes"], cwd=root, env={**environment, "PYTHONUNBUFFERED": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # a shell's background job ignores it, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert command.stdout is not None
    for _ in range(5):
        command.stdout.readline()
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=120)
    assert command.returncode == 1
    assert "Interrupted" in said and "Traceback" not in said
    assert 5 <= len(marks(root)) < CLASS

    resumed = run(root, environment, "course", "grade", "shapes")
    assert resumed.returncode == 0, resumed.stderr
    assert "unchanged" in resumed.stdout
    return TinyCourse(root)


def test_a_class_is_whole_after_an_interruption(finished: TinyCourse, environment: dict[str, str]) -> None:
    again = run(finished.root, environment, "course", "grade", "shapes")
    assert f"{CLASS} submissions: 0 graded, {CLASS} unchanged" in again.stdout
    assert marks(finished.root) == [(f"student{number:02}", SCORES[number % len(SCORES)]) for number in range(CLASS)]


@pytest.mark.long
def test_nbgraders_own_command_gives_the_class_the_same_marks(
    classroom: TinyCourse, finished: TinyCourse, environment: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(classroom.root, tmp_path / "theirs")
    done = run(tmp_path / "theirs", environment, "nbgrader", "autograde", "shapes")
    assert done.returncode == 0, done.stderr
    assert marks(finished.root) == marks(tmp_path / "theirs")


def test_a_changed_submission_alone_is_graded_again_and_a_dry_run_records_nothing(
    finished: TinyCourse, environment: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "course"
    shutil.copytree(finished.root, root)
    before = marks(root)
    hand_in(TinyCourse(root), "student00", ANSWERS[2])
    dry = run(root, environment, "course", "grade", "shapes", "--dry-run").stdout
    assert "student00: 2 of 5 points  (was 5)" in dry
    assert "1 mark would change." in dry
    assert "Nothing was recorded (--dry-run)." in dry
    assert marks(root) == before
    wet = run(root, environment, "course", "grade", "shapes").stdout
    assert "1 mark changed." in wet
    assert marks(root) == [("student00", 2.0), *before[1:]]


def test_a_second_grader_waits_its_turn(classroom: TinyCourse, environment: dict[str, str], tmp_path: Path) -> None:
    import fcntl

    root = tmp_path / "course"
    shutil.copytree(classroom.root, root)
    lock = root / "results" / "shapes" / ".lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = run(root, environment, "course", "grade", "shapes")
    assert refused.returncode == 1
    assert "is being graded by another command" in refused.stderr


def test_no_more_results_wait_to_be_taken_than_are_asked_for(classroom: TinyCourse) -> None:
    """Each may hold megabytes of output, and recording them can be slower than grading."""
    waiting: list[int] = []

    class Counting(Grader):
        graded = 0

        def standing(self, student: str) -> SubmissionResult:
            type(self).graded += 1
            return SubmissionResult(assignment="shapes", student=student, verdict=Verdict.GRADED)

    course = load_course(classroom.root)
    students = [f"student{number:02}" for number in range(CLASS)]
    with Counting(classroom.root, course, "shapes") as grader, ThreadPoolExecutor(4) as pool:
        for taken, _ in enumerate(grade_all(grader, students, pool, ahead=6)):
            time.sleep(0.01)  # as recording would take
            waiting.append(Counting.graded - taken)
    assert len(waiting) == CLASS
    assert max(waiting) <= 6
