"""A whole class graded side by side. This touches no database, so it may run in parallel and is begun at once."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from itertools import islice

from autograder.grading import Grader
from autograder.results import SubmissionResult, Verdict


@dataclass(frozen=True)
class Graded:
    """One submission's result, and whether it was graded now or stands from before."""

    result: SubmissionResult
    fresh: bool


def grade_all(
    grader: Grader, students: Sequence[str], executor: Executor, *, force: bool = False, ahead: int = 16
) -> Iterator[Graded]:
    """Grade submissions side by side, in the order in which they are done. The first ones begin at once.

    What failed through a fault of ours comes last, each tried once more with nothing beside it.

    Args:
        grader: The assignment's grader.
        students: Whose submissions.
        executor: What runs them; threads will do, since the work is done by the worker's own processes.
        force: Grade even what has not changed.
        ahead: Submissions that may be graded before the caller takes them. Each may hold megabytes of output, and
            recording can be slower than grading.
    """
    to_do = (executor.submit(_grade, grader, student, force) for student in students)
    return _as_they_are_done(grader, set(islice(to_do, ahead)), to_do, ahead)


def _as_they_are_done(
    grader: Grader, running: set[Future[Graded]], to_do: Iterator[Future[Graded]], ahead: int
) -> Iterator[Graded]:
    faults = []
    try:
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            while done:
                with contextlib.suppress(CancelledError):
                    graded = done.pop().result()
                    if graded.result.verdict == Verdict.GRADER_FAULT:
                        faults.append(graded.result.student)
                    else:
                        yield graded
            running |= set(islice(to_do, ahead - len(running)))
    finally:
        for future in running:
            future.cancel()
    for student in faults:
        yield Graded(grader.grade_anew(student), fresh=True)


def _grade(grader: Grader, student: str, force: bool) -> Graded:
    stored = None if force else grader.standing(student)
    return Graded(stored, fresh=False) if stored else Graded(grader.grade(student, force=True), fresh=True)
