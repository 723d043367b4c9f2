"""Whatever is handed in: a plain reason and what was earned, and every other submission as if it were not there."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run
from conftest import TinyCourse
from nbgrader.api import Gradebook

from autograder.authoring import read_script, solved_notebook
from autograder.results import load_result, result_path

Notebook = dict[str, Any]


def edited(change: Callable[[Notebook], object]) -> Callable[[Notebook], bytes]:
    """The right answers with a change to the notebook."""

    def make(notebook: Notebook) -> bytes:
        change(notebook)
        return json.dumps(notebook).encode()

    return make


def checks_cell(notebook: Notebook, task: str) -> Notebook:
    found: Notebook = next(
        cell for cell in notebook["cells"] if cell["metadata"].get("nbgrader", {}).get("grade_id") == f"{task}_checks"
    )
    return found


def without_metadata(notebook: Notebook) -> None:
    notebook["metadata"] = {}
    for cell in notebook["cells"]:
        cell["metadata"] = {}


def more_points(notebook: Notebook) -> None:
    checks_cell(notebook, "area")["metadata"]["nbgrader"]["points"] = 500


# What is handed in, the mark that it gets, and what the reason says where there is a fault.
INPUTS: dict[str, tuple[Callable[[Notebook], bytes], float, str]] = {
    "cut_off": (lambda notebook: json.dumps(notebook).encode()[:-200], 0, "is not JSON"),
    "format_3": (edited(lambda n: n.update(nbformat=3)), 0, "not a notebook of format 4"),
    "newer_minor": (edited(lambda n: n.update(nbformat_minor=99)), 5, ""),
    "deleted_check": (edited(lambda n: n["cells"].remove(checks_cell(n, "area"))), 5, ""),
    "more_points": (edited(more_points), 5, ""),
    "no_metadata": (edited(without_metadata), 5, ""),
    "no_cells": (edited(lambda n: n.update(cells=[])), 0, ""),
}


@pytest.fixture(scope="module")
def graded(
    released_once: TinyCourse, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A class of two good submissions and every bad one, graded once with the command."""
    root = tmp_path_factory.mktemp("bad") / "course"
    shutil.copytree(released_once.root, root)
    script = read_script(TinyCourse(root).script)

    def solved() -> Notebook:
        return json.loads(json.dumps(solved_notebook(script)))  # type: ignore[no-any-return]

    def folder(student: str, name: str = "shapes") -> Path:
        made = root / "submitted" / student / name
        made.mkdir(parents=True)
        return made

    good = json.dumps(solved()).encode()
    for student in ("a_good_one", "z_good_one"):
        (folder(student) / "shapes.ipynb").write_bytes(good)
    for student, (make, _, _) in INPUTS.items():
        (folder(student) / "shapes.ipynb").write_bytes(make(solved()))

    (folder("second_download") / "shapes (1).ipynb").write_bytes(good)
    (folder("other_case") / "Shapes.ipynb").write_bytes(good)
    (folder("other_folder", "Shapes") / "shapes.ipynb").write_bytes(good)
    (folder("name with spaces") / "shapes.ipynb").write_bytes(good)
    loose = root / "submitted" / "no_folder"
    loose.mkdir()
    (loose / "shapes.ipynb").write_bytes(good)
    return root, run(root, environment, "course", "grade", "shapes")


def marks(root: Path) -> dict[str, float]:
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}", "tiny") as gradebook:
        found = [(one.student.id, one.score) for one in gradebook.assignment_submissions("shapes")]
    assert len(dict(found)) == len(found)
    return dict(found)


EXPECTED = {
    "a_good_one": 5.0, "z_good_one": 5.0, **{student: float(mark) for student, (_, mark, _) in INPUTS.items()},
    "second_download": 0.0, "other_case": 0.0,
}  # fmt: skip


def test_each_gets_what_it_earned_and_the_others_are_not_concerned(graded: tuple[Path, Any]) -> None:
    root, command = graded
    assert marks(root) == EXPECTED, command.stderr
    assert "Traceback" not in command.stderr + command.stdout


@pytest.mark.parametrize("student", [student for student, (_, _, reason) in INPUTS.items() if reason])
def test_the_reason_is_plain(graded: tuple[Path, Any], student: str) -> None:
    root, command = graded
    result = load_result(result_path(root, "shapes", student))
    assert result is not None
    assert INPUTS[student][2] in result.reason
    assert "\n" not in result.reason
    (line,) = [line for line in command.stdout.splitlines() if line.startswith(f"{student}: ")]
    assert result.reason in line


def test_another_name_is_reported_with_the_likely_match_and_the_command_that_puts_it_right(
    graded: tuple[Path, Any], environment: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "course"
    shutil.copytree(graded[0], root)
    shutil.rmtree(root / "submitted" / "name with spaces")
    result = load_result(result_path(root, "shapes", "second_download"))
    assert result is not None
    assert result.reason == "there is no notebook shapes.ipynb in the submission; shapes (1).ipynb may be meant"
    told = graded[1].stdout.split("Under another name")[1].splitlines()[1:]
    assert [line.strip() for line in told] == [
        "mkdir submitted/no_folder/shapes && "
        "mv submitted/no_folder/shapes.ipynb submitted/no_folder/shapes/shapes.ipynb",
        "mv submitted/other_case/shapes/Shapes.ipynb submitted/other_case/shapes/shapes.ipynb",
        "mv submitted/other_folder/Shapes submitted/other_folder/shapes",
        "mv 'submitted/second_download/shapes/shapes (1).ipynb' submitted/second_download/shapes/shapes.ipynb",
    ]
    for line in told:
        subprocess.run(line, shell=True, cwd=root, check=True)
    again = run(root, environment, "course", "grade", "shapes")
    assert again.returncode == 0, again.stderr
    assert "Under another name" not in again.stdout
    renamed = {"no_folder", "other_case", "other_folder", "second_download"}
    assert marks(root) == EXPECTED | dict.fromkeys(renamed, 5.0)


def test_a_folder_that_can_be_no_student_is_named_and_the_exit_code_says_so(graded: tuple[Path, Any]) -> None:
    _, command = graded
    assert command.returncode == 1
    assert "submitted/name with spaces was left out" in command.stderr


def test_nbgraders_own_command_gives_the_same_marks_where_it_can_read_a_file(
    graded: tuple[Path, Any], environment: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "course"
    shutil.copytree(graded[0], root)
    shutil.rmtree(root / "submitted" / "name with spaces")
    done = run(root, environment, "nbgrader", "autograde", "shapes", "--force")
    after = marks(root)
    assert {student: after[student] for student in EXPECTED} == EXPECTED, done.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["grade", "shapes", "--student", "a_good_won"], "a_good_won has handed in no shapes; did you mean a_good_one"),
        (["grade", "shape"], "There is no assignment 'shape' in course_config.py; did you mean shapes?"),
        (["grade", "shapes", "--student", "../a"], "cannot be a student's identifier"),
        (["grade", "shapes", "--sandbox", "docker"], "'docker' is not one of 'bubblewrap', 'none'"),
        (["grade", "shapes", "--jobs", "0"], "0 is not in the range"),
        (["grade"], "Missing argument 'NAME'"),
        (["feedback", "shapes", "--student", "nobody"], "nobody has handed in no shapes"),
    ],
)
def test_a_command_that_is_typed_wrong_exits_with_2_and_changes_nothing(
    graded: tuple[Path, Any], environment: dict[str, str], command: list[str], said: str
) -> None:
    root, _ = graded
    before = marks(root)
    done = run(root, environment, "course", *command)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert marks(root) == before


def test_verbose_shows_where_an_error_came_from(graded: tuple[Path, Any], environment: dict[str, str]) -> None:
    root, _ = graded
    done = run(root, environment, "course", "--verbose", "grade", "shape")
    assert "Traceback (most recent call last)" in done.stderr
    assert "There is no assignment 'shape'" in done.stderr


def test_the_options_take_the_place_of_the_courses_settings(released: TinyCourse, environment: dict[str, str]) -> None:
    folder = released.root / "submitted" / "ada" / "shapes"
    folder.mkdir(parents=True)
    (folder / "shapes.ipynb").write_text(json.dumps(solved_notebook(read_script(released.script))))
    done = run(released.root, environment, "course", "grade", "shapes", "--sandbox", "none", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "graded WITHOUT a sandbox" in done.stdout
    assert 'sandbox="none": student code runs with all your rights' in done.stderr
    result = load_result(result_path(released.root, "shapes", "ada"))
    assert result is not None
    assert (result.sandbox, result.device) == ("none", "cpu")
    assert marks(released.root) == {"ada": 5.0}
    without_gpu = {**environment, "CUDA_VISIBLE_DEVICES": "none"}
    refused = run(released.root, without_gpu, "course", "grade", "shapes", "--device", "cuda")
    assert refused.returncode == 1
    assert "GPU" in refused.stderr and "Traceback" not in refused.stderr
