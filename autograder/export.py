"""Marks as a table for the examination office: a line per student and assignment, harmless in a spreadsheet.

A mark stands there only where one is recorded whole. Where grading failed, a recording was broken off or nothing was
recorded, the cells of the mark are blank, which no program takes for a zero.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from nbgrader.api import Gradebook
from nbgrader.plugins import ExportPlugin

from autograder.course import Assignment, Course, load_course
from autograder.marks_log import LogLine, MarksLog
from autograder.recorded import RecordedPoints, read_recorded, read_students
from autograder.results import SubmissionResult, Verdict, load_result, result_path, write_atomically
from autograder.status import State, StudentStatus, assignment_status

COLUMNS = (
    "student", "assignment", "score", "max_score", "late_penalty", "automatic", "manual", "verdict", "reason",
    "sandbox", "device", "recorded_at", "fingerprint", "stale",
)  # fmt: skip
FILE = "marks.csv"
_SANDBOXES = {"": "", "none": "NONE: graded without a sandbox"}
_FORMULA = re.compile("(^|[;,|\"'])( *)([=+\\-@\uff1d\uff0b\uff0d\uff20])")
"""What a spreadsheet takes for a formula, also where it cuts a line at another separator than ours."""


def export_marks(
    root: Path, course: Course, path: Path, names: Sequence[str] = (), students: Sequence[str] = ()
) -> int:
    """Write the marks of assignments, all or those named, as CSV; the number of lines below the heading.

    Args:
        root: The course folder.
        course: Its settings.
        path: The file, which is replaced.
        names: Assignments; none means all.
        students: Only these; none means everyone.

    Raises:
        CourseError: There is no such assignment, or the gradebook cannot be read.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    rows = [
        row
        for assignment in course.select(names)
        for row in _rows(root, course, assignment)
        if not students or row["student"] in students
    ]
    writer.writerows({name: defused(value) for name, value in row.items()} for row in rows)
    write_atomically(path, text.getvalue())
    return len(rows)


def defused(value: str | float | None) -> str:
    """A cell's text: numbers as they are, words so that no spreadsheet takes them for a formula."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    plain = "".join(character if character.isprintable() else " " for character in value).strip()
    return _FORMULA.sub(r"\1\2'\3", plain)


def _rows(root: Path, course: Course, assignment: Assignment) -> Iterator[dict[str, str | float | None]]:
    recorded, log = read_recorded(root, course, assignment.name), MarksLog(root, assignment.name)
    states = {one.student: one for one in assignment_status(root, course, assignment).students}
    for student in sorted({*read_students(root, course), *recorded, *states}):
        result = load_result(result_path(root, assignment.name, student))
        points = recorded.get(student, RecordedPoints())
        why_none = _why_no_mark(result, points, broken_off=student in log.unfinished)
        row = _mark(points) if not why_none else dict.fromkeys(("score", "late_penalty", "automatic", "manual"))
        last = log.latest.get(student)
        yield {
            "student": student, "assignment": assignment.name, "max_score": assignment.points, **row,
            **_story(result, last), **({"reason": why_none} if why_none else {}),
            "stale": _is_stale(states.get(student), result, last) if not why_none else "",
        }  # fmt: skip


def _why_no_mark(result: SubmissionResult | None, points: RecordedPoints, *, broken_off: bool) -> str:
    """Why there is no mark, or "" where there is one."""
    if result is not None and result.verdict == Verdict.GRADER_FAULT:
        return result.reason or "grading failed"
    if broken_off:
        return "recording was broken off: `course grade` puts it right"
    return "" if points.score is not None else "no mark was recorded"


def _mark(points: RecordedPoints) -> dict[str, str | float | None]:
    by_hand = sum(points.manual.values()) if points.manual else None
    automatic = sum(points.automatic.values()) if points.automatic else None
    return {
        "score": points.score,
        "late_penalty": points.late_penalty,
        "automatic": None if automatic is None else round(automatic, 2),
        "manual": None if by_hand is None else round(by_hand, 2),
    }


def _story(result: SubmissionResult | None, last: LogLine | None) -> dict[str, str | float | None]:
    """How the recorded mark came about; where grading failed since, that it did."""
    source = result if result is not None and result.verdict == Verdict.GRADER_FAULT else last
    if source is None:
        return {}
    return {
        "verdict": str(source.verdict),
        "reason": source.reason,
        "sandbox": _SANDBOXES.get(source.sandbox, "bubblewrap"),
        "device": source.device,
        "recorded_at": last.when if last else "",
        "fingerprint": source.fingerprint,
    }


def _is_stale(status: StudentStatus | None, result: SubmissionResult | None, last: LogLine | None) -> str:
    """Whether the mark is not the one that grading now would give: "yes", "no", or "" where that cannot be told."""
    if status is None or result is None or last is None:
        return ""
    return "no" if status.state == State.GRADED and result.fingerprint == last.fingerprint else "yes"


class MarksExport(ExportPlugin):  # type: ignore[misc]
    """What `nbgrader export` writes: the same table."""

    def export(self, gradebook: Gradebook) -> None:
        """Write it to where `--to` says; `--assignment` and `--student` choose."""
        root = Path(self.parent.coursedir.root)
        path = Path(self.to or FILE)
        names, students = [str(name) for name in self.assignment], [str(student) for student in self.student]
        count = export_marks(root, load_course(root), path, names, students)
        self.log.info("%s lines of marks written to %s", count, path)
