"""How an assignment stands: who handed in, which results would still be found now, which marks are not what was found.

Only reads, and starts nothing: submissions and results are compared as grading would, and the gradebook is read past
nbgrader (see `autograder.recorded`).
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from autograder.course import Assignment, Course, CourseError
from autograder.grading import Grader, check_student_id
from autograder.marks_log import MarksLog
from autograder.recorded import RecordedPoints, read_recorded
from autograder.results import SubmissionResult, Verdict, load_result, result_path
from autograder.submission import strange_folders, students_of, submission_folder
from autograder.timestamp import read_timestamp


class State(StrEnum):
    """Where a student's submission is; each is in exactly one of these."""

    GRADED = "graded"
    STALE = "stale"
    """Graded, but the submission, the checks or what else decides a result has changed since."""
    GRADER_FAULT = "grader fault"
    """Grading it failed: there is no mark."""
    NOT_GRADED = "not graded"


@dataclass(frozen=True)
class StudentStatus:
    """How one student's submission stands.

    Attributes:
        student: The student's identifier.
        state: See `State`.
        submitted: Whether the submission is there; a result can outlive it.
        student_fault: Whether something in the submission kept it from being graded whole.
        late: Whether it came after the due date, an extension and the minutes of grace.
        differs: Whether the gradebook's points from the checks are not those of the result.
        result: Points that the stored result gives.
        recorded: Points as they count in the gradebook.
        max_score: Points to be had in the stored result.
        notes: What else there is to know, a phrase each.
    """

    student: str
    state: State
    submitted: bool = True
    student_fault: bool = False
    late: bool = False
    differs: bool = False
    result: float | None = None
    recorded: float | None = None
    max_score: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AssignmentStatus:
    """How an assignment stands; `problem` says why nothing of it could be graded now, or is empty."""

    name: str
    students: tuple[StudentStatus, ...]
    problem: str = ""

    def counts(self) -> dict[str, int]:
        """Number of students under each heading. Of those who submitted, each is in one of the next four."""
        states = [one.state for one in self.students]
        return {
            "submitted": sum(one.submitted for one in self.students),
            **{state.value: states.count(state) for state in State},
            "student fault": sum(one.student_fault for one in self.students),
            "late": sum(one.late for one in self.students),
            "mark differs": sum(one.differs for one in self.students),
        }


def course_status(root: Path, course: Course, names: tuple[str, ...] = ()) -> list[AssignmentStatus]:
    """How assignments stand: those named, or all. Nothing is written.

    Raises:
        CourseError: There is no such assignment, the gradebook cannot be read, or the course cannot be graded at all.
    """
    return [assignment_status(root, course, assignment) for assignment in course.select(names)]


def assignment_status(root: Path, course: Course, assignment: Assignment) -> AssignmentStatus:
    """How one assignment stands.

    Raises:
        CourseError: See `course_status`.
    """
    grader, problem = None, ""
    try:
        grader = Grader(root, course, assignment.name)
    except CourseError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{assignment.name} cannot be graded: {error.strerror}: {error.filename}"
    recorded = read_recorded(root, course, assignment.name)
    unfinished = MarksLog(root, assignment.name).unfinished
    submitted = sorted([*students_of(root, assignment.name), *strange_folders(root, assignment.name)])
    results = {path.stem for path in (root / "results" / assignment.name).glob("*.json") if load_result(path)}
    students = tuple(
        _student_status(
            root, assignment, student, grader, recorded.get(student, RecordedPoints()), broken_off=student in unfinished
        )
        for student in sorted({*submitted, *results})
    )
    return AssignmentStatus(assignment.name, students, problem)


def _student_status(
    root: Path,
    assignment: Assignment,
    student: str,
    grader: Grader | None,
    recorded: RecordedPoints,
    *,
    broken_off: bool,
) -> StudentStatus:
    path = result_path(root, assignment.name, student)
    result = load_result(path)
    folder = submission_folder(root, assignment.name, student)
    late, late_notes = _lateness(folder, assignment, recorded)
    has_points = result is not None and result.verdict != Verdict.GRADER_FAULT
    found = {task.name: task.earned for task in result.tasks} if result and has_points else {}
    state = _state(grader, result)
    changed = grader.changed_since(result) if grader and result and state == State.STALE and folder.is_dir() else []
    return StudentStatus(
        student=student,
        state=state,
        submitted=folder.is_dir(),
        student_fault=result is not None and result.verdict == Verdict.STUDENT_FAULT,
        late=late,
        differs=found != recorded.automatic,
        result=result.score if result and has_points else None,
        recorded=recorded.score,
        max_score=result.max_score if result and has_points else None,
        notes=(
            *_result_notes(student, folder, path, result),
            *([f"changed since: {', '.join(changed)}"] if changed else []),
            *late_notes,
            *(["recording was broken off: `course grade` puts it right"] if broken_off else []),
            *_mark_notes(found, recorded),
        ),
    )


def _state(grader: Grader | None, result: SubmissionResult | None) -> State:
    if result is None:
        return State.NOT_GRADED
    if result.verdict == Verdict.GRADER_FAULT:
        return State.GRADER_FAULT
    return State.GRADED if grader and grader.would_find(result) else State.STALE


def _result_notes(student: str, folder: Path, path: Path, result: SubmissionResult | None) -> Iterator[str]:
    try:
        check_student_id(student)
    except CourseError as error:
        yield str(error)
    if not folder.is_dir():
        yield "the submission is gone"
    if result is None and path.is_file():
        yield "the stored result cannot be read"
    if result is not None and result.reason:
        yield result.reason.splitlines()[0]
    if result is not None and result.sandbox == "none":
        yield "graded without a sandbox"


def _mark_notes(found: dict[str, float], recorded: RecordedPoints) -> Iterator[str]:
    if found != recorded.automatic:
        if not recorded.automatic:
            yield "not in the gradebook"
        elif not found:
            yield "the gradebook holds a mark without a result"
        else:
            automatic, result = sum(recorded.automatic.values()), sum(found.values())
            yield f"the gradebook holds {automatic:g} points from the checks, the result {result:g}"
    if recorded.manual:
        yield f"marked by hand: {', '.join(recorded.manual)}"
    if recorded.late_penalty:
        yield f"late penalty {recorded.late_penalty:g}"


# lateness


def _lateness(folder: Path, assignment: Assignment, recorded: RecordedPoints) -> tuple[bool, list[str]]:
    """Whether a submission is late, and a phrase on it where there is something to say."""
    try:
        when = read_timestamp(folder)
    except ValueError as error:
        return False, [str(error)]
    if when is None or assignment.due is None:
        return False, []
    delay = when - assignment.due - recorded.extension
    if delay <= timedelta(minutes=assignment.late.grace_minutes):
        return False, []
    hours, minutes = divmod(int(delay.total_seconds() / 60), 60)
    return True, [f"late by {hours // 24} d {hours % 24} h" if hours >= 24 else f"late by {hours} h {minutes} min"]


# text


def as_data(assignment: AssignmentStatus, *, with_students: bool) -> str:
    """One line of JSON: the counts and, where wanted, each student."""
    data: dict[str, object] = {"name": assignment.name, **assignment.counts(), "problem": assignment.problem}
    if with_students:
        data["students"] = [asdict(one) for one in assignment.students]
    return json.dumps(data)


def table(assignments: list[AssignmentStatus]) -> str:
    """A line for each assignment under headings, and below it why an assignment cannot be graded now."""
    counts = [one.counts() for one in assignments]
    headings = list(counts[0])
    rows = [["assignment", *headings]]
    rows += [
        [one.name, *(str(number) for number in numbers.values())]
        for one, numbers in zip(assignments, counts, strict=True)
    ]
    problems = [one.problem for one in assignments if one.problem]
    return "\n".join([*align(rows, numbers_from=1), *problems])


def student_lines(assignment: AssignmentStatus) -> str:
    """A line for each student: state, points of the result, points in the gradebook, and what else there is to know."""
    rows = [["student", "state", "result", "recorded", ""]]
    for one in assignment.students:
        result = "" if one.result is None else f"{one.result:g} of {one.max_score:g}"
        recorded = "" if one.recorded is None else f"{one.recorded:g}"
        rows.append([shown(one.student), one.state.value, result, recorded, shown("; ".join(one.notes))])
    return "\n".join(align(rows))


def align(rows: list[list[str]], numbers_from: int = 10**6) -> list[str]:
    """Lines of a table whose columns stand below one another; from that column on they are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i >= numbers_from else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def shown(text: str) -> str:
    """A text without what would move a terminal's cursor: names of folders come from whoever filled them."""
    return "".join(character if character.isprintable() else "?" for character in text)
