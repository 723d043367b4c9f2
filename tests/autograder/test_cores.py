"""One core for each submission: who asks and who answers share it, and nobody else has it."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TinyCourse

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course
from autograder.grading import Grader

CORES = sorted(os.sched_getaffinity(0))

STAYS = """
import os, sys
from pathlib import Path
from autograder import cores, slots
slots.FOLDER = Path(sys.argv[1])
for _ in sys.stdin:
    with cores.one_core():
        print(*sorted(os.sched_getaffinity(0)), flush=True)
        sys.stdin.readline()
    print(*sorted(os.sched_getaffinity(0)), flush=True)
"""

CHECKS = """
import os
from pathlib import Path

import torch
from autograder import slots
from autograder.checks import probe, task

slots.FOLDER = Path({folder!r})


@task("area")
class TestArea:
    def test_core(self, student):
        '''Who asks and who answers are on as many cores as they should be, and on the same.'''
        cores = student.run(cores_of)
        assert cores == sorted(os.sched_getaffinity(0))
        assert len(cores) == int((slots.FOLDER / "expected").read_text())


@task("volume")
class TestVolume:
    def test_box(self, student):
        '''A box of side 2 and height 3.5 holds 14.'''
        assert student.volume(torch.tensor(2.0), torch.tensor(3.5)) == 14


@probe
def cores_of(ns):
    return sorted(torch.os.sched_getaffinity(0))
"""


def stay(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", STAYS, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    go_on(process)
    return process


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.write("\n")


def cores_of(process: "subprocess.Popen[str]") -> list[int]:
    assert process.stdout
    return [int(core) for core in process.stdout.readline().split()]


def test_each_has_a_core_of_its_own_as_long_as_there_are_any(tmp_path: Path) -> None:
    processes = [stay(tmp_path) for _ in CORES]
    had = [cores_of(process) for process in processes]
    assert sorted(had) == [[core] for core in CORES]
    with stay(tmp_path) as one_too_many:
        assert cores_of(one_too_many) == CORES
        one_too_many.kill()
    processes[0].kill()  # however it ends
    processes[0].wait()
    with stay(tmp_path) as next_one:
        assert cores_of(next_one) == had[0]
        next_one.kill()
    for process in processes:
        process.kill()
        process.communicate()


def test_a_core_is_given_back_as_soon_as_nothing_is_graded_there(tmp_path: Path) -> None:
    processes = [stay(tmp_path) for _ in CORES]
    had = [cores_of(process) for process in processes]
    go_on(processes[0])
    assert cores_of(processes[0]) == CORES
    with stay(tmp_path) as next_one:
        assert cores_of(next_one) == had[0]
        next_one.kill()
    go_on(processes[0])
    assert cores_of(processes[0]) == had[0]
    for process in processes:
        process.kill()
        process.communicate()


def test_locks_that_may_not_be_opened_keep_nobody_from_grading(tmp_path: Path) -> None:
    for core in CORES:
        (tmp_path / f"course-core-{core}.lock").symlink_to(tmp_path / "elsewhere")
    with stay(tmp_path) as process:
        assert cores_of(process) == CORES
        process.kill()
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture(scope="module")
def grader(released_once: TinyCourse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grader]:
    root = tmp_path_factory.mktemp("cores") / "course"
    shutil.copytree(released_once.root, root)
    course = TinyCourse(root)
    course.checks.write_text(CHECKS.format(folder=str(root)))
    (root / "expected").write_text("1")  # of the reference too
    with Grader(root, load_course(root), "shapes") as grader:
        yield grader


def score(grader: Grader, student: str) -> float:
    folder = grader.root / "submitted" / student / "shapes"
    folder.mkdir(parents=True)
    notebook = solved_notebook(read_script(grader.root / "solutions" / "shapes.py"))
    (folder / "shapes.ipynb").write_text(json.dumps(notebook))
    return grader.grade(student).score


def test_a_submission_shares_a_core_with_who_asks_it(grader: Grader) -> None:
    assert score(grader, "alone") == 5.0
    (grader.root / "expected").write_text(str(len(CORES)))
    locks = [(grader.root / f"course-core-{core}.lock").open("a") for core in CORES]
    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert score(grader, "late") == 5.0
    for lock in locks:
        lock.close()
