"""What `course status` says of a class that was really graded, after one thing has changed."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import run
from conftest import Beforehand, TinyCourse
from nbgrader.api import Gradebook
from nbgrader.utils import parse_utc

from autograder import recorded
from autograder.authoring import read_script, solved_notebook
from autograder.cli import main
from autograder.course import CourseError, load_course
from autograder.results import SubmissionResult, Verdict, load_result, result_path, save_result
from autograder.status import AssignmentStatus, State, StudentStatus, course_status
from autograder.timestamp import read_timestamp

WRONG_AREA = "def area(side):\n    return side.square() + 1"
ON_TIME, LATE = "2027-10-01 12:00:00 UTC", "2027-11-02 12:00:00 UTC"


def hand_in(course: TinyCourse, student: str, content: bytes | None = None, timestamp: str = ON_TIME) -> Path:
    """Put a submission where `nbgrader collect` would: the solution, unless it is another notebook."""
    folder = course.root / "submitted" / student / "shapes"
    folder.mkdir(parents=True, exist_ok=True)
    solved = json.dumps(solved_notebook(read_script(course.script))).encode()
    (folder / "shapes.ipynb").write_bytes(solved if content is None else content)
    (folder / "timestamp.txt").write_text(timestamp)
    return folder


@pytest.fixture(scope="module")
def graded_once(
    released_once: TinyCourse, beforehand: Beforehand, environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> TinyCourse:  # fmt: skip
    """Graded by the real command: one perfect, one half right, one late, one that is no notebook."""
    root = tmp_path_factory.mktemp("status") / "course"
    shutil.copytree(released_once.root, root)
    course = TinyCourse(root)
    course.edit(course.config, "import Assignment, Course", "import Assignment, Course, LatePolicy")
    course.edit(course.config, '+00:00")', '+00:00", late=LatePolicy(percent_per_day=10, grace_minutes=30))')
    hand_in(course, "ada")
    half = solved_notebook(read_script(course.script), {"area": WRONG_AREA})
    hand_in(course, "bob", json.dumps(half).encode())
    hand_in(course, "cleo", timestamp=LATE)
    hand_in(course, "dan", b"{")
    beforehand(course)
    done = run(root, environment, "course", "grade", "shapes")
    assert done.returncode == 0, done.stderr
    return course


@pytest.fixture
def graded(graded_once: TinyCourse, tmp_path: Path) -> TinyCourse:
    """A copy for one test."""
    shutil.copytree(graded_once.root, tmp_path / "graded")
    return TinyCourse(tmp_path / "graded")


def shapes(course: TinyCourse) -> AssignmentStatus:
    (found,) = course_status(course.root, load_course(course.root))
    return found


def student(course: TinyCourse, name: str) -> StudentStatus:
    return next(one for one in shapes(course).students if one.student == name)


def states(course: TinyCourse) -> dict[str, str]:
    return {one.student: one.state.value for one in shapes(course).students}


ALL_GRADED = dict.fromkeys(("ada", "bob", "cleo", "dan"), "graded")


def test_after_grading_nothing_is_stale(graded: TinyCourse) -> None:
    assert states(graded) == ALL_GRADED
    assert shapes(graded).counts() == {
        "submitted": 4, "graded": 4, "stale": 0, "grader fault": 0, "not graded": 0, "student fault": 1, "late": 1,
        "mark differs": 0,
    }  # fmt: skip
    marks = {one.student: (one.result, one.recorded) for one in shapes(graded).students}
    assert marks == {"ada": (5.0, 5.0), "bob": (1.33, 1.33), "cleo": (5.0, 4.0), "dan": (0.0, 0.0)}
    assert student(graded, "cleo").notes == ("late by 1 d 12 h", "late penalty 1")
    assert student(graded, "dan").notes[0].startswith("the notebook is not JSON")


def test_a_new_submission_makes_its_result_stale_and_no_other(graded: TinyCourse) -> None:
    hand_in(graded, "ada", (graded.root / "release/shapes/shapes.ipynb").read_bytes())
    assert states(graded) == {**ALL_GRADED, "ada": "stale"}


def test_what_does_not_decide_a_result_leaves_it(graded: TinyCourse) -> None:
    path = graded.root / "submitted/ada/shapes/shapes.ipynb"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    hand_in(graded, "dan", b"[")
    assert states(graded) == ALL_GRADED


def test_a_changed_check_makes_stale_what_it_judged(graded: TinyCourse) -> None:
    graded.edit(graded.checks, "weight=2", "weight=3")
    assert states(graded) == {**dict.fromkeys(ALL_GRADED, "stale"), "dan": "graded"}


def test_a_changed_limit_makes_results_stale(graded: TinyCourse) -> None:
    graded.edit(graded.config, "import Assignment,", "import Limits, Assignment,")
    graded.edit(graded.config, 'id="tiny",', 'id="tiny", limits=Limits(check_seconds=4),')
    assert states(graded)["ada"] == "stale"


def test_a_notebook_that_broke_or_was_mended_since_is_stale(graded: TinyCourse) -> None:
    hand_in(graded, "ada", b"")
    hand_in(graded, "dan")
    assert states(graded) == {**ALL_GRADED, "ada": "stale", "dan": "stale"}


def test_results_that_are_missing_damaged_or_of_a_failed_run(graded: TinyCourse) -> None:
    hand_in(graded, "eve")
    result_path(graded.root, "shapes", "bob").write_text("{")
    fault = SubmissionResult(assignment="shapes", student="ada", verdict=Verdict.GRADER_FAULT, reason="no memory left")
    save_result(result_path(graded.root, "shapes", "ada"), fault)
    shutil.rmtree(graded.root / "submitted" / "cleo")
    assert states(graded) == {
        "ada": "grader fault", "bob": "not graded", "cleo": "stale", "dan": "graded", "eve": "not graded"
    }  # fmt: skip
    assert shapes(graded).counts()["submitted"] == 4
    assert student(graded, "ada").notes == ("no memory left", "the gradebook holds a mark without a result")
    assert student(graded, "bob").notes[0] == "the stored result cannot be read"
    assert student(graded, "cleo").notes[0] == "the submission is gone"
    assert student(graded, "eve").notes == ()


@pytest.mark.parametrize(
    ("timestamp", "late"),
    [
        ("2027-10-31 23:59:00 UTC", False),
        ("2027-11-01 00:29:00 UTC", False),  # 30 minutes of grace
        ("2027-11-01 00:29:01 UTC", True),
        ("2027-11-01T02:00:00+02:00", False),
        ("", False),
    ],
)
def test_late_is_after_the_grace_minutes(graded: TinyCourse, timestamp: str, late: bool) -> None:
    hand_in(graded, "ada", timestamp=timestamp)
    assert student(graded, "ada").late == late
    assert states(graded) == ALL_GRADED  # a mark's penalty is the gradebook's, the result has none


def test_an_extension_in_the_gradebook_counts(graded: TinyCourse) -> None:
    with Gradebook(f"sqlite:///{graded.root / 'gradebook.db'}", "tiny") as gradebook:
        gradebook.find_submission("shapes", "cleo").extension = timedelta(days=2)
        gradebook.db.commit()
    assert not student(graded, "cleo").late
    hand_in(graded, "cleo", timestamp="2027-11-03 12:00:00 UTC")
    assert student(graded, "cleo").notes[0] == "late by 12 h 1 min"


@pytest.mark.parametrize("text", [ON_TIME, "2027-10-01 12:00:00.123456 UTC", "2027-10-01 12:00:00 +0100",
                                  "2027-10-01 12:00:00 Europe/Berlin", "2027-10-01T12:00:00+01:00", "2027-10-01 12:00",
                                  "2027-10-01 12:00:00 Nowhere"])  # fmt: skip
def test_timestamps_are_read_as_nbgrader_reads_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "timestamp.txt").write_text(text)
    found = read_timestamp(tmp_path)
    assert found is not None
    assert found.astimezone(UTC).replace(tzinfo=None) == parse_utc(text)


def test_a_timestamp_that_is_none_is_told(graded: TinyCourse) -> None:
    folder = hand_in(graded, "ada", timestamp="yesterday-ish")
    assert student(graded, "ada").notes == ("timestamp.txt cannot be read as a date",)
    (folder / "timestamp.txt").unlink()
    assert student(graded, "ada").notes == ()
    os.mkfifo(folder / "timestamp.txt")
    assert student(graded, "ada").notes == ("timestamp.txt cannot be read as a date",)


def test_a_mark_that_is_not_the_results_is_told(graded: TinyCourse) -> None:
    with Gradebook(f"sqlite:///{graded.root / 'gradebook.db'}", "tiny") as gradebook:
        gradebook.find_grade("area_checks", "shapes", "shapes", "ada").auto_score = 1.5
        gradebook.find_grade("area_checks", "shapes", "shapes", "bob").manual_score = 2.0
        gradebook.db.commit()
    assert shapes(graded).counts()["mark differs"] == 1
    assert student(graded, "ada").notes == ("the gradebook holds 4.5 points from the checks, the result 5",)
    bob = student(graded, "bob")  # marked by hand on purpose: nothing is wrong with that
    assert (bob.differs, bob.result, bob.recorded, bob.notes) == (False, 1.33, 2.0, ("marked by hand: area",))


def test_nothing_is_written_and_a_missing_gradebook_stays_missing(graded: TinyCourse) -> None:
    def files() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in (graded.root, *graded.root.rglob("*"))}

    before = files()
    shapes(graded)
    assert files() == before
    (graded.root / "gradebook.db").unlink()
    before = files()
    assert shapes(graded).counts()["mark differs"] == 4
    assert student(graded, "ada").notes == ("not in the gradebook",)
    assert files() == before


def test_a_gradebook_that_cannot_be_read_is_said(graded: TinyCourse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "_BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(graded.root / "gradebook.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CourseError, match="cannot be read: database is locked"):
            shapes(graded)
    (graded.root / "gradebook.db").write_bytes(b"x" * 5000)
    with pytest.raises(CourseError, match="cannot be read: file is not a database"):
        shapes(graded)


HALF_WRITTEN = """
import os, sqlite3
database = sqlite3.connect("gradebook.db")
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN IMMEDIATE")
database.execute("UPDATE grade SET auto_score = 0")
for number in range(20_000):
    database.execute("INSERT INTO course VALUES (?)", (f"{number:0200}",))
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_program_had_half_written_is_taken_back(graded: TinyCourse) -> None:
    subprocess.run([sys.executable, "-c", HALF_WRITTEN], cwd=graded.root, check=False)
    assert (graded.root / "gradebook.db-journal").exists()
    assert student(graded, "ada").recorded == 5.0
    assert states(graded) == ALL_GRADED


def test_an_empty_gradebook_holds_nothing(graded: TinyCourse) -> None:
    (graded.root / "gradebook.db").write_bytes(b"")
    assert student(graded, "ada").notes == ("not in the gradebook",)


def test_what_is_not_released_or_has_no_checks_is_said_and_the_rest_shown(graded: TinyCourse) -> None:
    graded.checks.unlink()
    assert "test_shapes.py" in shapes(graded).problem
    shutil.rmtree(graded.root / "release")
    found = shapes(graded)
    assert found.problem == "shapes has not been released: run `course release shapes` first."
    assert {one.state for one in found.students} == {State.STALE}
    shutil.rmtree(graded.root / "results")
    assert set(states(graded).values()) == {"not graded"}


def test_the_command_prints_a_table_and_for_one_assignment_each_student(
    graded: TinyCourse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(graded.root)
    hand_in(graded, "ada", b"")
    hand_in(graded, "e\x1b[2Jvil")
    done = CliRunner().invoke(main, ["status"])
    assert done.exit_code == 0
    heading, row = done.output.splitlines()
    assert heading.split("  ")[0] == "assignment"
    assert row.split() == ["shapes", "5", "3", "1", "0", "1", "1", "1", "0"]
    lines = CliRunner().invoke(main, ["status", "shapes"]).output.splitlines()
    assert lines[:3] == [heading, row, ""]
    assert re.split("  +", lines[4]) == ["ada", "stale", "5 of 5", "5", "changed since: submission"]
    assert re.split("  +", lines[6]) == ["cleo", "graded", "5 of 5", "4", "late by 1 d 12 h; late penalty 1"]
    assert lines[8].startswith("e?[2Jvil")
    wrong = CliRunner().invoke(main, ["status", "shape"])
    assert wrong.exit_code == 2 and "There is no assignment 'shape'" in wrong.output


def test_the_command_prints_json(graded: TinyCourse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(graded.root)
    (line,) = CliRunner().invoke(main, ["status", "--json"]).output.splitlines()
    assert json.loads(line) == {"name": "shapes", **shapes(graded).counts(), "problem": ""}
    found = json.loads(CliRunner().invoke(main, ["status", "shapes", "--json"]).output)
    assert [one["student"] for one in found["students"]] == ["ada", "bob", "cleo", "dan"]
    assert found["students"][2]["state"] == "graded" and found["students"][2]["late"]


def test_a_class_of_five_hundred_needs_neither_torch_nor_nbgrader(graded: TinyCourse) -> None:
    result = load_result(result_path(graded.root, "shapes", "ada"))
    assert result is not None
    for number in range(500):
        shutil.copytree(graded.root / "submitted/ada", graded.root / f"submitted/copy{number}")
        copy = result.model_copy(update={"student": f"copy{number}"})
        result_path(graded.root, "shapes", copy.student).write_text(copy.model_dump_json())
    program = (
        "import sys; from autograder.cli import main; main(['status'], standalone_mode=False)\n"
        "print(sorted({'torch', 'nbgrader', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=graded.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _, row, imported = done.stdout.splitlines()
    assert row.split()[:3] == ["shapes", "504", "504"]
    assert imported == "[]"
