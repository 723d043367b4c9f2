"""Real parts for the tests: a course of two tiny tasks on disk."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autograder.course import Limits
from autograder.sandbox.room import Room, Sandbox

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CONFIG = """\
from autograder.course import Assignment, Course

course = Course(
    id="tiny",
    title="A tiny course",
    assignments=[Assignment(name="shapes", title="Shapes", points=5, due="2027-10-31T23:59+00:00")],
)
"""

SOLUTION = '''\
"""The tiny assignment: a square's area, and a box's volume that needs it."""

# %% [markdown]
# # Shapes
#
# The area of a square is $a^2$.

# %%
import torch
from expect import expect_close
from torch import Tensor

# %% [markdown]
# **Task 1 · `area`**

# %% task="area"
def area(side: Tensor) -> Tensor:
    """Area of squares, shape (...), from their sides, shape (...)."""
    ### BEGIN SOLUTION
    squared = side.square()
    return squared
    ### END SOLUTION

# %% checks="area" points=2
expect_close(area(torch.tensor([3.0])), [9.0], "A square of side 3 has area 9.")

# %% tags=["demo"]
picture = [area(torch.tensor(side)) for side in (1.0, 2.0)]
print(picture)

# %% task="volume"
def volume(side: Tensor, height: Tensor) -> Tensor:
    """Volume of boxes on squares."""
    ### BEGIN SOLUTION
    return area(side) * height
    ### END SOLUTION

# %% checks="volume" points=3
expect_close(volume(torch.tensor([3.0]), torch.tensor([2.0])), [18.0], "Twice as high as its floor of 9.")
'''

HELPER = '''\
"""The helper behind the visible checks."""

import torch


def expect_close(actual, expected, sentence):
    assert torch.allclose(torch.as_tensor(actual), torch.as_tensor(expected)), sentence
'''

CHECKS = '''\
"""Hidden checks of the tiny assignment."""

import torch
from autograder.checks import assert_close, check, probe, task


@task("area")
class TestArea:
    def test_three(self, student):
        """A side of 1.7 makes an area of 2.89."""
        assert_close(student.area(torch.tensor([1.7])), torch.tensor([2.89]))

    @check(hint="Is it differentiable?", weight=2)
    def test_gradient(self, student):
        """The area's gradient is twice the side."""
        assert_close(student.run(gradient_of_area, torch.tensor([1.5])), torch.tensor([3.0]))


@task("volume", needs=("area",))
class TestVolume:
    def test_box(self, student):
        """A box of side 2 and height 3.5 holds 14."""
        assert_close(student.volume(torch.tensor([2.0]), torch.tensor([3.5])), torch.tensor([14.0]))


@probe
def gradient_of_area(ns, side):
    side = side.requires_grad_()
    return torch.autograd.grad(ns.area(side).sum(), side)[0]
'''


def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto`, one process more than there are cores: much of the tests' time is waiting for time limits."""
    return len(os.sched_getaffinity(0)) + 1


@dataclass(frozen=True)
class TinyCourse:
    """A course in a folder of its own: the assignment `shapes`, with the tasks `area` (2) and `volume` (3 points)."""

    root: Path

    @property
    def script(self) -> Path:
        """The reference solution; edit it to break one thing."""
        return self.root / "solutions" / "shapes.py"

    @property
    def checks(self) -> Path:
        """The hidden checks."""
        return self.root / "tests" / "checks" / "test_shapes.py"

    @property
    def config(self) -> Path:
        """`course_config.py`."""
        return self.root / "course_config.py"

    def edit(self, path: Path, old: str, new: str) -> None:
        """Replace a text that a file holds exactly once."""
        text = path.read_text()
        assert text.count(old) == 1, f"{path.name} holds {text.count(old)} times: {old}"
        path.write_text(text.replace(old, new))


def with_first_cell(notebook: dict[str, Any], source: str) -> dict[str, Any]:
    """The notebook with another code cell before all others."""
    cell = {
        "cell_type": "code",
        "id": "first",
        "metadata": {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }
    return {**notebook, "cells": [cell, *notebook["cells"]]}


def write_tiny_course(root: Path) -> TinyCourse:
    """Write the tiny course: settings for it and for nbgrader, helper, solution, hidden checks. Nothing is built."""
    course = TinyCourse(root)
    for path in (course.script, course.checks):
        path.parent.mkdir(parents=True)
    course.config.write_text(CONFIG)
    (root / "nbgrader_config.py").write_text((Path(__file__).parents[1] / "nbgrader_config.py").read_text())
    (course.script.parent / "expect.py").write_text(HELPER)
    course.script.write_text(SOLUTION)
    course.checks.write_text(CHECKS)
    return course


@pytest.fixture
def tiny_course(tmp_path: Path) -> TinyCourse:
    """The tiny course in a folder of its own, as `write_tiny_course` leaves it."""
    return write_tiny_course(tmp_path / "course")


@pytest.fixture(scope="session")
def released_once(tmp_path_factory: pytest.TempPathFactory) -> TinyCourse:
    """A tiny course that is released; not to be changed."""
    from autograder.course import load_course
    from autograder.release import release

    course = write_tiny_course(tmp_path_factory.mktemp("released") / "course")
    release(course.root, load_course(course.root))
    return course


@pytest.fixture
def released(released_once: TinyCourse, tmp_path: Path) -> TinyCourse:
    """A released tiny course, gradebook included, for one test: a copy, because making a gradebook takes seconds."""
    shutil.copytree(released_once.root, tmp_path / "released")
    return TinyCourse(tmp_path / "released")


Beforehand = Callable[[TinyCourse], None]


@pytest.fixture(scope="session")
def beforehand(released_once: TinyCourse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beforehand]:
    """Grades what is handed in to a released tiny course, with one warm worker for all tests.

    The results lie in `results/` then, and commands have only to record them: they start no worker, which takes more
    computing time than all else that a test does. Only for courses that differ from the tiny one in nothing that
    decides a result: others fail here.
    """
    from autograder.course import load_course
    from autograder.grading import Grader
    from autograder.results import result_path, save_result

    root = tmp_path_factory.mktemp("beforehand") / "course"
    shutil.copytree(released_once.root, root)
    with Grader(root, load_course(root), "shapes") as grader:

        def grade(course: TinyCourse) -> None:
            theirs = Grader(course.root, load_course(course.root), "shapes")
            for folder in (course.root / "submitted").glob("*/shapes"):
                student = folder.parent.name
                shutil.rmtree(root / "submitted", ignore_errors=True)
                shutil.copytree(folder, root / "submitted" / student / "shapes", symlinks=True)
                result = grader.grade(student, force=True)
                assert theirs.would_find(result), f"other things decide the result of {student}"
                save_result(result_path(course.root, "shapes", student), result)

        yield grade


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for commands: the tests' own Python first on PATH, and no settings of whoever runs the tests."""
    home = tmp_path_factory.mktemp("home")
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "jupyter"),
        "IPYTHONDIR": str(home / "ipython"),
    }


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A warm sandbox with the smallest limits that a course may set."""
    limits = Limits(memory_bytes=2 * 2**30, processes=32, files_bytes=4 * 2**20, wall_factor=2)
    with Sandbox("bubblewrap", limits, tmp_path_factory.mktemp("course")) as sandbox:
        yield sandbox


@pytest.fixture
def room(sandbox: Sandbox) -> Iterator[Room]:
    """A new room in the sandbox."""
    room = sandbox.open()
    yield room
    room.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A headless Chromium: this machine's, else the one that `playwright install chromium` has fetched."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium
        program = shutil.which("chromium") or shutil.which("google-chrome") or chromium.executable_path
        if not Path(program).exists():
            missing = "Chromium is not installed: type `apt-get install chromium` or `playwright install chromium`"
            pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
        browser = chromium.launch(executable_path=program)
        yield browser
        browser.close()
