"""A small class with everything that a grader can spoil, and what its course folder holds, in a form to compare."""

import contextlib
import csv
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import TinyCourse
from nbgrader.api import Gradebook

from autograder.authoring import read_script, solved_notebook
from autograder.results import UNFINISHED, load_result

WRONG_AREA = "def area(side):\n    return side.square() + 1"
WRONG_VOLUME = "def volume(side, height):\n    return side"
ON_TIME, LATE = "2027-10-01 12:00:00 UTC", "2027-11-02 12:00:00 UTC"
BEFORE = {"ada": 5.0, "bob": 1.75, "cleo": 4.0}
"""Marks of the first round: bob's by hand, cleo's with a late penalty."""
AFTER = {"ada": 1.33, "bob": 4.75, "cleo": 4.0, "dan": 0.0, "eve": 2.0, "fay": 5.0}
"""Marks of the second: ada and bob have handed in again, bob's mark by hand holds, dan's file is no notebook."""


def hand_in(course: TinyCourse, student: str, answers: dict[str, str] | bytes, when: str = ON_TIME) -> None:
    """Put a submission where `nbgrader collect` would: the solution with some answers replaced, or these bytes."""
    notebook: Any = answers if isinstance(answers, bytes) else solved_notebook(read_script(course.script), answers)
    folder = course.root / "submitted" / student / "shapes"
    folder.mkdir(parents=True, exist_ok=True)
    content = notebook if isinstance(notebook, bytes) else json.dumps(notebook).encode()
    (folder / "shapes.ipynb").write_bytes(content)
    (folder / "timestamp.txt").write_text(when)


def with_late_policy(course: TinyCourse) -> None:
    """A day costs a tenth."""
    course.edit(course.config, "import Assignment, Course", "import Assignment, Course, LatePolicy")
    course.edit(course.config, '+00:00")', '+00:00", late=LatePolicy(percent_per_day=10))')


def first_round(course: TinyCourse) -> None:
    """Three submissions."""
    hand_in(course, "ada", {})
    hand_in(course, "bob", {"area": WRONG_AREA, "volume": WRONG_VOLUME})
    hand_in(course, "cleo", {}, LATE)


def mark_by_hand(course: TinyCourse) -> None:
    """What an instructor enters in the formgrader: points and a comment."""
    with Gradebook(f"sqlite:///{course.root / 'gradebook.db'}", "tiny") as gradebook:
        gradebook.find_grade("area_checks", "shapes", "shapes", "bob").manual_score = 1.75
        gradebook.find_comment("area", "shapes", "shapes", "bob").manual_comment = "Nearly."
        gradebook.db.commit()


def second_round(course: TinyCourse) -> None:
    """Two hand in again, three for the first time."""
    hand_in(course, "ada", {"area": WRONG_AREA, "volume": WRONG_VOLUME})
    hand_in(course, "bob", {"area": WRONG_AREA, "volume": "def volume(a, h):\n    return a.square() * h"})
    hand_in(course, "dan", b"{")
    hand_in(course, "eve", {"volume": WRONG_VOLUME})
    (course.root / "submitted/eve/shapes/link").symlink_to("nowhere")  # it is left out, which is a fault of hers
    hand_in(course, "fay", {})


TABLES = {
    "courses": "SELECT id FROM course",
    "students": "SELECT id FROM student",
    "submissions": """
        SELECT assignment.name, student_id, timestamp, extension FROM submitted_assignment
        JOIN assignment ON assignment.id = assignment_id""",
    "notebooks": """
        SELECT notebook.name, student_id, late_submission_penalty FROM submitted_notebook
        JOIN submitted_assignment ON submitted_assignment.id = submitted_notebook.assignment_id
        JOIN notebook ON notebook.id = submitted_notebook.notebook_id""",
    "grades": """
        SELECT student_id, base_cell.name, auto_score, manual_score, extra_credit, needs_manual_grade FROM grade
        JOIN base_cell ON base_cell.id = cell_id
        JOIN submitted_notebook ON submitted_notebook.id = grade.notebook_id
        JOIN submitted_assignment ON submitted_assignment.id = submitted_notebook.assignment_id""",
    "comments": """
        SELECT student_id, base_cell.name, auto_comment, manual_comment FROM comment
        JOIN base_cell ON base_cell.id = cell_id
        JOIN submitted_notebook ON submitted_notebook.id = comment.notebook_id
        JOIN submitted_assignment ON submitted_assignment.id = submitted_notebook.assignment_id""",
}
"""All that a gradebook holds of students, without the random identifiers of its rows."""


def gradebook(root: Path) -> dict[str, list[str]]:
    """Every row, sorted: a student who stands there twice shows."""
    with contextlib.closing(sqlite3.connect(root / "gradebook.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {name: sorted(map(repr, database.execute(question))) for name, question in TABLES.items()}


def everything(root: Path) -> dict[str, object]:
    """What grading makes of a course: gradebook, recorded notebooks, results, and what the log says of each mark."""
    from autograder.marks_log import MarksLog

    log = MarksLog(root, "shapes")
    results = {path.stem: load_result(path) for path in (root / "results/shapes").glob("*.json")}
    return {
        **gradebook(root),
        "autograded": {
            path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.glob("autograded/**/*"))
            if path.is_file()
        },
        "results": {
            student: (one.verdict, one.score, one.reason, one.fingerprint) for student, one in results.items() if one
        },
        "log": {
            student: (line.new, line.automatic, line.late_penalty, line.verdict, line.fingerprint)
            for student, line in log.latest.items()
        },
        "broken off": log.unfinished,
        "left behind": [str(path) for path in (root / "results").rglob(f"{UNFINISHED}*")],
    }


def exported(root: Path, folder: Path) -> dict[str, str]:
    """The score of each student in the export; "" where it is blank."""
    from autograder.course import load_course
    from autograder.export import export_marks

    export_marks(root, load_course(root), folder / "marks.csv")
    with (folder / "marks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["student"] for row in rows}) == len(rows)
    return {row["student"]: row["score"] for row in rows}


def copy_of(course: TinyCourse, folder: Path) -> TinyCourse:
    """The course in another folder."""
    shutil.copytree(course.root, folder, symlinks=True)
    return TinyCourse(folder)


@dataclass
class SelfKilling:
    """Runs `course` commands that end themselves at a step (see `self_killing.py`)."""

    process: subprocess.Popen[str]
    output: Path

    def course(self, root: Path, *arguments: str, step: int = 0) -> tuple[int, int]:
        """The exit status, -9 where it was killed at the step, and the number of steps taken."""
        request = {"folder": str(root), "arguments": arguments, "step": step, "output": str(self.output)}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["status"], answer["steps"]


@contextlib.contextmanager
def self_killing(environment: dict[str, str], output: Path) -> Iterator[SelfKilling]:
    """The process that starts them; what the commands print goes to a file."""
    program = [sys.executable, str(Path(__file__).parent / "self_killing.py")]
    with subprocess.Popen(
        program, env={**environment, "PYTHONPATH": os.pathsep.join(sys.path[1:])}, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        yield SelfKilling(process, output)
        assert process.stdin is not None
        process.stdin.close()
