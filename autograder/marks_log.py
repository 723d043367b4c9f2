"""The log of marks: a line for each mark that the gradebook came to hold, with the one before it and why.

The log follows the gradebook and never runs ahead of it. A line that a recording begins comes first, one that it is
done comes last; what a kill between them, a hand in the formgrader or another program has changed is found by comparing
the two, and written down by whoever grades next. Nothing in it is ever changed or taken out.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from autograder.results import SubmissionResult

MAX_REASON = 300


@dataclass(frozen=True)
class RecordedMark:
    """What the gradebook holds for a submission after recording."""

    score: float
    """Points as they count: manual marks included, the late penalty taken off."""
    late_penalty: float
    automatic: float | None
    """Points from the checks alone; None where there is no mark yet."""


class LogLine(BaseModel):
    """One line of the log.

    Attributes:
        when: Date and time, UTC.
        student: Whose mark.
        event: A recording "begins", is "recorded" whole, or a mark was "found" in the gradebook that nobody logged.
        old, new: Points as they count, before and after; None where there is no mark.
        automatic: The new points from the checks alone.
        late_penalty: Points taken off the new mark for being late.
        why: What had changed, a word or phrase each.
        decided_by: Hashes of what decided the mark, by name; what it says of the result is the result's.
    """

    model_config = ConfigDict(frozen=True)

    when: str
    student: str
    event: Literal["begins", "recorded", "found"]
    old: float | None = None
    new: float | None = None
    automatic: float | None = None
    late_penalty: float = 0.0
    why: tuple[str, ...] = ()
    verdict: str = ""
    reason: str = ""
    sandbox: str = ""
    device: str = ""
    fingerprint: str = ""
    decided_by: dict[str, str] = Field(default_factory=dict)


def log_path(root: Path, assignment: str) -> Path:
    """Where the log of an assignment's marks is kept."""
    return root / "results" / assignment / "marks.jsonl"


def read_log(root: Path, assignment: str) -> Iterator[LogLine]:
    """The log's lines in order; what is no line, such as one that a full disk has cut, is passed over."""
    try:
        lines = log_path(root, assignment).read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield LogLine.model_validate_json(line)
        except ValueError:
            continue


class MarksLog:
    """An assignment's log, with the last known mark of each student."""

    def __init__(self, root: Path, assignment: str) -> None:
        """Read it."""
        self.path = log_path(root, assignment)
        self.latest: dict[str, LogLine] = {}
        """The last line of each student that tells a mark."""
        self.unfinished: set[str] = set()
        """Students whose recording began and was never done: the gradebook may hold a part of it."""
        for line in read_log(root, assignment):
            self._take(line)

    def _take(self, line: LogLine) -> None:
        if line.event == "begins":
            self.unfinished.add(line.student)
            return
        self.latest[line.student] = line
        if line.event == "recorded":
            self.unfinished.discard(line.student)

    def recorded(
        self, result: SubmissionResult, mark: RecordedMark, decided_by: dict[str, str], *, forced: bool = False
    ) -> None:
        """Note that the gradebook holds a result's mark.

        Args:
            result: The result.
            mark: What the gradebook holds now.
            decided_by: What decided the mark.
            forced: Whether it was asked for though nothing had changed.
        """
        last = self.latest.get(result.student)
        line = LogLine(
            when=_now(), student=result.student, event="recorded", old=last.new if last else None, new=mark.score,
            automatic=mark.automatic, late_penalty=mark.late_penalty, why=_why(last, decided_by, forced),
            verdict=result.verdict, reason=result.reason[:MAX_REASON], sandbox=result.sandbox, device=result.device,
            fingerprint=result.fingerprint, decided_by=decided_by,
        )  # fmt: skip
        self._append(line)

    def catch_up(self, marks: Mapping[str, RecordedMark]) -> None:
        """Write down what the gradebook holds and the log does not say.

        Args:
            marks: What the gradebook holds, by student.
        """
        for student in sorted({*marks, *self.latest}):
            last, mark = self.latest.get(student), marks.get(student)
            if mark is not None and mark.automatic is None and last is None:
                continue  # entered, never marked
            held = (mark.score, mark.automatic, mark.late_penalty) if mark else (None, None, 0.0)
            if held != ((last.new, last.automatic, last.late_penalty) if last else (None, None, 0.0)):
                self._append(self._found(student, last, *held))

    def _found(
        self, student: str, last: LogLine | None, new: float | None, automatic: float | None, late_penalty: float
    ) -> LogLine:
        if student in self.unfinished:
            why = "a recording that was broken off"
        elif last is None:
            why = "recorded before this log began, or by another program"
        elif new is None:
            why = "taken out of the gradebook by another program"
        elif (last.automatic, last.late_penalty) == (automatic, late_penalty):
            why = "marked by hand"
        else:
            why = "changed by another program"
        same_result = last is not None and last.automatic == automatic
        base = last if last is not None and same_result else LogLine(when="", student=student, event="found")
        found = {
            "when": _now(), "event": "found", "old": last.new if last else None, "new": new, "why": (why,),
            "automatic": automatic, "late_penalty": late_penalty,
        }  # fmt: skip
        return base.model_copy(update=found)

    def _append(self, line: LogLine) -> None:
        _write(self.path, line)
        self._take(line)


def log_begin(root: Path, assignment: str, student: str) -> None:
    """Note that a mark is about to be recorded."""
    _write(log_path(root, assignment), LogLine(when=_now(), student=student, event="begins"))


def _write(path: Path, line: LogLine) -> None:
    """Append a line in one piece, and see that it is on the disk."""
    data = line.model_dump_json(exclude_defaults=True).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+", buffering=0) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            data = data if file.read(1) == b"\n" else b"\n" + data  # a full disk has cut the line before
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


def _why(last: LogLine | None, decided_by: dict[str, str], forced: bool) -> tuple[str, ...]:
    """Which of what decides a mark is not what it was for the last one."""
    if last is None or last.new is None:
        return ("first mark",)
    known = last.decided_by
    changed = tuple(name for name, value in decided_by.items() if name in known and known[name] != value)
    return changed or (("forced",) if forced else ("recorded again",))


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def rows(lines: list[LogLine]) -> list[list[str]]:
    """Rows for a terminal: when, student, old, new, late penalty, why; recordings that only began are left out."""
    found = [["when", "student", "old", "new", "late", "why"]]
    for line in lines:
        if line.event != "begins":
            points = ["" if value is None else f"{value:g}" for value in (line.old, line.new)]
            late = f"{line.late_penalty:g}" if line.late_penalty else ""
            found.append([line.when, line.student, *points, late, ", ".join(line.why)])
    return found
