"""Attacks of each family, graded by an ordinary user: what protects against them needs no rights of root."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from attack import TRIED, WORKED, Attack
from attacks import ATTACKS, FAMILIES
from conftest import TinyCourse
from course import hand_in_honestly, write_hostile_course
from machine import machine
from ordinary_user import as_ordinary_user, give_to_ordinary_user

from autograder.authoring import read_script
from autograder.results import Verdict, load_result, result_path

MORE = (
    "kills_its_parent", "signals_the_grader", "forks", "hides_memory", "fills_folders", "leaves_files_a",
    "leaves_files_z", "writes_among_packages",
)  # fmt: skip
FIRST = [next(attack for attack in attacks if not attack.long and not attack.place) for attacks in FAMILIES.values()]
CHOSEN = [attack for attack in ATTACKS if attack in FIRST or attack.name in MORE]


@pytest.fixture(scope="module")
def graded(environment: dict[str, str]) -> Iterator[TinyCourse]:
    """The class of those attacks and an honest submission, graded by an ordinary user who owns the course."""
    folder = Path(tempfile.mkdtemp(prefix="ordinary-", dir="/tmp"))
    folder.chmod(0o755)
    course = write_hostile_course(folder / "course")
    script = read_script(course.script)
    hand_in_honestly(course, "honest")
    with machine(course.root) as found:
        for attack in CHOSEN:
            attack.hand_in(course.root / "submitted" / attack.name / "shapes", script, found.known)
        give_to_ordinary_user(folder)
        program = "import os; from autograder.cli import main; assert os.getuid() != 0; main()"
        line = as_ordinary_user(
            [sys.executable, "-c", program, "grade", "shapes"],
            [Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2]],
        )
        theirs = {**environment, "HOME": str(folder), "TMPDIR": "/tmp", "JUPYTER_CONFIG_DIR": str(folder / ".jupyter")}
        done = subprocess.run(line, env=theirs, cwd=course.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert found.heard == []
    yield course
    shutil.rmtree(folder)


@pytest.mark.parametrize("attack", CHOSEN, ids=[attack.name for attack in CHOSEN])
def test_an_attack_comes_to_the_same_where_an_ordinary_user_grades(graded: TinyCourse, attack: Attack) -> None:
    found = load_result(result_path(graded.root, "shapes", attack.name))
    assert found is not None
    assert (found.verdict, tuple(task.earned for task in found.tasks)) == (attack.verdict, attack.marks)
    everything = found.model_dump_json()
    assert WORKED not in everything
    assert not attack.tries or TRIED in everything


def test_an_honest_submission_between_them_earns_everything(graded: TinyCourse) -> None:
    found = load_result(result_path(graded.root, "shapes", "honest"))
    assert found is not None and (found.verdict, found.score) == (Verdict.GRADED, 5.0)
