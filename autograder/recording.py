"""Recording results in the gradebook, one after another, resumed where it stopped.

A result is on disk before it is recorded, and the log of marks says which result the gradebook holds: whatever ends a
run, the next one goes on. nbgrader is imported when there is something to record: that takes seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autograder.classroom import Graded
from autograder.grading import Grader
from autograder.marks_log import MarksLog, RecordedMark
from autograder.recorded import NoMark, decided_by, read_marks, recorded_notebook
from autograder.results import SubmissionResult, Verdict
from autograder.safekeeping import back_up, in_plain_words, wait_for_gradebook

if TYPE_CHECKING:
    from traitlets.config import Config


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


class Recorder:
    """Records results in the gradebook, each once, with a backup before the first and a line in the log of marks."""

    def __init__(self, grader: Grader, *, dry_run: bool = False, tell: Callable[[str], None]) -> None:
        """Read what the gradebook holds, and log what of it the log does not say.

        Args:
            grader: The assignment's grader; asked again where a submission was replaced meanwhile.
            dry_run: Only tell what would change.
            tell: Is given a sentence where another program keeps this one waiting.

        Raises:
            CourseError: The gradebook stays locked.
        """
        self.grader, self.dry_run, self.tell = grader, dry_run, tell
        self.root, self.course, self.assignment = grader.root, grader.course, grader.assignment
        wait_for_gradebook(self.root, tell, self.course)
        self.held = read_marks(self.root, self.course, self.assignment)
        self.log = MarksLog(self.root, self.assignment)
        self.backed_up = False
        self.nbgraders: Config | None = None
        """nbgrader's settings, once something is to be recorded."""
        if not dry_run:
            self.log.catch_up(self.held)

    def record(self, graded: Graded, *, force: bool = False) -> Marked:
        """Record one result, unless the gradebook holds it already; what the gradebook holds then.

        Where the submission is replaced before or while that happens, the new one is graded and recorded.

        Raises:
            CourseError: The disk is full, or the gradebook stays locked or is damaged.
        """
        result, fresh = graded.result, graded.fresh
        held = self.held.get(result.student)
        before = held.automatic if held else None
        for _ in range(_ATTEMPTS):
            if result.verdict == Verdict.GRADER_FAULT:
                return Marked(result, fresh, before, failure=result.reason)
            if self.dry_run:
                return Marked(result, fresh, before)
            parts = decided_by(self.root, self.course, result)
            if not fresh or self.grader.would_find(result):  # one that stands was compared a moment ago
                if held and not force and self._holds(result, held, parts):
                    return Marked(result, fresh, before, held.score, held.late_penalty)
                held = None
                try:
                    mark = self._write(result)
                except NoMark as error:
                    return Marked(result, fresh, before, failure=str(error))
                if self.grader.would_find(result) and decided_by(self.root, self.course, result) == parts:
                    self.log.recorded(result, mark, parts, forced=force)
                    return Marked(result, fresh, before, mark.score, mark.late_penalty)
            result, fresh = self.grader.grade(result.student), True
        return Marked(result, fresh, before, failure="it was handed in again and again while it was graded")

    def _holds(self, result: SubmissionResult, held: RecordedMark, parts: dict[str, str]) -> bool:
        """Whether the gradebook holds exactly this already, and the notebook that goes with it is there."""
        last = self.log.latest.get(result.student)
        whole = last is not None and result.student not in self.log.unfinished and last.decided_by == parts
        has_notebook = any(task.checks for task in result.tasks)
        return (
            whole
            and held.automatic == result.score
            and recorded_notebook(self.root, self.assignment, result.student).is_file() == has_notebook
        )

    def _write(self, result: SubmissionResult) -> RecordedMark:
        wait_for_gradebook(self.root, self.tell, self.course)
        if not self.backed_up:
            back_up(self.root, self.course)
            self.backed_up = True
        from autograder import gradebook

        try:
            self.nbgraders = self.nbgraders or gradebook.ready_to_record(self.root, self.course, self.assignment)
            return gradebook.record(self.root, self.course, result, self.nbgraders)
        except NoMark as error:
            if plain := in_plain_words(error, self.root):
                raise plain from error
            raise


_ATTEMPTS = 3
