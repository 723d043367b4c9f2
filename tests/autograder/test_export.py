"""The table of marks, written by `course export` and by `nbgrader export`: what stands in it, and what it cannot do."""

import csv
import json
import shutil
from pathlib import Path

import commands
import pytest
from conftest import TinyCourse
from nbgrader.api import Gradebook

from autograder.authoring import read_script, solved_notebook
from autograder.export import COLUMNS, defused
from autograder.marks_log import log_begin
from autograder.results import SubmissionResult, Verdict, result_path, save_result

FORMULA = "=HYPERLINK(1)"


def run(root: Path, environment: dict[str, str], *command: str) -> str:
    done = commands.run(root, environment, *command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def hand_in(course: TinyCourse, student: str, content: bytes | None = None) -> None:
    folder = course.root / "submitted" / student / "shapes"
    folder.mkdir(parents=True)
    solved = json.dumps(solved_notebook(read_script(course.script))).encode()
    (folder / "shapes.ipynb").write_bytes(solved if content is None else content)


@pytest.fixture(scope="module")
def course(
    released_once: TinyCourse, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> TinyCourse:
    """Graded without a sandbox; then things happen to some of them."""
    root = tmp_path_factory.mktemp("exported") / "course"
    shutil.copytree(released_once.root, root)
    course = TinyCourse(root)
    for student in ("ada", "bob", "cut", "stopped", "unlucky"):
        hand_in(course, student)
    hand_in(course, "dan", b"{")
    (root / "submitted/ada/shapes/=1+1").mkdir()
    (root / "submitted/ada/shapes/=1+1/;@SUM(A1)").symlink_to("nowhere")
    run(root, environment, "course", "grade", "shapes", "--sandbox", "none")
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}", "tiny") as gradebook:
        gradebook.add_student(FORMULA)
        grade = gradebook.find_grade("area_checks", "shapes", "shapes", "bob")
        grade.manual_score = 0.5
        gradebook.db.commit()
    fault = SubmissionResult(
        assignment="shapes", student="unlucky", verdict=Verdict.GRADER_FAULT, reason="+no memory left"
    )
    save_result(result_path(root, "shapes", "unlucky"), fault)
    log_begin(root, "shapes", "stopped")
    hand_in(course, "new")
    run(root, environment, "course", "export")
    return course


def test_a_recorded_mark_stands_there_with_how_it_came_about(course: TinyCourse) -> None:
    ada = rows(course.root / "marks.csv")["ada"]
    assert (ada["assignment"], ada["score"], ada["max_score"]) == ("shapes", "5", "5")
    assert (ada["automatic"], ada["manual"], ada["late_penalty"], ada["device"]) == ("5", "", "0", "cpu")
    assert ada["verdict"] == "STUDENT_FAULT"  # a file of hers was left out
    assert len(ada["fingerprint"]) == 64 and ada["recorded_at"].endswith(" UTC")
    bob = rows(course.root / "marks.csv")["bob"]
    assert (bob["score"], bob["automatic"], bob["manual"], bob["verdict"]) == ("3.5", "5", "0.5", "GRADED")
    dan = rows(course.root / "marks.csv")["dan"]
    assert (dan["score"], dan["verdict"], dan["sandbox"]) == ("0", "STUDENT_FAULT", "")
    assert dan["reason"].startswith("the notebook is not JSON")


def test_marks_that_were_made_without_a_sandbox_say_so(course: TinyCourse) -> None:
    assert rows(course.root / "marks.csv")["ada"]["sandbox"] == "NONE: graded without a sandbox"


def test_a_mark_that_the_courses_settings_would_not_give_is_stale(course: TinyCourse) -> None:
    found = rows(course.root / "marks.csv")  # the course asks for bubblewrap
    assert (found["ada"]["stale"], found["dan"]["stale"]) == ("yes", "no")


@pytest.mark.parametrize(
    ("student", "reason"),
    [
        ("unlucky", "'+no memory left"),
        ("stopped", "recording was broken off"),
        ("new", "no mark was recorded"),
        (f"'{FORMULA}", "no mark was recorded"),
    ],
)
def test_where_there_is_no_whole_mark_its_cells_are_blank(course: TinyCourse, student: str, reason: str) -> None:
    row = rows(course.root / "marks.csv")[student]
    assert [row[name] for name in ("score", "automatic", "manual", "late_penalty", "stale")] == [""] * 5
    assert row["reason"].startswith(reason)


def test_no_cell_begins_a_formula(course: TinyCourse) -> None:
    for row in rows(course.root / "marks.csv").values():
        for cell in row.values():
            for part in [cell, *cell.split(";")]:
                assert not part.strip().startswith(("=", "+", "-", "@")), cell
    assert "=1+1" in rows(course.root / "marks.csv")["ada"]["reason"]  # which the student has chosen


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@A1", "'@A1"),
        ("\t=1", "'=1"),
        ("\r=1", "'=1"),
        ("\n=1", "'=1"),
        ("  =1", "'=1"),
        ("\x00=1", "'=1"),
        ("\uff1d1", "'\uff1d1"),
        ("a;=1", "a;'=1"),
        ("a, -1", "a, '-1"),
        ('"=1"', '"\'=1"'),
        ("2 - 1 = 1", "2 - 1 = 1"),
        ("cell 10: took more than 20 s", "cell 10: took more than 20 s"),
        ("", ""),
    ],
)
def test_words_are_made_harmless(text: str, cell: str) -> None:
    assert defused(text) == cell


def test_numbers_stay_numbers() -> None:
    assert [defused(value) for value in (None, 0.0, 1.33, 20.0)] == ["", "0", "1.33", "20"]


def test_nbgraders_own_command_writes_the_same(course: TinyCourse, environment: dict[str, str], tmp_path: Path) -> None:
    run(course.root, environment, "nbgrader", "export", "--to", str(tmp_path / "theirs.csv"))
    assert (tmp_path / "theirs.csv").read_bytes() == (course.root / "marks.csv").read_bytes()
    run(course.root, environment, "nbgrader", "export", "--student", "['ada']", "--to", str(tmp_path / "one.csv"))
    assert list(rows(tmp_path / "one.csv")) == ["ada"]


def test_the_file_and_the_assignment_can_be_chosen(course: TinyCourse, environment: dict[str, str]) -> None:
    said = run(course.root, environment, "course", "export", "shapes", "--to", "other.csv")
    assert said == "8 lines of marks are in other.csv\n"
    assert (course.root / "other.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    (course.root / "other.csv").unlink()


def test_the_log_of_marks_can_be_read(course: TinyCourse, environment: dict[str, str]) -> None:
    lines = run(course.root, environment, "course", "log", "shapes", "ada").splitlines()
    assert lines[0].split() == ["when", "student", "old", "new", "late", "why"]
    assert lines[1].split()[3:] == ["ada", "5", "first", "mark"]
    assert len(lines) == 2
