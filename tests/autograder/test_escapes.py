"""Nothing is graded where student code could leave its room: the walls are weakened on purpose, in real commands."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TinyCourse

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course
from autograder.recorded import read_marks

SHARED_NETWORK = """
from autograder.sandbox import bubblewrap

made = bubblewrap.arguments
bubblewrap.arguments = lambda walls, sources: [*made(walls, sources), "--share-net"]
template = bubblewrap.write_room

def without_networks_of_their_own(folder):
    room = template(folder)
    path = room / "autograder" / "sandbox" / "template.py"
    path.write_text(path.read_text().replace(" | lockdown.CLONE_NEWNET)", ")"))
    return room

bubblewrap.write_room = without_networks_of_their_own
"""
"""Run by every Python that the command starts, before anything else: rooms that are connected to this machine."""


@pytest.fixture
def handed_in(released: TinyCourse) -> TinyCourse:
    """The released tiny course with one submission, which is right."""
    place = released.root / "submitted" / "ada" / "shapes"
    place.mkdir(parents=True)
    (place / "shapes.ipynb").write_text(json.dumps(solved_notebook(read_script(released.script))))
    return released


@pytest.fixture
def weakened(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """An environment in which rooms share this machine's network."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SHARED_NETWORK)
    path = f"{folder}:{Path(__file__).parents[2]}"
    return {**environment, "PYTHONPATH": path}


def run(course: TinyCourse, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    program = "autograder.cli" if words[0] == "course" else "nbgrader.apps.nbgraderapp"
    command = [sys.executable, "-c", f"from {program} import main; main()", *words[1:]]
    return subprocess.run(command, cwd=course.root, env=environment, capture_output=True, text=True, check=False)


GRADE = ("course", "grade", "shapes")
AUTOGRADE = ("nbgrader", "autograde", "shapes")


@pytest.mark.parametrize("command", [pytest.param(GRADE, marks=pytest.mark.long), AUTOGRADE])
def test_where_a_way_out_works_nothing_is_graded(
    handed_in: TinyCourse, weakened: dict[str, str], command: tuple[str, ...]
) -> None:
    done = run(handed_in, weakened, *command)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "on this machine student code can reach a network, so nothing is graded. `course doctor` tells more" in said
    assert not list((handed_in.root / "results" / "shapes").glob("*.json"))
    marks = read_marks(handed_in.root, load_course(handed_in.root), "shapes")
    assert [mark for mark in marks.values() if mark.automatic is not None] == []  # nbgrader enters who handed in
    assert not list((handed_in.root / "autograded").glob("*/shapes/*"))


@pytest.mark.long
def test_without_a_sandbox_there_is_nothing_to_leave_and_every_result_says_so(
    handed_in: TinyCourse, weakened: dict[str, str]
) -> None:
    done = run(handed_in, weakened, *GRADE, "--sandbox", "none", "--json")
    assert done.returncode == 0, done.stderr
    assert "WARNING" in done.stderr
    assert json.loads(done.stdout)["sandbox"] == "none"


@pytest.mark.long
@pytest.mark.parametrize("command", [GRADE, AUTOGRADE], ids=lambda command: command[0])
def test_where_the_walls_stand_the_same_commands_grade(
    handed_in: TinyCourse, environment: dict[str, str], command: tuple[str, ...]
) -> None:
    done = run(handed_in, environment, *command)
    assert done.returncode == 0, done.stderr
    assert read_marks(handed_in.root, load_course(handed_in.root), "shapes")["ada"].score == 5.0
