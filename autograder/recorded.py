"""What the gradebook holds, read past nbgrader, whose own way in makes databases and takes seconds to import.

It is opened read-only, unless a killed program has left something half written that SQLite must take back first.
"""

import contextlib
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import LiteralString
from urllib.parse import quote

from autograder.course import GRADEBOOK_FILE, Course, CourseError
from autograder.marks_log import RecordedMark
from autograder.postgres import ask, on_postgres
from autograder.results import SubmissionResult
from autograder.safekeeping import PATIENCE_SECONDS
from autograder.submission import CHECKS_SUFFIX, SubmissionFault, submission_folder
from autograder.timestamp import timestamp_text

_BUSY_SECONDS = 5.0


class NoMark(RuntimeError):
    """A submission has no mark, because of a fault of ours: nothing may be recorded for it."""


@dataclass(frozen=True)
class RecordedPoints:
    """What the gradebook holds for a student.

    Attributes:
        automatic: Points of each task as the checks found them; empty where nothing was recorded.
        score: Points as they count, with manual marks, extra credit and the late penalty.
        late_penalty: What was taken off for being late.
        manual: Points of the tasks that were marked by hand.
        extension: Time that this student has beyond the due date.
    """

    automatic: dict[str, float] = field(default_factory=dict)
    score: float | None = None
    late_penalty: float = 0.0
    manual: dict[str, float] = field(default_factory=dict)
    extension: timedelta = timedelta(0)


_RECORDED = """
    SELECT submitted_assignment.student_id, submitted_assignment.extension, submitted_notebook.late_submission_penalty,
           base_cell.name, grade.auto_score, grade.manual_score, grade.extra_credit
    FROM submitted_assignment
    JOIN assignment ON assignment.id = submitted_assignment.assignment_id
    LEFT JOIN submitted_notebook ON submitted_notebook.assignment_id = submitted_assignment.id
    LEFT JOIN grade ON grade.notebook_id = submitted_notebook.id
    LEFT JOIN base_cell ON base_cell.id = grade.cell_id
    WHERE assignment.name = ? AND assignment.course_id = ?
"""


def read_recorded(
    root: Path, course: Course, assignment: str, student: str | None = None, *, patience: float | None = None
) -> dict[str, RecordedPoints]:
    """What the gradebook holds for an assignment, by student; nothing where there is no gradebook.

    Args:
        root: The course folder.
        course: Its settings.
        assignment: Name of the assignment.
        student: Only this one.
        patience: Seconds that an SQLite gradebook may be locked; by default few.

    Raises:
        CourseError: The gradebook cannot be read.
    """
    question, values = (_RECORDED, (assignment, course.id)) if student is None else (
        f"{_RECORDED} AND submitted_assignment.student_id = ?", (assignment, course.id, student)
    )  # fmt: skip
    rows = defaultdict(list)
    for name, *row in _query(root, course, question, values, patience):
        rows[str(name)].append(row)
    return {name: _recorded_points(found) for name, found in rows.items()}


def read_marks(root: Path, course: Course, assignment: str, student: str | None = None) -> dict[str, RecordedMark]:
    """The marks that the gradebook holds for an assignment, by student, for who records: patiently.

    Args:
        root: The course folder.
        course: Its settings.
        assignment: Name of the assignment.
        student: Only this one.

    Raises:
        CourseError: The gradebook cannot be read.
    """
    found = read_recorded(root, course, assignment, student, patience=PATIENCE_SECONDS)
    return {name: _mark(points) for name, points in found.items()}


def _mark(points: RecordedPoints) -> RecordedMark:
    automatic = round(sum(points.automatic.values()), 2) if points.automatic else None
    return RecordedMark(points.score or 0.0, points.late_penalty, automatic)


def read_students(root: Path, course: Course) -> list[str]:
    """Everyone whom the gradebook knows, in order.

    Raises:
        CourseError: The gradebook cannot be read.
    """
    return [str(student) for (student,) in _query(root, course, "SELECT id FROM student ORDER BY id", ())]


def _query(
    root: Path, course: Course, question: LiteralString, values: tuple[str, ...], patience: float | None = None
) -> list[tuple[object, ...]]:
    """What a gradebook answers; nothing where there is none."""
    if on_postgres(course):
        return ask(course, question.replace("?", "%s"), values)
    path = root / GRADEBOOK_FILE
    if not path.is_file():
        return []
    try:
        try:
            return _ask(path, "ro", question, values, patience)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
                raise
            return _ask(path, "rw", question, values, patience)  # takes back what a killed program has half written
    except sqlite3.Error as error:
        raise CourseError(f"The gradebook {path} cannot be read: {error}. `course doctor` says more.") from error


def _ask(
    path: Path, mode: str, question: str, values: tuple[str, ...], patience: float | None
) -> list[tuple[object, ...]]:
    address, timeout = f"file:{quote(str(path))}?mode={mode}", patience or _BUSY_SECONDS
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=timeout)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
            return []  # nbgrader makes the file first and its tables later
        return database.execute(question, values).fetchall()


def _recorded_points(rows: list[list[object]]) -> RecordedPoints:
    """What one student's rows of the gradebook come to, by nbgrader's rules: a manual mark takes precedence."""
    automatic: dict[str, float] = {}
    manual: dict[str, float] = {}
    score, marked = 0.0, False
    extension, penalty = rows[0][0], rows[0][1]
    for _, _, cell, found, by_hand, extra in rows:
        name = str(cell).removesuffix(CHECKS_SUFFIX)
        if isinstance(found, float):
            automatic[name] = round(found, 2)
        if isinstance(by_hand, float):
            manual[name] = by_hand
        points = by_hand if isinstance(by_hand, float) else found
        if isinstance(points, float):
            marked = True
            score += points + (extra if isinstance(extra, float) else 0.0)
    late_penalty = penalty if isinstance(penalty, float) else 0.0
    counts = max(0.0, round(score - late_penalty, 2)) if marked else None
    return RecordedPoints(automatic, counts, late_penalty, manual, _interval(extension))


def _interval(stored: object) -> timedelta:
    """A time span, which SQLAlchemy stores in SQLite as the date that it leads to from the start of 1970."""
    if isinstance(stored, timedelta):
        return stored
    if not isinstance(stored, str):
        return timedelta(0)
    return datetime.fromisoformat(stored) - datetime(1970, 1, 1)


def recorded_notebook(root: Path, assignment: str, student: str) -> Path:
    """Where nbgrader keeps the notebook of a recorded submission."""
    return root / "autograded" / student / assignment / f"{assignment}.ipynb"


def decided_by(root: Path, course: Course, result: SubmissionResult) -> dict[str, str]:
    """All that decides a mark: what decided the result, when it was handed in, and the late policy."""
    parts = result.decided_by or {"submission": result.reason}
    late = course.assignment(result.assignment).late.model_dump_json()
    return {**parts, "handed in at": _handed_in_at(root, result), "late policy": late}


def _handed_in_at(root: Path, result: SubmissionResult) -> str:
    folder = submission_folder(root, result.assignment, result.student)
    try:
        return timestamp_text(folder)
    except (SubmissionFault, OSError):
        return ""
