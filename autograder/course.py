"""What a course is: the validated settings that `course_config.py` holds, and how to find and load them.

Every other part of the package reads its settings from here. A wrong value never gets further: loading fails with a
`CourseError` that names the line, the field as it is written there, what was given and what is allowed.
"""

import ast
import difflib
import math
import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

CONFIG_NAME = "course_config.py"

_KIB, _MIB, _GIB = 1024, 1024**2, 1024**3
_SECONDS_PER_DAY = 86_400.0


class CourseError(Exception):
    """Something that whoever runs the course can put right; its text says where and how."""

    exit_code = 1


class NoSuchName(CourseError):
    """A command names an assignment or a student that there is not."""

    exit_code = 2


DEVICE_VARIABLE, SANDBOX_VARIABLE, GRADEBOOK_VARIABLE = "COURSE_DEVICE", "COURSE_SANDBOX", "COURSE_GRADEBOOK"
"""Environment variables that take the place of these settings of a course, in this process and those it starts."""

GRADEBOOK_FILE = "gradebook.db"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LatePolicy(_Settings):
    """What handing in late costs. As it stands: nothing, and there is no last day."""

    grace_minutes: Annotated[float, Field(ge=0)] = 0.0
    """A delay up to here is none, and lateness is counted from its end."""
    percent_per_day: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Share of the marks earned that each started day takes."""
    closes_after_days: Annotated[float, Field(ge=0)] | None = None
    """Work that is later than this earns nothing; None: it is always taken."""

    def penalty(self, score: float, seconds_late: float) -> float:
        """Marks to take off a score: from 0 to all of it, rounded to 0.01."""
        late = seconds_late - 60 * self.grace_minutes
        if late <= 0:
            return 0.0
        if self.closes_after_days is not None and late > self.closes_after_days * _SECONDS_PER_DAY:
            return score
        share = min(1.0, self.percent_per_day / 100 * math.ceil(late / _SECONDS_PER_DAY))
        return round(score * share, 2)


class Limits(_Settings):
    """What one submission may use. Seconds are CPU seconds, so that a mark does not depend on a busy machine."""

    cell_seconds: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    check_seconds: Annotated[float, Field(gt=0, le=86_400)] = 5.0
    submission_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    wall_factor: Annotated[float, Field(ge=1, le=1000)] = 6.0
    """The backstop on the wall clock, as a multiple of each CPU limit: it ends what sleeps instead of computing."""
    memory_bytes: Annotated[int, Field(ge=2 * _GIB, le=1024 * _GIB)] = 4 * _GIB
    """Address space of each process, and memory of all of them together (there a quarter of a GiB more is let pass);
    importing torch alone needs two GiB."""
    processes: Annotated[int, Field(ge=8, le=4096)] = 64
    """Processes and threads together."""
    output_bytes: Annotated[int, Field(ge=_KIB, le=64 * _MIB)] = _MIB
    """Output kept of each cell."""
    files_bytes: Annotated[int, Field(ge=_MIB, le=16 * _GIB)] = 64 * _MIB
    """Size of the submission's working folder, with what it writes there."""
    gpu_memory_bytes: Annotated[int, Field(ge=256 * _MIB, le=1024 * _GIB)] = 4 * _GIB
    """What torch may take of a GPU's memory, where submissions run on one."""

    @model_validator(mode="after")
    def _parts_fit_into_the_whole(self) -> Self:
        for name in ("cell_seconds", "check_seconds"):
            if getattr(self, name) > self.submission_seconds:
                raise ValueError(f"{name} must be at most submission_seconds ({self.submission_seconds:g})")
        return self


_EXAMPLE_DATE = "'2027-10-31T23:59+01:00'"


def _as_date(value: object) -> object:
    """Take a date as an object or in ISO format, with a time zone, and nothing else: a number would be read as one."""
    try:
        date = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        date = value
    if not isinstance(date, datetime | None):
        raise ValueError(f"must be a date and time such as {_EXAMPLE_DATE}")
    if date is not None and date.utcoffset() is None:
        raise ValueError(f"must say its time zone, as in {_EXAMPLE_DATE}")
    return date


class Assignment(_Settings):
    """One notebook: its name is the name of all its files, `solutions/<name>.py` first."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    title: Annotated[str, Field(min_length=1)]
    points: Annotated[float, Field(gt=0)] = 20.0
    """What the points of the tasks add up to."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Its share in the course's mark, relative to the other assignments."""
    due: Annotated[datetime | None, BeforeValidator(_as_date)] = None
    """When it is due, with a time zone; None: whenever."""
    late: LatePolicy = LatePolicy()
    preload: tuple[str, ...] = ()
    """Modules that the sandbox imports once for all submissions, beside what the released notebook imports: what a
    function that it calls imports at its first use. The first step of an optimiser of torch imports torch._dynamo,
    which takes two seconds."""


def _is_gradebook(value: str) -> str:
    """Take the file, or the address of a database without a password: others may read `course_config.py`."""
    if value != GRADEBOOK_FILE and not re.fullmatch(r"postgresql://([^\s:@/?]+@)?[^\s@/?]*/[^\s@/?]+", value):
        raise ValueError(
            f"must be {GRADEBOOK_FILE!r} or 'postgresql://user@host/database'; a password belongs in ~/.pgpass"
        )
    return value


class Course(_Settings):
    """A course: its assignments in the order in which students meet them, and how they are graded."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    title: Annotated[str, Field(min_length=1)]
    assignments: Annotated[Sequence[Assignment], Field(min_length=1), AfterValidator(tuple)]
    device: Literal["auto", "cpu", "cuda"] = "auto"
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap"
    """`none` runs what students wrote with your own rights: every mark then says so."""
    gradebook: Annotated[str, AfterValidator(_is_gradebook)] = GRADEBOOK_FILE
    """This file in the course's folder (SQLite), or `postgresql://user@host/database` (docs/scaling.md)."""
    limits: Limits = Limits()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [assignment.name for assignment in self.assignments]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the names of assignments must differ: {', '.join(twice)} appears more than once")
        return self

    def assignment(self, name: str) -> Assignment:
        """The assignment of that name.

        Raises:
            NoSuchName: There is none; the text names those that are close.
        """
        for assignment in self.assignments:
            if assignment.name == name:
                return assignment
        names = [assignment.name for assignment in self.assignments]
        raise NoSuchName(f"There is no assignment {name!r} in {CONFIG_NAME}{suggestion(name, names)}")

    def select(self, names: Sequence[str]) -> tuple[Assignment, ...]:
        """The assignments of these names in the course's order; all of them where no name is given."""
        wanted = {self.assignment(name).name for name in names}
        return tuple(assignment for assignment in self.assignments if not names or assignment.name in wanted)


def find_root(start: Path | None = None) -> Path:
    """The nearest folder, from `start` (or the current one) upwards, that holds a `course_config.py`.

    Raises:
        CourseError: There is none.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / CONFIG_NAME).is_file():
            return folder
    raise CourseError(
        f"There is no {CONFIG_NAME} in {start} or in a folder above it: go to your course's folder first."
    )


def load_course(root: Path) -> Course:
    """Run a course's `course_config.py` and return the `course` that it defines.

    Raises:
        CourseError: There is no such file, it does not run, or a value in it is not allowed.
    """
    path = root / CONFIG_NAME
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} cannot be read: {error}") from error
    namespace: dict[str, Any] = {"__name__": "course_config", "__file__": str(path)}
    try:
        exec(compile(source, path, "exec"), namespace)
    except ValidationError as error:
        raise CourseError(_explain(error, path, source)) from error
    except SyntaxError as error:
        raise CourseError(f"{path}, line {error.lineno}: {error.msg}.") from error
    except (Exception, SystemExit) as error:
        raise CourseError(f"{_place(path, error.__traceback__)}: {type(error).__name__}: {error}") from error
    course = namespace.get("course")
    if isinstance(course, Course):
        return _overridden(course)
    if "course" not in namespace:
        raise CourseError(f"{path} defines no `course`: add `course = Course(id=..., title=..., assignments=[...])`.")
    raise CourseError(f"{path}: `course` must be a Course(...), it is of type {type(course).__name__}.")


def _overridden(course: Course) -> Course:
    """The course with the device, the sandbox and the gradebook that the environment asks for."""
    variables = {"device": DEVICE_VARIABLE, "sandbox": SANDBOX_VARIABLE, "gradebook": GRADEBOOK_VARIABLE}
    wanted = {setting: os.environ.get(variable) for setting, variable in variables.items()}
    update = {name: value for name, value in wanted.items() if value}
    try:
        return Course.model_validate({**dict(course), **update}) if update else course
    except ValidationError as error:
        raise CourseError(
            f"{', '.join(variables.values())}: one of these in the environment is not allowed: {error}"
        ) from None


# What went wrong, in the words of the file


def _explain(error: ValidationError, path: Path, source: str) -> str:
    """All that one `Course(...)`, `Assignment(...)` call in the file got wrong, a line for each value."""
    prefix = _call_path(source, _position(path, error.__traceback__), error.title)
    place = _place(path, error.__traceback__)
    return "\n".join(f"{place}: {_complaint(detail, prefix, error.title)}" for detail in error.errors())


def _complaint(detail: ErrorDetails, prefix: str, model: str) -> str:
    field = _field(prefix, detail["loc"])
    if detail["type"] == "missing":
        return f"{field} is missing."
    if detail["type"] == "extra_forbidden":
        known = _fields_at(model, detail["loc"])
        return f"{field} is no setting{suggestion(str(detail['loc'][-1]), known)}"
    reason = re.sub(r"^(Value error, )?(Input|String|Tuple) should", "must", detail["msg"])
    reason = reason.removeprefix("Value error, ")
    if detail["type"] == "string_pattern_mismatch":
        reason = "must be lower-case letters, digits and underscores, a letter first"
        if detail["loc"][-1] == "id":
            reason = "must be letters, digits, '_', '-' and '.', a letter or digit first"
    if isinstance(detail["input"], dict | BaseModel) or not detail["loc"]:
        return f"{field or model}: {reason}."
    return f"{field} is {detail['input']!r}: {reason}."


def _field(prefix: str, location: Iterable[int | str]) -> str:
    """Write `("assignments", 0, "due")` as `assignments[0].due`."""
    text = prefix
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _fields_at(model: str, location: Sequence[int | str]) -> list[str]:
    """Names of the settings beside the one at a location inside a model."""
    models: dict[str, type[BaseModel]] = {item.__name__: item for item in (Course, Assignment, Limits, LatePolicy)}
    inside = {"assignments": "Assignment", "limits": "Limits", "late": "LatePolicy"}
    for part in location[:-1]:
        model = inside.get(str(part), model)
    return list(models[model].model_fields)


def suggestion(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about a name that nobody knows: the names that are close, else the first ten there are."""
    close = difflib.get_close_matches(name, known, n=3)
    if close or not known:
        return f"; did you mean {' or '.join(close)}?" if close else "."
    return f"; there is {', '.join(known[:10])}{' and more' if len(known) > 10 else ''}."


def _frame(path: Path, traceback: TracebackType | None) -> TracebackType | None:
    """The innermost step of a traceback that is in the file itself."""
    found = None
    while traceback:
        if traceback.tb_frame.f_code.co_filename == str(path):
            found = traceback
        traceback = traceback.tb_next
    return found


def _place(path: Path, traceback: TracebackType | None) -> str:
    frame = _frame(path, traceback)
    return f"{path}, line {frame.tb_lineno}" if frame else str(path)


_Position = tuple[int, int]


def _position(path: Path, traceback: TracebackType | None) -> _Position | None:
    """Line and column of the call that failed."""
    frame = _frame(path, traceback)
    if frame is None:
        return None
    positions = list(frame.tb_frame.f_code.co_positions())
    line, _, column, _ = positions[frame.tb_lasti // 2]
    return None if line is None or column is None else (line, column)


def _call_path(source: str, position: _Position | None, model: str) -> str:
    """Where in the `Course(...)` of the file a call stands, such as `assignments[0].late`.

    A call outside it, as in a list made before, is called by its model's name; the whole course has no prefix.
    """
    if model == "Course":
        return ""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Course"):
            found = _descend(node, position)
            if found is not None:
                return found
    return model


def _descend(node: ast.expr, position: _Position | None) -> str | None:
    """Follow keywords and list items from a node to the call that starts at a position."""
    if (node.lineno, node.col_offset) == position:
        return ""
    steps: list[tuple[str, ast.expr]] = []
    if isinstance(node, ast.Call):
        steps = [(f".{keyword.arg}", keyword.value) for keyword in node.keywords]
    elif isinstance(node, ast.List | ast.Tuple):
        steps = [(f"[{index}]", item) for index, item in enumerate(node.elts)]
    for step, child in steps:
        rest = _descend(child, position)
        if rest is not None:
            return step + rest
    return None
