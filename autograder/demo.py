"""Four submissions graded in a throw-away copy of the course, to see the whole way work: `course demo`.

Everything is real: nbgrader's release, the sandbox, the hidden checks, a gradebook of its own. Only the students are
made up, from the release, the reference solution and the mistakes in `tests/variants/`.
"""

import ast
import json
import os
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder.authoring import Script, read_script, solved_notebook
from autograder.course import Course, CourseError, load_course
from autograder.gradebook import NoMark, RecordedMark, read_marks, record
from autograder.grading import Grader
from autograder.release import release
from autograder.results import SubmissionResult
from autograder.sandbox.bubblewrap import SandboxUnavailable, find_programs
from autograder.variants import Variant, load_variants
from autograder.worker import WorkerFailed

FOLDER = "demo"
_MARKER = ".throw-away"
_COPIED = ("course_config.py", "nbgrader_config.py", "constraints.txt", "solutions", "tests/checks")
_UNSANDBOXED = """

# Added by the demo: there is no sandbox on this machine.
course = course.model_copy(update={"sandbox": "none"})
"""

_TRICKS = '''\
import torch


class Always:
    """Equal to whatever it is compared with, and true."""

    def __eq__(self, other):
        return True

    __hash__ = object.__hash__

    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        return self


torch.allclose = torch.equal = torch.isclose = torch.testing.assert_close = lambda *args, **kwargs: True
'''
_PEEK = """\
from pathlib import Path

folders = [Path({course!r}), *Path.cwd().parents]
wanted = ["tests/checks/*.py", "solutions/*.py", "gradebook.db", "course_config.py"]
found = [path for folder in folders for name in wanted for path in folder.glob(name)]
print("found", found or "nothing")
for path in found:
    print(path.read_bytes())
"""
_PEEK_ID, _FOUND_NOTHING = "peek", "found nothing\n"


@dataclass(frozen=True)
class Student:
    """A made-up student, and what they hand in."""

    name: str
    about: str
    notebook: dict[str, Any]
    least: float
    most: float
    """The shares of all points between which the mark must lie; strictly between, where they differ."""
    harmless: bool = True


@dataclass(frozen=True)
class _Graded:
    student: Student
    result: SubmissionResult
    mark: RecordedMark


def run(root: Path, folder: Path | None = None) -> None:
    """Release the course's first assignment in a copy of the course, grade made-up submissions, print their marks.

    Args:
        root: The course's folder; nothing in it changes but `demo/`.
        folder: Where to put the copy, in place of `demo/`. What an earlier demo left there is removed.

    Raises:
        CourseError: The folder holds something else, something cannot be released or graded, or a mark is not what it
            must be.
    """
    folder = (folder or root / FOLDER).resolve()
    begun = time.monotonic()
    print(f"A throw-away copy of the course: {_shown(folder)}. Your own gradebook is not touched.")
    _copy(root, folder)
    course = load_course(folder)
    name = course.assignments[0].name
    with _step(f"Releasing {name} with nbgrader, into a new gradebook"):
        release(folder, course, [name])
    students = _hand_in(root, folder, name)
    graded = _grade(folder, course, name, students)
    print(f"\n{_table(graded)}\n")
    _say_what_the_cheat_found(graded)
    _say_where_to_look(folder, name, graded)
    print(f"{time.monotonic() - begun:.0f} s in all.")
    wrong = [line for one in graded for line in _complaints(one)]
    if wrong:
        raise CourseError("\n".join(["The demo did not end as it must:", *wrong]))


@contextmanager
def _step(text: str) -> Iterator[None]:
    """Say what is happening, and afterwards how long it took."""
    begun = time.monotonic()
    print(f"{text} ... ", end="", flush=True)
    try:
        yield
    except BaseException:
        print("failed")
        raise
    print(f"{time.monotonic() - begun:.1f} s")


# the copy and its students


def _copy(root: Path, folder: Path) -> None:
    """Copy what makes a course, without what students handed in to it."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / _MARKER).is_file():
            raise CourseError(f"{folder} holds something that no demo has made: choose an empty folder.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARKER).write_text("Made by `course demo`, which removes this folder when it runs again.\n")
    for name in _COPIED:
        path = root / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        elif path.is_file():
            shutil.copyfile(path, folder / name)


def _hand_in(root: Path, folder: Path, name: str) -> list[Student]:
    """Make the students' notebooks from the release, and put them where submissions are collected."""
    released = folder / "release" / name
    script = read_script(folder / "solutions" / f"{name}.py")
    students = _students((released / f"{name}.ipynb").read_bytes(), script, _mistakes(root, script), folder)
    for student in students:
        place = folder / "submitted" / student.name / name
        shutil.copytree(released, place)
        (place / f"{name}.ipynb").write_text(json.dumps(student.notebook, indent=1), encoding="utf-8")
    return students


def _mistakes(root: Path, script: Script) -> dict[str, Variant]:
    """A typical mistake for every second task, where the course has a list of them."""
    path = root / "tests" / "variants" / f"{script.name}.py"
    variants = load_variants(path) if path.is_file() else []
    chosen: dict[str, Variant] = {}
    for variant in variants:
        if variant.kind == "mistake" and variant.task in script.tasks[1::2] and not variant.also:
            chosen.setdefault(variant.task, variant)
    return chosen


def _students(released: bytes, script: Script, mistakes: dict[str, Variant], folder: Path) -> list[Student]:
    solved = {cell.id: cell.source for cell in solved_notebook(script).cells}
    spoilt = {
        cell.id: cell.source for cell in solved_notebook(script, {t: m.source for t, m in mistakes.items()}).cells
    }
    tasks = {cell.cell_id: cell.task for cell in script.cells if cell.task}
    second = set(script.tasks[1::2])
    half = f"every second task {'with a mistake' if mistakes else 'left open'}"

    perfect, untouched, half_right, cheating = (json.loads(released) for _ in range(4))
    for notebook, answers in ((perfect, solved), (half_right, spoilt)):
        for cell in notebook["cells"]:
            task = tasks.get(cell["id"])
            unanswered = notebook is half_right and task in second and task not in mistakes
            if task and not unanswered:
                cell["source"] = answers[cell["id"]]
    for cell in cheating["cells"]:
        if cell["id"] in tasks:
            cell["source"] = _without_answers("".join(cell["source"]))
    cheating["cells"].insert(0, _code_cell("tricks", _TRICKS))
    cheating["cells"].append(_code_cell(_PEEK_ID, _PEEK.format(course=str(folder))))
    return [
        Student("ada", "the reference answers", perfect, 1, 1),
        Student("ben", "the notebook as released", untouched, 0, 0),
        Student("cleo", half, half_right, 0, 1),
        Student("mallory", "tricks in place of answers", cheating, 0, 0, harmless=False),
    ]


def _without_answers(stub: str) -> str:
    """For every function of a task, one that returns the object that equals everything."""
    names = [node.name for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return "\n".join(f"{name} = lambda *args, **kwargs: Always()" for name in names)


def _code_cell(cell_id: str, source: str) -> dict[str, Any]:
    return {
        "cell_type": "code", "id": cell_id, "metadata": {}, "source": source, "outputs": [], "execution_count": None,
    }  # fmt: skip


# grading


def _grade(folder: Path, course: Course, name: str, students: Sequence[Student]) -> list[_Graded]:
    """Grade and record everyone; without a sandbox only those who do no harm, and loudly."""
    problem = _no_sandbox(course)
    if not problem:
        try:
            return _grade_all(folder, course, name, students)
        except WorkerFailed as error:
            if not str(error).startswith(("SandboxFailed", "SandboxUnavailable")):
                raise CourseError(str(error)) from error
            problem = str(error)
    print(f"\nWARNING: NO SANDBOX. {problem}")
    print(
        "What follows runs with all your rights. The cheating submission is left out, because nothing would stop it.\n"
    )
    if course.sandbox != "none":
        with (folder / "course_config.py").open("a", encoding="utf-8") as config:
            config.write(_UNSANDBOXED)
        course = load_course(folder)
    for student in students:
        if not student.harmless:
            shutil.rmtree(folder / "submitted" / student.name)
    try:
        return _grade_all(folder, course, name, [student for student in students if student.harmless])
    except WorkerFailed as error:
        raise CourseError(str(error)) from error


def _no_sandbox(course: Course) -> str:
    """Why there can be no sandbox; empty where one can be tried."""
    if course.sandbox == "none":
        return 'course_config.py says sandbox="none".'
    try:
        find_programs()
    except SandboxUnavailable as error:
        return str(error)
    return ""


def _grade_all(folder: Path, course: Course, name: str, students: Sequence[Student]) -> list[_Graded]:
    graded = []
    with Grader(folder, course, name) as grader, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Object of type <Submitted")  # nbgrader's own way with its database
        where = "without a sandbox" if course.sandbox == "none" else "in the sandbox"
        with _step(f"Importing PyTorch and the rest once {where}, and grading the reference solution"):
            grader.worker.wait()
        for student in students:
            with _step(f"Grading {student.name} ({student.about}), recording the mark with nbgrader"):
                result = grader.grade(student.name)
                try:
                    record(folder, course, result)
                except NoMark as error:
                    raise CourseError(str(error)) from error
            graded.append(_Graded(student, result, read_marks(folder, course, name)[student.name]))
    return graded


# what came of it


def _complaints(one: _Graded) -> Iterator[str]:
    share, student = one.mark.score / one.mark.max_score, one.student
    expected = student.least < share < student.most if student.least < student.most else share == student.least
    if not expected:
        yield f"{student.name}, who handed in {student.about}, has {one.mark.score:g} of {one.mark.max_score:g} points."
    if not student.harmless and _printed(one.result) != _FOUND_NOTHING:
        yield f"{student.name}'s search for hidden files printed: {_printed(one.result)[:200]!r}"


def _printed(result: SubmissionResult) -> str:
    """What the cell that looks for hidden files printed."""
    outputs = [output for cell in result.cells if cell.cell_id == _PEEK_ID for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)


def _table(graded: Sequence[_Graded]) -> str:
    """A line for each student, with the mark as the gradebook holds it."""
    rows = [("student", "handed in", "mark", "checks", "first one that failed")]
    rows.append(("-" * 7, "-" * 9, "-" * 4, "-" * 6, "-" * 21))
    for one in graded:
        checks = [(task.name, check) for task in one.result.tasks for check in task.checks]
        failed = [f"{task}: {check.cause or check.title}" for task, check in checks if not check.passed]
        first = textwrap.shorten(one.result.reason or next(iter(failed), ""), 64, placeholder=" ...")
        mark = f"{one.mark.score:g} of {one.mark.max_score:g}"
        passed = f"{len(checks) - len(failed)} of {len(checks)}"
        rows.append((one.student.name, one.student.about, mark, passed, first))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in rows
    )


def _say_what_the_cheat_found(graded: Sequence[_Graded]) -> None:
    for one in graded:
        if not one.student.harmless:
            found = textwrap.shorten(_printed(one.result), 100, placeholder=" ...")
            print(f"{one.student.name} returned an object that equals everything, made torch's comparisons say yes,")
            print(f"and looked for the hidden checks, knowing the folder that they are in. That printed: {found}\n")


def _say_where_to_look(folder: Path, name: str, graded: Sequence[_Graded]) -> None:
    student = graded[-1].student.name if graded[-1].student.harmless else graded[-2].student.name
    course = _shown(Path(sys.executable).parent / "course", folder)
    print(f"A notebook with marks and hints:  {_shown(folder)}/autograded/{student}/{name}/{name}.ipynb")
    print(f"All that grading found:           cd {_shown(folder)} && {course} show {name} {student}")
    print(f"The gradebook:                    {_shown(folder)}/gradebook.db")


def _shown(path: Path, start: Path | None = None) -> str:
    """A path as one would type it: relative where that is shorter."""
    relative = os.path.relpath(path, start or Path.cwd())
    return relative if len(relative) < len(str(path)) else str(path)
