"""Every attack in one class, graded by the real commands: each gets what is honest in it and nothing else happens."""

import ctypes
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attack import TRIED, WORKED, Attack
from attacks import ATTACKS
from browsing import visiting
from conftest import TinyCourse
from controls import Bench
from course import HONEST, hand_in_honestly, write_hostile_course
from machine import Machine, machine
from nbgrader.api import Gradebook

from autograder.authoring import read_script
from autograder.course import Limits
from autograder.results import SubmissionResult, Verdict, load_result, result_path
from autograder.sandbox.room import Sandbox

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NOW = [attack for attack in ATTACKS if not attack.long]
each_attack = pytest.mark.parametrize("attack", NOW, ids=[attack.name for attack in NOW])


@dataclass(frozen=True)
class Graded:
    """A class that was graded."""

    course: TinyCourse
    grade: subprocess.CompletedProcess[str]
    feedback: subprocess.CompletedProcess[str]
    left_processes: list[str]
    left_folders: list[str]

    def result(self, student: str) -> SubmissionResult:
        """What grading found."""
        found = load_result(result_path(self.course.root, "shapes", student))
        assert found is not None, self.grade.stderr
        return found

    def read_by(self, student: str) -> str:
        """What a student gets to read: the feedback page, and what is printed about the submission."""
        page = self.course.root / "feedback" / student / "shapes" / "shapes.html"
        return page.read_text() + self.grade.stdout + self.grade.stderr + self.feedback.stdout + self.feedback.stderr

    def everything(self, student: str) -> str:
        """All that is recorded and shown of a submission, but for its own files and its own text."""
        page = self.course.root / "feedback" / student / "shapes" / "shapes.html"
        return self.result(student).model_dump_json() + (page.read_text() if page.exists() else "")


@pytest.fixture(scope="module")
def hostile_course(tmp_path_factory: pytest.TempPathFactory) -> TinyCourse:
    """The released course; nothing is handed in."""
    return write_hostile_course(tmp_path_factory.mktemp("hostile") / "course")


@pytest.fixture(scope="module")
def grading_machine(hostile_course: TinyCourse) -> Iterator[Machine]:
    with machine(hostile_course.root) as found:
        yield found


@pytest.fixture(scope="module")
def graded(hostile_course: TinyCourse, grading_machine: Machine, environment: dict[str, str]) -> Graded:
    """The class of all attacks, honest submissions between them."""
    course = hostile_course
    script = read_script(course.script)
    for student in HONEST:
        hand_in_honestly(course, student)
    for attack in NOW:
        attack.hand_in(course.root / "submitted" / attack.name / "shapes", script, grading_machine.known)
    return grade(course, {**environment, "GRADER_TOKEN": "token-of-the-grader"})


def grade(course: TinyCourse, environment: dict[str, str]) -> Graded:
    """Run `course grade` and `course feedback`, and look at what they leave behind."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what they leave running becomes a child of this process
    before = set(children())
    found = []
    for command in ("grade", "feedback"):
        line = ["course", command, "shapes", "--jobs", "4"]
        found.append(
            subprocess.run(line, cwd=course.root, env=environment, capture_output=True, text=True, check=False)
        )
    left = [name for pid, name in children().items() if pid not in before]
    ctypes.CDLL(None).prctl(36, 0)
    return Graded(course, *found, left, abandoned_folders())


def children() -> dict[int, str]:
    """Children of this process that still run, with their names."""
    found = {}
    for pid in map(int, Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()):
        state, name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0], f"/proc/{pid}/comm"
        if state != "Z":
            found[pid] = Path(name).read_text().strip()
    return found


def abandoned_folders(seconds: float = 30.0) -> list[str]:
    """Folders of sandboxes in /tmp in which no process writes any more; those of others come and go."""
    end = time.monotonic() + seconds
    while True:
        held = {str(link.readlink()) for link in Path("/proc").glob("[0-9]*/fd/2") if os.access(link, os.F_OK)}
        left = [str(path) for path in Path("/tmp").glob("course-sandbox-*") if f"{path}/stderr" not in held]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.2)


@pytest.fixture(scope="module")
def bench(graded: Graded, grading_machine: Machine, hostile_course: TinyCourse) -> Iterator[Bench]:
    """The same machine after grading, with nothing that stops an attack."""
    limits = Limits(memory_bytes=2 * 2**30, processes=64, files_bytes=64 * 2**20)
    with Sandbox("none", limits, hostile_course.root) as sandbox:
        yield Bench(hostile_course, grading_machine.known, sandbox, lambda: request.getfixturevalue("browser"))


# each attack


@each_attack
def test_an_attack_earns_what_is_honest_in_it(graded: Graded, attack: Attack) -> None:
    result = graded.result(attack.name)
    assert (result.verdict, tuple(task.earned for task in result.tasks)) == (attack.verdict, attack.marks), result
    assert attack.reason in result.reason
    assert (attack.verdict == Verdict.GRADED) == (not result.reason)


@each_attack
def test_an_attack_does_not_get_what_it_is_after(graded: Graded, attack: Attack) -> None:
    everything = graded.everything(attack.name)
    assert WORKED not in everything
    assert not attack.tries or TRIED in everything
    assert not attack.hidden or attack.hidden not in graded.read_by(attack.name)


@each_attack
def test_an_attack_works_where_nothing_stops_it(bench: Bench, attack: Attack) -> None:
    attack.control(attack, bench)


@pytest.mark.parametrize("attack", [attack for attack in NOW if attack.page], ids=lambda attack: attack.name)
def test_in_a_browser_a_page_does_nothing(graded: Graded, attack: Attack, browser: "Browser") -> None:
    path = graded.course.root / "feedback" / attack.name / "shapes" / "shapes.html"
    without_policy = re.sub('<meta http-equiv="Content-Security-Policy".*?>', "", path.read_text())
    with visiting(browser) as visitor:  # each of two walls by itself: what is left of the text, and the policy
        visitor.show(without_policy)
        visitor.click_on_everything("body")
        assert (visitor.attacks, visitor.asked_for) == ([], [])


# the rest of the class


def test_the_gradebook_holds_what_was_earned_and_nobody_else(graded: Graded) -> None:
    with Gradebook(f"sqlite:///{graded.course.root / 'gradebook.db'}", "tiny") as gradebook:
        marks = [(one.student.id, one.score) for one in gradebook.assignment_submissions("shapes")]
    expected = {attack.name: float(sum(attack.marks)) for attack in NOW} | dict.fromkeys(HONEST, 5.0)
    assert sorted(marks) == sorted(expected.items()), graded.grade.stderr


def test_honest_submissions_are_graded_as_if_there_were_no_attacks(
    graded: Graded, environment: dict[str, str], tmp_path: Path
) -> None:
    calm = write_hostile_course(tmp_path / "course")
    for student in HONEST:
        hand_in_honestly(calm, student)
    alone = grade(calm, environment)
    for student in HONEST:
        assert alone.result(student).score == 5.0
        assert without_times(graded.course, student) == without_times(calm, student)


def without_times(course: TinyCourse, student: str) -> tuple[str, str]:
    """A result as its file holds it, times left out, and the feedback page."""
    text = result_path(course.root, "shapes", student).read_text()
    page = course.root / "feedback" / student / "shapes" / "shapes.html"
    return re.sub(r'"(cpu|wall)_seconds": [0-9.e+-]+', "", text), page.read_text()


def test_nothing_is_left_behind(graded: Graded) -> None:
    assert graded.left_processes == []
    assert graded.left_folders == []


def test_nothing_came_out_of_the_sandbox(graded: Graded, grading_machine: Machine) -> None:
    assert graded.grade.returncode == 0
    assert grading_machine.heard == []
