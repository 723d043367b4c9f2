"""What grading costs, in counts rather than seconds: imports, workers, engines and questions to the gradebook."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run
from conftest import Beforehand, TinyCourse
from nbconvert.exporters import Exporter
from nbconvert.preprocessors import Preprocessor
from nbformat import ValidationError, from_dict
from nbformat.v4 import new_notebook
from rooms import SECONDS, run_cell
from sqlalchemy import event

from autograder.authoring import read_script, solved_notebook
from autograder.checks import Student, probe
from autograder.course import load_course
from autograder.database import shared_engine
from autograder.gradebook import SubmissionExporter, ready_to_record, record
from autograder.grading import Grader
from autograder.results import load_result, result_path
from autograder.sandbox.room import Room
from autograder.terminal import grade_and_print

STUDENTS = ("ada", "bob", "cleo")
HEAVY = {"IPython", "jupytext", "matplotlib", "nbconvert", "nbformat", "nbgrader", "numpy", "pydantic", "pytest",
         "sqlalchemy", "torch"}  # fmt: skip


def imported_by(program: str, *arguments: str, folder: Path | None = None) -> set[str]:
    """The packages that a new interpreter has imported after a program."""
    program += "\nimport sys, json\nprint()\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_help_imports_nothing_that_takes_long() -> None:
    found = imported_by("from autograder.cli import main\nmain(['grade', '--help'], standalone_mode=False)")
    assert found & HEAVY == set()
    assert "click" in found


def test_the_reference_is_solved_without_nbgrader(tiny_course: TinyCourse) -> None:
    """The worker does so at every start, and nbgrader takes two seconds to import."""
    program = (
        "import sys\nfrom pathlib import Path\nimport autograder.worker, autograder.autograde, autograder.escapes\n"
        "from autograder.authoring import build_notebook, read_script, with_answers\n"
        "script = read_script(Path(sys.argv[1]))\nwith_answers(build_notebook(script), script)"
    )
    found = imported_by(program, str(tiny_course.script))
    assert found & {"nbgrader", "nbconvert", "sqlalchemy", "matplotlib", "IPython"} == set()
    assert "torch" in found


@pytest.fixture(scope="module")
def graded(
    released_once: TinyCourse, beforehand: Beforehand, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TinyCourse]:
    """Three submissions of the same, graded but not recorded."""
    root = tmp_path_factory.mktemp("costs") / "course"
    shutil.copytree(released_once.root, root)
    course = TinyCourse(root)
    for student in STUDENTS:
        folder = root / "submitted" / student / "shapes"
        folder.mkdir(parents=True)
        (folder / "shapes.ipynb").write_text(json.dumps(solved_notebook(read_script(course.script))))
    beforehand(course)
    yield course


def test_another_submission_compiles_no_statement_and_asks_no_more(graded: TinyCourse, tmp_path: Path) -> None:
    root = tmp_path / "course"
    shutil.copytree(graded.root, root)
    course = load_course(root)
    config = ready_to_record(root, course, "shapes")
    engine: Any = shared_engine(config.CourseDirectory.db_url, echo=False, future=True)
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *seen: asked.append(seen[2]))
    counts, compiled = [], []
    for student in STUDENTS:
        result = load_result(result_path(root, "shapes", student))
        assert result is not None
        asked.clear()
        record(root, course, result, config)
        counts.append(len(asked))
        compiled.append(len(engine._compiled_cache))
    assert compiled[1] == compiled[2]
    assert 10 < counts[0] == counts[1] == counts[2] <= 35


def test_a_recorded_notebook_is_validated_when_it_is_made_written_or_read(
    graded: TinyCourse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made and read before, written after it was graded; not after each of nbgrader's steps."""
    root = tmp_path / "course"
    shutil.copytree(graded.root, root)
    course = load_course(root)
    config = ready_to_record(root, course, "shapes")
    result = load_result(result_path(root, "shapes", "ada"))
    assert result is not None
    validated: list[object] = []
    monkeypatch.setattr("nbformat.validate", lambda *seen, **_: validated.append(seen))
    monkeypatch.setattr(Exporter, "_validate_preprocessor", lambda *seen: validated.append(seen))
    monkeypatch.setattr("jsonschema.validate", lambda *seen: validated.append(seen))  # of a cell's own metadata
    record(root, course, result, config)
    assert len(validated) == 3


def test_what_is_no_notebook_is_not_written() -> None:
    class Spoil(Preprocessor):  # type: ignore[misc]
        def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
            nb.cells.append(from_dict({"cell_type": "raw", "metadata": {}, "source": 7}))
            return nb, resources

    exporter = SubmissionExporter()
    exporter.register_preprocessor(Spoil, enabled=True)
    with pytest.raises(ValidationError):
        exporter.from_notebook_node(new_notebook())


def test_a_fork_of_a_warm_process_shares_huge_pages() -> None:
    program = (
        "from pathlib import Path\nfrom autograder.sandbox.forks import make_forks_cheap\n"
        "kept = [[i] for i in range(1_000_000)]\nmake_forks_cheap()\n"
        "print(Path('/proc/self/smaps_rollup').read_text().split('AnonHugePages:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    release = tuple(map(int, platform.release().split(".")[:2]))
    if release < (6, 1) or not Path("/sys/kernel/mm/transparent_hugepage").is_dir():
        pytest.skip("this kernel does not make huge pages of others")
    assert int(done.stdout) > 32 * 2**10, "KiB in huge pages"


@probe
def modules(ns):
    return sorted(torch.sys.modules)


def test_the_first_cell_of_a_submission_imports_nothing(room: Room) -> None:
    """What IPython imports with it was imported once, in the template."""
    student = Student(lambda frame: room.ask(frame, SECONDS))
    before = student.run(modules)
    run_cell(room, "1 + 1")
    assert student.run(modules) == before


def test_a_submission_s_checks_import_nothing(released: TinyCourse, tmp_path: Path) -> None:
    """Each submission's checks run in a fork of the worker: what only they import, they would import each time."""
    found = tmp_path / "imported"
    released.edit(
        released.checks,
        "        assert_close(student.area(torch.tensor([1.7])), torch.tensor([2.89]))\n",
        "        import sys, pathlib\n        before = set(sys.modules)\n"
        "        assert_close(student.area(torch.tensor([1.7])), torch.tensor([2.89]))\n"
        f"        pathlib.Path({str(found)!r}).write_text(' '.join(set(sys.modules) - before))\n",
    )
    folder = released.root / "submitted" / "ada" / "shapes"
    folder.mkdir(parents=True)
    (folder / "shapes.ipynb").write_text(json.dumps(solved_notebook(read_script(released.script))))
    with Grader(released.root, load_course(released.root), "shapes") as grader:
        assert grader.grade("ada").score == 5.0
    assert found.read_text() == ""


def test_what_has_not_changed_starts_no_worker_imports_nothing_large_and_records_nothing(
    graded: TinyCourse, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "course"
    shutil.copytree(graded.root, root)
    no_notebook = root / "submitted" / "dan" / "shapes" / "shapes.ipynb"
    no_notebook.parent.mkdir(parents=True)
    no_notebook.write_text("{")
    done = run(root, environment, "course", "grade", "shapes")
    assert done.returncode == 0, done.stderr

    program = "from autograder.cli import main\nmain(['grade', 'shapes'], standalone_mode=False)"
    assert imported_by(program, folder=root) & {"nbgrader", "sqlalchemy", "torch"} == set()

    def never(*_: object) -> None:
        raise AssertionError("there was nothing to do")

    monkeypatch.setattr(Grader, "_grades", never)
    monkeypatch.setattr("autograder.gradebook.record", never)
    grade_and_print(root, load_course(root), "shapes", (*STUDENTS, "dan"), "lines")
