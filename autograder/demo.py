"""A class of made-up submissions graded in a throw-away copy of the course, to see the whole way work: `course demo`.

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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autograder.authoring import Script, read_script, solved_notebook
from autograder.classroom import grade_all
from autograder.course import GRADEBOOK_FILE, GRADEBOOK_VARIABLE, Course, CourseError, load_course
from autograder.feedback import Outcome, make_pages
from autograder.grading import Grader
from autograder.marks_log import RecordedMark
from autograder.recorded import read_marks
from autograder.recording import Recorder
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


_LOOP = "while True:\n        pass"
_EXIT = "import os\n\n    os._exit(0)"
_HOG = "hoard = []\n    while True:\n        hoard.append(bytearray(2**28))"

Earns = Literal["everything", "a part", "nothing"]


@dataclass(frozen=True)
class Student:
    """A made-up student, and what they hand in.

    Attributes:
        name: Their identifier.
        about: What they hand in, in words.
        earns: What the mark must be.
        files: Content of the files beside those of the release, by name.
        reason: What the reason for a fault in the submission must hold.
        harmless: It may also run without a sandbox.
    """

    name: str
    about: str
    earns: Earns
    files: dict[str, bytes]
    reason: str = ""
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
    os.environ[GRADEBOOK_VARIABLE] = GRADEBOOK_FILE  # the copy's course_config.py may name the course's own database
    course = load_course(folder)
    name = course.assignments[0].name
    with _step(f"Releasing {name} with nbgrader, into a new gradebook"):
        release(folder, course, [name])
    students = _hand_in(root, folder, name)
    graded = _grade(folder, course, name, students)
    _make_feedback(folder, load_course(folder), name, graded)
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
    students = _Class(root, folder, script, (released / f"{name}.ipynb").read_bytes()).students()
    for student in students:
        place = folder / "submitted" / student.name / name
        shutil.copytree(released, place, ignore=shutil.ignore_patterns("*.ipynb"))
        for file, content in student.files.items():
            (place / file).write_bytes(content)
    return students


class _Class:
    """Makes what students hand in, from the release, the reference solution and the list of variants."""

    def __init__(self, root: Path, folder: Path, script: Script, released: bytes) -> None:
        path = root / "tests" / "variants" / f"{script.name}.py"
        self.variants = load_variants(path) if path.is_file() else []
        self.folder, self.script, self.released = folder, script, released
        self.notebook = f"{script.name}.ipynb"

    def students(self) -> list[Student]:
        """Everyone."""
        first, second, last = (
            self.script.tasks[0],
            self.script.tasks[min(1, len(self.script.tasks) - 1)],
            (self.script.tasks[-1]),
        )
        alternatives = self._one_each("alternative")
        mistakes = self._one_each("mistake")
        every_second = {task: mistakes[task] for task in self.script.tasks[1::2] if task in mistakes}
        found = [
            self._student("ada", "the reference answers", "everything", self._solved()),
            self._student("ben", "the notebook as released", "nothing", self.released),
        ]
        if alternatives:
            about = "right answers in another style"
            found.append(self._student("cleo", about, "everything", self._solved(alternatives)))
        if every_second:
            about = "every second task with a mistake"
            found.append(self._student("dora", about, "a part", self._solved(every_second)))
        for name, task in (("emil", first), ("fay", last)):
            if task in mistakes:
                about = f"one mistake: {mistakes[task].description}"
                found.append(self._student(name, about, "a part", self._solved({task: mistakes[task]})))
        found += [
            self._student("gus", "a syntax error in one cell", "a part", self._solved(broken={last: "def f(:"})),
            self._student("hal", "an endless loop", "a part", self._instead(second, _LOOP)),
            self._student("ida", "os._exit in a function", "a part", self._instead(second, _EXIT)),
            self._student("jon", "memory without end", "a part", self._instead(last, _HOG), harmless=False),
            self._student(
                "kim", "a file that was cut off", "nothing", self._solved()[:-2000], reason="the notebook is not JSON"
            ),
            Student("lee", "no notebook", "nothing", {"notes.txt": b"sorry"}, reason="there is no notebook"),
            Student(
                "max", "the answers, under another name", "nothing",
                {f"{self.script.name} (1).ipynb": self._solved()}, reason=f"{self.script.name} (1).ipynb",
            ),
            self._student("mallory", "tricks in place of answers", "nothing", self._cheat(), harmless=False),
        ]  # fmt: skip
        return found

    def _student(
        self, name: str, about: str, earns: Earns, content: bytes, *, reason: str = "", harmless: bool = True
    ) -> Student:
        return Student(name, about, earns, {self.notebook: content}, reason, harmless)

    def _one_each(self, kind: str) -> dict[str, Variant]:
        """The first variant of a kind for each task, of mistakes one that costs no other task."""
        chosen: dict[str, Variant] = {}
        for variant in self.variants:
            if variant.kind == kind and not variant.also:
                chosen.setdefault(variant.task, variant)
        return chosen

    def _solved(
        self, variants: Mapping[str, Variant] | None = None, *, broken: Mapping[str, str] | None = None
    ) -> bytes:
        """The reference answers, with variants of some tasks, or other source in place of an answer."""
        overrides = {task: variant.source for task, variant in (variants or {}).items()}
        answers = {cell.id: cell.source for cell in solved_notebook(self.script, overrides).cells}
        tasks = {cell.cell_id: cell.task for cell in self.script.cells if cell.task}
        notebook = json.loads(self.released)
        for cell in notebook["cells"]:
            if cell["id"] in tasks:
                cell["source"] = (broken or {}).get(tasks[cell["id"]] or "", answers[cell["id"]])
        return _bytes(notebook)

    def _instead(self, task: str, statements: str) -> bytes:
        """The reference answers, but every function of one task does something else."""
        source = next(cell.source for cell in self.script.cells if cell.task == task)
        names = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        return self._solved(
            broken={task: "\n\n\n".join(f"def {name}(*args, **kwargs):\n    {statements}" for name in names)}
        )

    def _cheat(self) -> bytes:
        tasks = {cell.cell_id for cell in self.script.cells if cell.task}
        notebook = json.loads(self.released)
        for cell in notebook["cells"]:
            if cell["id"] in tasks:
                cell["source"] = _without_answers("".join(cell["source"]))
        notebook["cells"].insert(0, _code_cell("tricks", _TRICKS))
        notebook["cells"].append(_code_cell(_PEEK_ID, _PEEK.format(course=str(self.folder))))
        return _bytes(notebook)


def _bytes(notebook: dict[str, Any]) -> bytes:
    return json.dumps(notebook, indent=1).encode()


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
        "What follows runs with all your rights. The submissions that do harm are left out: nothing would stop them.\n"
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
    about = {student.name: student for student in students}
    jobs = os.cpu_count() or 1
    pool = ThreadPoolExecutor(jobs)
    with Grader(folder, course, name) as grader, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Object of type <Submitted")  # nbgrader's own way with its database
        where = "without a sandbox" if course.sandbox == "none" else "in the sandbox"
        with _step(f"Importing PyTorch and the rest once {where}, and grading the reference solution"):
            grader.worker.wait()
        begun = time.monotonic()
        print(f"Grading {len(students)} submissions, {jobs} side by side, recording each mark with nbgrader:")
        recorder = Recorder(grader, tell=print)
        results = []
        for number, graded in enumerate(grade_all(grader, list(about), pool), 1):
            marked = recorder.record(graded)
            if marked.failure:
                raise CourseError(marked.failure)
            results.append(marked.result)
            seconds = time.monotonic() - begun
            print(f"  {number:2} of {len(students)} after {seconds:4.1f} s: {marked.result.student}", flush=True)
    pool.shutdown()
    marks = read_marks(folder, course, name)
    found = {result.student: _Graded(about[result.student], result, marks[result.student]) for result in results}
    return [found[student.name] for student in students]


def _make_feedback(folder: Path, course: Course, name: str, graded: Sequence[_Graded]) -> None:
    with _step(f"Making {len(graded)} feedback pages"):
        pages = list(make_pages(folder, course, name, [one.student.name for one in graded]))
    missing = [f"{page.student}: {page.reason}" for page in pages if page.outcome != Outcome.MADE]
    if missing:
        raise CourseError("\n".join(["Not every feedback page was made:", *missing]))


# what came of it


def _complaints(one: _Graded) -> Iterator[str]:
    best, student = one.result.max_score, one.student
    share = one.mark.score / best
    earned: Earns = "everything" if share == 1 else "a part" if share else "nothing"
    if earned != student.earns:
        yield f"{student.name}, who handed in {student.about}, has {one.mark.score:g} of {best:g} points."
    if student.reason not in one.result.reason:
        yield f"{student.name}'s reason is {one.result.reason!r}; it should say {student.reason!r}."
    if _PEEK_ID.encode() in student.files.get(f"{one.result.assignment}.ipynb", b"") and (
        _printed(one.result) != _FOUND_NOTHING
    ):
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
        first = textwrap.shorten(one.result.reason or next(iter(failed), ""), 110, placeholder=" ...")
        mark = f"{one.mark.score:g} of {one.result.max_score:g}"
        passed = f"{len(checks) - len(failed)} of {len(checks)}"
        rows.append((one.student.name, one.student.about, mark, passed, first))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in rows
    )


def _say_what_the_cheat_found(graded: Sequence[_Graded]) -> None:
    for one in graded:
        if _printed(one.result):
            found = textwrap.shorten(_printed(one.result), 100, placeholder=" ...")
            print(f"{one.student.name} returned an object that equals everything, made torch's comparisons say yes,")
            print(f"and looked for the hidden checks, knowing the folder that they are in. That printed: {found}\n")


def _say_where_to_look(folder: Path, name: str, graded: Sequence[_Graded]) -> None:
    student = next(one.student.name for one in graded if one.student.earns == "a part")
    course = _shown(Path(sys.executable).parent / "course", folder)
    print(f"What a student gets back:  {_shown(folder)}/feedback/{student}/{name}/{name}.html")
    print(f"All that grading found:    cd {_shown(folder)} && {course} show {name} {student}")
    print(f"The class at a glance:     cd {_shown(folder)} && {course} status {name}")
    print(f"The gradebook:             {_shown(folder)}/gradebook.db")


def _shown(path: Path, start: Path | None = None) -> str:
    """A path as one would type it: relative where that is shorter."""
    relative = os.path.relpath(path, start or Path.cwd())
    return relative if len(relative) < len(str(path)) else str(path)
