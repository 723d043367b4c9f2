"""Which result stands for a submission: the stored one while nothing that decided it has changed, else a new one."""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Protocol

from autograder.course import Course, CourseError, NoSuchName
from autograder.fingerprint import assignment_digests, deciders, deciders_of_all, fingerprint
from autograder.results import SubmissionResult, Verdict, load_result, result_path, save_result
from autograder.submission import (
    Release,
    Submission,
    SubmissionFault,
    is_student_id,
    read_submission,
    task_points,
)
from autograder.worker import Worker, device_of, refused, resolve_device


def check_student_id(student: str) -> str:
    """A student's identifier, which becomes the name of folders and files.

    Raises:
        NoSuchName: It could be taken for something else.
    """
    if not is_student_id(student):
        raise NoSuchName(f"{student!r} cannot be a student's identifier: letters, digits and . _ @ + - make one.")
    return student


class Grades(Protocol):
    """What grades submissions: a `Worker` on this machine, or a `Cluster` of them."""

    def grade(self, submission: Submission) -> SubmissionResult:
        """Grade one submission; thread-safe. `WorkerFailed` where nothing can be graded."""

    def close(self) -> None:
        """Give up what is not done."""


class Grader:
    """Grades submissions of one assignment; the worker is started when the first one needs it."""

    def __init__(
        self,
        root: Path,
        course: Course,
        assignment: str,
        *,
        elsewhere: Callable[[], Grades] | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> None:
        """Look at what is released.

        Args:
            root: The course folder.
            course: Its settings.
            assignment: Name of the assignment.
            elsewhere: Gives what grades in place of a worker on this machine.
            meanwhile: Called when something is to be graded, and it takes seconds until that begins.

        Raises:
            CourseError: There is no such assignment, or it was not released.
        """
        course.assignment(assignment)
        self.root, self.course, self.assignment = root, course, assignment
        released = root / "release" / assignment / f"{assignment}.ipynb"
        if not released.is_file():
            raise CourseError(f"{assignment} has not been released: run `course release {assignment}` first.")
        self.release = Release.read(root, assignment)
        self.points = task_points(self.release.notebook)
        self.device = device_of(course)
        self.digests = assignment_digests(root, assignment)
        self._elsewhere, self._meanwhile = elsewhere, meanwhile
        self._worker: Grades | None = None
        self._starting = threading.Lock()
        self._closed = False

    @property
    def worker(self) -> Worker:
        """This machine's warm worker, started at first use."""
        worker = self._grades()
        assert isinstance(worker, Worker)
        return worker

    def _grades(self) -> Grades:
        with self._starting:
            if self._closed:
                raise CancelledError  # in a thread that had not begun when the run was interrupted
            if self._worker is None:
                self._worker = self._elsewhere() if self._elsewhere else self._start()
                if self._meanwhile:
                    self._meanwhile()
            return self._worker

    def _start(self) -> Worker:
        resolve_device(self.course)  # in plain words, before anything is started
        return Worker(self.root, self.assignment)

    def grade(self, student: str, *, force: bool = False) -> SubmissionResult:
        """The result of a student's submission, graded now unless the stored one still stands. Thread-safe.

        Args:
            student: The student's identifier.
            force: Grade even where nothing has changed.

        Raises:
            CourseError: That cannot be a student's identifier, or the course's device is not to be had.
            WorkerFailed: Nothing can be graded on this machine, and why.
        """
        stored = None if force else self.standing(student)
        if stored is not None:
            return stored
        try:
            submission = self._read(student)  # before a worker is started, which what cannot be read does not need
            result = self._grades().grade(submission)
        except SubmissionFault as fault:
            result = refused(self.assignment, student, self.points, str(fault))
        if not self._closed:  # a run that was interrupted leaves what it had not finished as it was
            save_result(result_path(self.root, self.assignment, student), result)
        return result

    def grade_anew(self, student: str) -> SubmissionResult:
        """Grade with a new worker and nothing beside it: what to do once about a fault of ours."""
        self.close()
        self._closed = False
        return self.grade(student, force=True)

    def standing(self, student: str) -> SubmissionResult | None:
        """The stored result, if it is what grading the submission would find now."""
        stored = load_result(result_path(self.root, self.assignment, check_student_id(student)))
        if stored is None:
            return None
        try:
            return stored if self.stands(stored, self._read(student)) else None
        except SubmissionFault:
            return None

    def _read(self, student: str) -> Submission:
        return read_submission(self.root, self.assignment, student, self.course.limits.files_bytes, self.release)

    def stands(self, result: SubmissionResult, submission: Submission) -> bool:
        """Whether a stored result is what grading the submission would find now."""
        return result.verdict != Verdict.GRADER_FAULT and result.fingerprint == fingerprint(self._deciders(submission))

    def _deciders(self, submission: Submission) -> dict[str, str]:
        return deciders(submission, self._of_all)

    @functools.cached_property
    def _of_all(self) -> dict[str, str]:
        return deciders_of_all(self.course, self.digests, self.device)

    def would_find(self, result: SubmissionResult) -> bool:
        """Whether grading the student's submission now would find this result, a refusal included."""
        try:
            submission = self._read(result.student)
        except SubmissionFault as fault:  # such a result has no fingerprint: it is its reason, and tasks without checks
            no_points = {task.name: task.points for task in result.tasks if not task.checks}
            return result.reason == str(fault) and no_points == self.points
        return self.stands(result, submission)

    def changed_since(self, result: SubmissionResult) -> list[str]:
        """Which of what decided a result is not what it was then; empty where that cannot be told."""
        try:
            now = self._deciders(self._read(result.student))
        except SubmissionFault:
            return ["submission"]
        return [name for name, value in now.items() if result.decided_by.get(name, value) != value]

    def close(self) -> None:
        """End the worker, if it was started, and start none any more."""
        with self._starting:
            self._closed = True
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
