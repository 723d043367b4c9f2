"""A whole class: submissions graded side by side, recorded one after another, resumed where it stopped.

Grading touches no database, so it may run in parallel; recording is nbgrader's, one at a time. A result is on disk
before it is recorded, and a note says which result the gradebook holds: whatever ends a run, the next one goes on.
"""

import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Executor, as_completed
from dataclasses import dataclass
from pathlib import Path

from autograder.course import Course, CourseError
from autograder.gradebook import NoMark, read_marks, record
from autograder.grading import Grader
from autograder.results import SubmissionResult, Verdict, write_atomically


@dataclass(frozen=True)
class Graded:
    """One submission's result, and whether it was graded now or stands from before."""

    result: SubmissionResult
    fresh: bool


@dataclass(frozen=True)
class Marked:
    """What became of one submission.

    Attributes:
        result: Its result.
        fresh: Graded now, rather than unchanged since it was graded.
        before: Points from the checks that the gradebook held before, None where it held none.
        final: Points that count now, with manual marks and the late penalty; None where nothing is recorded.
        late_penalty: Points taken off for being late.
        failure: Why there is no mark, or "".
    """

    result: SubmissionResult
    fresh: bool
    before: float | None = None
    final: float | None = None
    late_penalty: float = 0.0
    failure: str = ""

    @property
    def changed(self) -> bool:
        """Whether the points from the checks are not what the gradebook held before."""
        return not self.failure and self.before is not None and abs(self.before - self.result.score) > 1e-6


@contextlib.contextmanager
def only_grader(root: Path, assignment: str) -> Iterator[None]:
    """Keep a second grader off an assignment while this one works; the lock goes when this process does.

    Raises:
        CourseError: Another one is at work.
    """
    path = root / "results" / assignment / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CourseError(f"{assignment} is being graded by another command: wait until it is done.") from None
        yield


def grade_all(grader: Grader, students: Sequence[str], executor: Executor, *, force: bool = False) -> Iterator[Graded]:
    """Grade submissions side by side, in the order in which they are done.

    What failed through a fault of ours comes last, each tried once more with nothing beside it.

    Args:
        grader: The assignment's grader.
        students: Whose submissions.
        executor: What runs them; threads will do, since the work is done by the worker's own processes.
        force: Grade even what has not changed.
    """
    futures = [executor.submit(_grade, grader, student, force) for student in students]
    faults = []
    try:
        for future in as_completed(futures):
            with contextlib.suppress(CancelledError):
                graded = future.result()
                if graded.result.verdict == Verdict.GRADER_FAULT:
                    faults.append(graded.result.student)
                else:
                    yield graded
    finally:
        for future in futures:
            future.cancel()
    for student in faults:
        yield Graded(grader.grade_anew(student), fresh=True)


def _grade(grader: Grader, student: str, force: bool) -> Graded:
    stored = None if force else grader.standing(student)
    return Graded(stored, fresh=False) if stored else Graded(grader.grade(student, force=True), fresh=True)


class Recorder:
    """Records results in the gradebook, each once."""

    def __init__(self, root: Path, course: Course, assignment: str, *, dry_run: bool = False) -> None:
        """Read what the gradebook holds.

        Args:
            root: The course folder.
            course: Its settings.
            assignment: Name of the assignment.
            dry_run: Only tell what would change.
        """
        self.root, self.course, self.assignment, self.dry_run = root, course, assignment, dry_run
        self.held = read_marks(root, course, assignment)

    def record(self, graded: Graded, *, force: bool = False) -> Marked:
        """Record one result, unless the gradebook holds it already; what the gradebook holds then."""
        result, held = graded.result, self.held.get(graded.result.student)
        before = held.automatic if held else None
        if result.verdict == Verdict.GRADER_FAULT:
            return Marked(result, graded.fresh, before, failure=result.reason)
        if self.dry_run:
            return Marked(result, graded.fresh, before)
        note = self.root / "results" / self.assignment / f".recorded-{result.student}"
        key = f"{result.fingerprint} {_handed_in_at(self.root, self.assignment, result.student)}"
        known = not force and before == result.score and note.is_file() and note.read_text() == key
        try:
            mark = held if known and held else record(self.root, self.course, result)
        except NoMark as error:
            return Marked(result, graded.fresh, before, failure=str(error))
        if not known:
            write_atomically(note, key)
        return Marked(result, graded.fresh, before, mark.score, mark.late_penalty)


def _handed_in_at(root: Path, assignment: str, student: str) -> str:
    """What else nbgrader reads of a submission: when it was handed in."""
    try:
        return (root / "submitted" / student / assignment / "timestamp.txt").read_text(errors="replace").strip()
    except OSError:
        return ""
