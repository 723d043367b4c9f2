"""Turns reference solutions into what students get: `source/`, nbgrader's `release/`, or a folder to hand out.

Everything is made in a temporary folder first and looked at there: nothing in the course changes before the assignment
is known to be whole and to give nothing away, and before the gradebook has accepted it.
"""

import ast
import io
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbgrader.api import Gradebook
from nbgrader.converters import GenerateAssignment
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from autograder.authoring import (
    BEGIN,
    END,
    HELPER,
    Script,
    build_notebook,
    notebook_bytes,
    read_script,
    solution_region,
)
from autograder.course import Assignment, Course, CourseError, LatePolicy
from autograder.lint import answers_of, checks_path, find_answer, lint, solution_path, summary
from autograder.nbgrader_settings import configure
from autograder.postgres import gradebook_url
from autograder.safekeeping import back_up

STUDENT_PACKAGES = ("torch", "numpy", "matplotlib", "scikit-learn", "jupyterlab")
"""What a student installs to work on any assignment."""

_LEFT_ALONE = {".ipynb_checkpoints", "__pycache__"}  # what Jupyter and Python leave behind; nbgrader skips them too


def build(root: Path, course: Course, names: Sequence[str] = ()) -> None:
    """Write `source/<name>/` for assignments: the instructor's notebook and the files that go out beside it.

    Args:
        root: The course's folder.
        course: Its settings.
        names: Assignments to build; none means all.

    Raises:
        CourseError: A script cannot be read, or `source/<name>/` holds a file that no build makes.
    """
    for assignment in course.select(names):
        _no_strangers(root, assignment)
        with _workshop() as workshop:
            _write_source(root, course, assignment, workshop)
            _mirror(workshop / "source" / assignment.name, root / "source" / assignment.name)


def release(root: Path, course: Course, names: Sequence[str] = ()) -> list[Path]:
    """Build assignments, write `release/<name>/` and enter them, with their due dates, into the gradebook.

    Args:
        root: The course's folder.
        course: Its settings.
        names: Assignments to release; none means all.

    Returns:
        The folders that students get.

    Raises:
        CourseError: Lint finds problems, something would give an answer away, or the gradebook refuses. Then `source/`
            and `release/` are as they were.
    """
    _no_problems(root, course, names)
    back_up(root, course)  # nbgrader takes the marks of a task that is gone out of the gradebook
    folders = []
    for assignment in course.select(names):
        _no_strangers(root, assignment)
        with _workshop() as workshop:
            _make(root, course, assignment, workshop)
            _enter_into_gradebook(root, course, assignment, workshop)
            for step in ("source", "release"):
                _mirror(workshop / step / assignment.name, root / step / assignment.name)
        folders.append(root / "release" / assignment.name)
    return folders


def enter(root: Path, course: Course, name: str) -> None:
    """Enter an assignment into a gradebook that does not know it, such as a fresh checkout's; what is released stays.

    Raises:
        CourseError: As for `release`.
    """
    _no_problems(root, course, [name])
    with _workshop() as workshop:
        _make(root, course, course.assignment(name), workshop)
        _enter_into_gradebook(root, course, course.assignment(name), workshop)


def check_release(root: Path, course: Course, names: Sequence[str] = ()) -> list[str]:
    """Compare `source/` and `release/` with what a release would make now, and change nothing.

    Returns:
        What differs, a sentence for each file; nothing where all is fresh.

    Raises:
        CourseError: Lint finds problems, or something would give an answer away.
    """
    _no_problems(root, course, names)
    stale = []
    for assignment in course.select(names):
        with _workshop() as workshop:
            _make(root, course, assignment, workshop)
            for step in ("source", "release"):
                place = Path(step, assignment.name)
                stale += [f"{place / file} {what}" for file, what in _differences(workshop / place, root / place)]
    return stale


def export(root: Path, course: Course, names: Sequence[str], folder: Path) -> list[Path]:
    """Write what students get into `folder/<name>/`, made afresh; neither the course nor its gradebook changes.

    Files of that name are replaced, others in the folder are left alone.

    Returns:
        The folders written.

    Raises:
        CourseError: Lint finds problems, or something would give an answer away.
    """
    _no_problems(root, course, names)
    written = []
    for assignment in course.select(names):
        with _workshop() as workshop:
            _make(root, course, assignment, workshop)
            shutil.copytree(workshop / "release" / assignment.name, folder / assignment.name, dirs_exist_ok=True)
        written.append(folder / assignment.name)
    return written


# Making an assignment in a folder of its own


@contextmanager
def _workshop() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="course-release-") as folder:
        yield Path(folder).resolve()


def _no_problems(root: Path, course: Course, names: Sequence[str]) -> None:
    problems = lint(root, course, names)
    if problems:
        raise CourseError(f"Nothing is released before this is put right:\n{summary(problems)}")


def _no_strangers(root: Path, assignment: Assignment) -> None:
    """Refuse files in `source/` that no build makes: nbgrader would hand them to students, whatever they are."""
    folder = root / "source" / assignment.name
    strangers = sorted(set(_files(folder)) - _source_names(assignment))
    if strangers:
        raise CourseError(
            f"{folder / strangers[0]} does not come from {solution_path(root, assignment.name).relative_to(root)}, "
            "and students would get it: move it elsewhere."
        )


def _source_names(assignment: Assignment) -> set[Path]:
    return {Path(name) for name in (f"{assignment.name}.ipynb", f"{HELPER}.py", "README.md", "requirements.txt")}


def _make(root: Path, course: Course, assignment: Assignment, workshop: Path) -> None:
    """Make `source/` and `release/` of an assignment in a workshop, without any gradebook, and look at them."""
    script = _write_source(root, course, assignment, workshop)
    config = Config()
    configure(config, workshop, course)
    config.SaveCells.enabled = False
    config.GenerateAssignment.no_database = True
    _generate(config, assignment)
    leaks = list(_leaks(workshop / "release" / assignment.name, script, checks_path(root, assignment.name)))
    if leaks:
        raise CourseError("\n".join([f"{assignment.name} would give something away:", *leaks]))


def _write_source(root: Path, course: Course, assignment: Assignment, workshop: Path) -> Script:
    script = read_script(solution_path(root, assignment.name))
    helper = root / "solutions" / f"{HELPER}.py"
    if not helper.is_file():
        raise CourseError(f"{helper} is missing: every notebook gets a copy of it for its visible checks.")
    folder = workshop / "source" / assignment.name
    folder.mkdir(parents=True)
    (folder / f"{assignment.name}.ipynb").write_bytes(notebook_bytes(build_notebook(script)))
    (folder / helper.name).write_bytes(helper.read_bytes())
    (folder / "README.md").write_text(_readme(course, assignment, script), encoding="utf-8")
    (folder / "requirements.txt").write_text(_requirements(root / "constraints.txt"), encoding="utf-8")
    return script


def _generate(config: Config, assignment: Assignment) -> None:
    """Run nbgrader's generate_assignment; what it logs is shown only where it fails."""
    folder = CourseDirectory(config=config)
    folder.assignment_id = assignment.name
    converter = GenerateAssignment(coursedir=folder, config=config)
    converter.force = True
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    converter.log.addHandler(handler)
    try:
        converter.start()
    except NbGraderException as error:
        raise CourseError(_refusal(assignment, log.getvalue())) from error
    finally:
        converter.log.removeHandler(handler)


def _refusal(assignment: Assignment, log: str) -> str:
    if "there are submissions associated" in log:
        return (
            f"The gradebook refuses {assignment.name}: tasks were added, removed or renamed, but it holds submissions "
            "of the assignment as it was. Take the change back, or give the new version a name of its own. "
            f"`nbgrader db assignment remove {assignment.name} --force` forgets the submissions and their marks."
        )
    return f"nbgrader could not make {assignment.name}:\n{log.strip()}"


def _enter_into_gradebook(root: Path, course: Course, assignment: Assignment, workshop: Path) -> None:
    """Let nbgrader save the cells of a finished assignment, and its due date, in the course's own gradebook."""
    config = Config()
    configure(config, workshop, course)
    config.CourseDirectory.db_url = gradebook_url(root, course)
    _generate(config, assignment)
    with Gradebook(config.CourseDirectory.db_url, course.id) as gradebook:
        gradebook.update_or_create_assignment(assignment.name, duedate=assignment.due)


# What must never go out


def _leaks(folder: Path, script: Script, checks: Path) -> Iterator[str]:
    """Look at the files that students get, whatever made them."""
    answers = [answer for cell in script.cells if cell.task for _, answer in answers_of(cell)]
    hidden = _names_of_checks(checks)
    for file in _files(folder):
        text = (folder / file).read_text(encoding="utf-8")
        for place, source in _pieces(file, text):
            yield from (f"{place}: the answer {answer}" for answer in answers if find_answer(answer, [source]))
            yield from (f"{place}: the hidden check {name}" for name in hidden if re.search(rf"\b{name}\b", source))
            yield from (f"{place}: {word}" for word in (BEGIN, END) if word in source)
    yield from _left_in_cells(folder / f"{script.name}.ipynb", script)


def _pieces(file: Path, text: str) -> Iterator[tuple[str, str]]:
    """A file's text; of a notebook, the text of each cell."""
    if file.suffix != ".ipynb":
        yield str(file), text
        return
    for cell in nbformat.reads(text, as_version=4).cells:
        yield f"{file}, cell {cell.id}", cell.source


def _left_in_cells(path: Path, script: Script) -> Iterator[str]:
    """Outputs, and lines of answers that stayed in their own cells."""
    cells = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}
    for cell_id, cell in cells.items():
        if cell.get("outputs") or cell.get("execution_count") is not None:
            yield f"{path.name}, cell {cell_id}: an output"
    for cell in script.cells:
        answer, visible = solution_region(cell.source)
        left = set(cells[cell.cell_id].source.split("\n")) & (set(answer) - set(visible))
        yield from (
            f"{path.name}, cell {cell.cell_id}: the line {line.strip()}" for line in sorted(left) if line.strip()
        )


def _names_of_checks(path: Path) -> list[str]:
    """Names of the classes, checks and probes in a file of hidden checks."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = (node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return sorted({name for name in names if re.match(r"test_|Test[A-Z]", name)})


# The files beside the notebook


_README = """\
# {title}

{facts}

## Start

You need Python 3.11, 3.12 or 3.13. Once, in this folder:

```
python -m venv .venv
source .venv/bin/activate    # on Windows: .venv\\Scripts\\activate
pip install -r requirements.txt
```

Then `jupyter lab {name}.ipynb` opens the assignment.

## Work

Put your answer where a function says `raise NotImplementedError`; keep its name and its arguments. The cell below each
task checks your answer on an example; it needs `expect.py`, so keep that file beside the notebook. Further checks,
which you do not see, share the points of a task among them. Cells that use a task raise an error until it is solved:
run them one at a time.

| Task | Points |
|---|---:|
{tasks}

## Hand in

Choose *Restart Kernel and Run All Cells*, see that your answers still work, save, and hand in this file under its name:
`{name}.ipynb`.{late}

You may leave tasks unsolved, although the run then stops at the first of them: each task is graded by itself.
"""


def _readme(course: Course, assignment: Assignment, script: Script) -> str:
    due = assignment.due
    facts = [course.title, f"{assignment.points:g} points"]
    if due:
        facts.append(f"due {due:%Y-%m-%d, %H:%M} ({due.tzname()})")
    return _README.format(
        title=assignment.title,
        facts=" · ".join(facts),
        name=assignment.name,
        tasks="\n".join(f"| `{cell.checks}` | {cell.points:g} |" for cell in script.cells if cell.checks),
        late=_late(assignment.late) if due else "",
    )


def _late(policy: LatePolicy) -> str:
    sentences = []
    if policy.grace_minutes:
        sentences.append(f"Up to {policy.grace_minutes:g} minutes late cost nothing.")
    if policy.percent_per_day:
        sentences.append(f"Each day that begins after the due date costs {policy.percent_per_day:g}% of your marks.")
    if policy.closes_after_days is not None:
        sentences.append(f"What is more than {policy.closes_after_days:g} days late earns nothing.")
    return " ".join(["", *sentences])


def _requirements(constraints: Path) -> str:
    """What a student installs, in the versions that the course is tested with where it says them."""
    pins = {}
    for line in constraints.read_text(encoding="utf-8").splitlines() if constraints.is_file() else []:
        pin = re.match(r"\s*([\w.-]+)\s*==\s*([\d.]+)", line)
        if pin:
            pins[re.sub(r"[-_.]+", "-", pin[1]).lower()] = pin[2]
    return "".join(f"{name}~={pins[name]}\n" if name in pins else f"{name}\n" for name in STUDENT_PACKAGES)


# Folders


def _files(folder: Path) -> list[Path]:
    """The files in a folder and below, as paths relative to it."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not _LEFT_ALONE & set(path.parts))


def _differences(new: Path, old: Path) -> Iterator[tuple[Path, str]]:
    fresh, present = set(_files(new)), set(_files(old))
    for file in sorted(fresh | present):
        if file not in present:
            yield file, "is missing"
        elif file not in fresh:
            yield file, "is not part of the assignment"
        elif (new / file).read_bytes() != (old / file).read_bytes():
            yield file, "is out of date"


def _mirror(new: Path, old: Path) -> None:
    """Make one folder hold the files of another."""
    for file, what in list(_differences(new, old)):
        if what == "is not part of the assignment":
            (old / file).unlink()
        else:
            (old / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(new / file, old / file)
