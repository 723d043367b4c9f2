"""What of grading runs inside a Dask worker: says which course it carries, and keeps grading processes warm.

A Dask worker stands in the course's folder, as the grader does, and runs no student code itself: each submission goes
to a `Worker`, as on the grader's own machine, and so into a sandbox. Bytes and text are all that comes in and goes out.
"""

import atexit
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from autograder.course import Course, CourseError, find_root, load_course
from autograder.fingerprint import assignment_digests, deciders_of_all, fingerprint, versions
from autograder.results import Verdict
from autograder.submission import Submission
from autograder.worker import Worker, WorkerFailed, resolve_device


class Carried(BaseModel):
    """What a machine carries of a course: all that decides results, part by part.

    Attributes:
        folder: The course's folder there.
        parts: Hashes and values, by name (see `autograder.fingerprint`).
        versions: Of Python and packages; `parts` has only their hash.
        problem: Why there is nothing to carry, or "".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = ""
    parts: dict[str, str] = {}
    versions: dict[str, str] = {}
    problem: str = ""

    @property
    def content_hash(self) -> str:
        """One hash of all parts."""
        return fingerprint(self.parts)


def carried(root: Path, course: Course, digests: dict[str, str], device: str) -> Carried:
    """What a checkout carries of an assignment.

    Args:
        root: The course folder.
        course: Its settings.
        digests: What `assignment_digests` gives.
        device: The device that submissions run on.
    """
    return Carried(folder=str(root), parts=deciders_of_all(course, digests, device), versions=versions())


def describe(assignment: str, device: str) -> str:
    """What this Dask worker carries, or why it cannot grade, as JSON of `Carried`.

    Args:
        assignment: Name of the assignment.
        device: The device that submissions are to run on.
    """
    try:
        return _carried_here(assignment, device).model_dump_json()
    except (CourseError, OSError) as error:
        return Carried(problem=str(error)).model_dump_json()


def _carried_here(assignment: str, device: str) -> Carried:
    root = find_root()
    course = load_course(root).model_copy(update={"device": device})
    return carried(root, course, assignment_digests(root, assignment), resolve_device(course))


def grade(assignment: str, device: str, content_hash: str, submission: bytes) -> bytes:
    """Grade one submission in this Dask worker's warm grading process.

    Args:
        assignment: Name of the assignment.
        device: The device that it runs on.
        content_hash: Of what the grader carries. The same must lie here now: this worker, or its checkout, may be newer
            than the run.
        submission: As `Submission.to_json` writes it.

    Returns:
        The result as JSON.

    Raises:
        WorkerFailed: Nothing can be graded here, and why.
    """
    try:
        here = _carried_here(assignment, device)
        if here.content_hash != content_hash:
            raise WorkerFailed(f"what {here.folder} holds is not, or no longer, what the grader began with")
        with _kept_warm.lent((here.folder, assignment, device, content_hash)) as lent:
            result = lent.worker.grade(Submission.from_json(submission))
            lent.sick = lent.sick or result.verdict == Verdict.GRADER_FAULT
    except (CourseError, OSError, WorkerFailed) as error:
        raise WorkerFailed(f"On {socket.gethostname()}: {error}") from None
    return result.model_dump_json().encode()


_Key = tuple[str, str, str, str]
"""Course folder, assignment, device, content hash."""


@dataclass
class _Lent:
    worker: Worker
    users: int = 0
    sick: bool = False
    """It failed once: whoever comes next gets a new one."""


class _KeptWarm:
    """The grading processes of this Dask worker, one for each assignment that is being graded.

    Starting one takes seconds, so it stays when nobody uses it, until another is needed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: dict[_Key, _Lent] = {}

    @contextlib.contextmanager
    def lent(self, key: _Key) -> Iterator[_Lent]:
        """The grading process for a key, started where there is none."""
        with self._lock:
            lent = self._all.get(key)
            if lent is None or lent.sick:
                self._close([old for old in self._all if not self._all[old].users])
                folder, assignment, device, _ = key
                lent = _Lent(Worker(Path(folder), assignment, device=device))
                self._all[key] = lent
            lent.users += 1
        try:
            yield lent
        except WorkerFailed:
            lent.sick = True
            raise
        finally:
            with self._lock:
                lent.users -= 1
                if not lent.users and (lent.sick or self._all.get(key) is not lent):
                    lent.worker.close()
                    if self._all.get(key) is lent:
                        del self._all[key]

    def close(self) -> None:
        """End all that nobody uses."""
        with self._lock:
            self._close([key for key, lent in self._all.items() if not lent.users])

    def _close(self, keys: list[_Key]) -> None:
        for key in keys:
            self._all.pop(key).worker.close()


_kept_warm = _KeptWarm()
atexit.register(_kept_warm.close)  # where the Dask worker is killed, they end because nobody is at their other end
