"""What grading one submission found: result types, and one JSON file per submission."""

import os
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Verdict(StrEnum):
    """How a submission ended."""

    GRADED = "GRADED"
    STUDENT_FAULT = "STUDENT_FAULT"
    """Something in the submission kept it from being graded whole: what was earned stays."""
    GRADER_FAULT = "GRADER_FAULT"
    """Something of ours failed: there is no mark, least of all a zero."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckResult(_Record):
    """One hidden check's outcome.

    `cause` is safe for the student to read; `detail` may hold expected values, hidden inputs and the student's output
    while the check ran, and is for instructors only.
    """

    name: str
    title: str
    passed: bool
    weight: float = 1.0
    hint: str = ""
    needs: tuple[str, ...] = ()
    cause: str = ""
    detail: str = ""
    cpu_seconds: float = 0.0


class TaskResult(_Record):
    """One task's checks and the points they earned."""

    name: str
    points: float
    checks: tuple[CheckResult, ...]

    @property
    def earned(self) -> float:
        """Points times the weight of the passed checks, rounded to 0.01."""
        total = sum(check.weight for check in self.checks)
        passed = sum(check.weight for check in self.checks if check.passed)
        return round(self.points * passed / total, 2) if total else 0.0


class CellResult(_Record):
    """What one code cell of the notebook did when it ran (already sanitised nbformat outputs)."""

    cell_id: str
    outputs: tuple[dict[str, Any], ...] = ()
    skipped: bool = False
    """A demo cell that the student left as it was released: it is not run."""
    error: str = ""
    """Empty, or why the cell did not end well: an exception's type, a time limit, a crash."""
    cpu_seconds: float = 0.0


class SubmissionResult(_Record):
    """Everything that grading one submission found, and the hash of everything that decided it."""

    assignment: str
    student: str
    verdict: Verdict
    reason: str = ""
    tasks: tuple[TaskResult, ...] = ()
    cells: tuple[CellResult, ...] = ()
    fingerprint: str = ""
    """Hash of everything that decided the result (see `autograder.fingerprint`)."""
    decided_by: dict[str, str] = Field(default_factory=dict)
    """The same part by part, so that one can tell which has changed."""
    sandbox: str = ""
    device: str = ""
    seed: int = 0
    versions: dict[str, str] = Field(default_factory=dict)
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    @property
    def score(self) -> float:
        """Points earned over all tasks."""
        return round(sum(task.earned for task in self.tasks), 2)

    @property
    def max_score(self) -> float:
        """Points to be had over all tasks."""
        return round(sum(task.points for task in self.tasks), 2)


UNFINISHED = ".unfinished-"
"""How names of files begin that are being written: a killed program leaves them, and the next run removes them."""


def result_path(root: Path, assignment: str, student: str) -> Path:
    """Where the result of one submission is kept."""
    return root / "results" / assignment / f"{student}.json"


def save_result(path: Path, result: SubmissionResult) -> None:
    """Write a result atomically."""
    write_atomically(path, result.model_dump_json(indent=1))


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a power cut, sees the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_result(path: Path) -> SubmissionResult | None:
    """Read a result; None where there is none or the file is not a result of this version."""
    try:
        return SubmissionResult.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
