"""Attacks in one class, graded by the real commands: each gets what is honest in it and nothing else happens."""

import ctypes
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attack import TRIED, WORKED, Attack
from attacks import ATTACKS, FAMILIES
from browsing import visiting
from conftest import TinyCourse
from course import EXPECTED, HONEST, hand_in_honestly, write_hostile_course
from machine import Machine, machine
from nbgrader.api import Gradebook
from ordinary_user import USER, as_ordinary_user

from autograder.authoring import read_script
from autograder.course import load_course
from autograder.feedback import make_pages
from autograder.results import SubmissionResult, Verdict, load_result, result_path
from autograder.sandbox import folders

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
OFTEN = [attack for attacks in FAMILIES.values() for attack in [one for one in attacks if not one.long][:2]]
"""What `make test` grades; the long tests grade the others."""
SHOWN = [
    attack
    for attack in ATTACKS
    if attack in (*FAMILIES["active"], *FAMILIES["exfiltrating"]) or attack.name in ("strange_names", "line_of_its_own")
]
"""Attacks of which feedback pages are made: those that are after what is shown there."""


def each_of(attacks: Sequence[Attack]) -> pytest.MarkDecorator:
    """A test for each attack, long or not."""
    marked = [
        pytest.param(attack, id=attack.name, marks=() if attack in OFTEN else pytest.mark.long) for attack in attacks
    ]
    return pytest.mark.parametrize("attack", marked)


@dataclass(frozen=True)
class Graded:
    """A class that was graded."""

    course: TinyCourse
    command: subprocess.CompletedProcess[str]
    left_processes: list[str]
    left_folders: list[str]

    def result(self, student: str) -> SubmissionResult:
        """What grading found."""
        found = load_result(result_path(self.course.root, "shapes", student))
        assert found is not None, self.command.stderr
        return found

    def page(self, student: str) -> Path:
        """The feedback page."""
        return self.course.root / "feedback" / student / "shapes" / "shapes.html"

    def recorded(self, student: str) -> str:
        """What is recorded of a submission: the result, and the notebook with its outputs in the gradebook's folder."""
        notebook = self.course.root / "autograded" / student / "shapes" / "shapes.ipynb"
        outputs = (
            [cell.get("outputs") for cell in json.loads(notebook.read_text())["cells"]] if notebook.exists() else []
        )
        return self.result(student).model_dump_json() + json.dumps(outputs)


@pytest.fixture(scope="module")
def hostile_course(tmp_path_factory: pytest.TempPathFactory) -> TinyCourse:
    """The released course; nothing is handed in."""
    return write_hostile_course(tmp_path_factory.mktemp("hostile") / "course")


@pytest.fixture(scope="module")
def grading_machine(hostile_course: TinyCourse) -> Iterator[Machine]:
    with machine(hostile_course.root) as found:
        yield found


@pytest.fixture(scope="module")
def chosen(request: pytest.FixtureRequest) -> list[Attack]:
    """The attacks that tests of this run are about."""
    asked = [item.callspec.params.get("attack") for item in request.session.items if hasattr(item, "callspec")]
    return [attack for attack in ATTACKS if attack in asked]


@pytest.fixture(scope="module")
def graded(
    hostile_course: TinyCourse, grading_machine: Machine, chosen: list[Attack], environment: dict[str, str]
) -> Graded:
    """A class of attacks, honest submissions between them."""
    hand_in_all(hostile_course, grading_machine, chosen)
    graded = grade(hostile_course, {**environment, "GRADER_TOKEN": "token-of-the-grader"})
    shown = {*HONEST, *(attack.name for attack in chosen if attack in SHOWN)}
    pages = make_pages(hostile_course.root, load_course(hostile_course.root), "shapes", sorted(shown), jobs=2)
    assert {page.student for page in pages if page.outcome == "made"} == shown
    return graded


def hand_in_all(course: TinyCourse, here: Machine, attacks: Sequence[Attack]) -> None:
    """Hand in the honest submissions and attacks."""
    script = read_script(course.script)
    for student in HONEST:
        hand_in_honestly(course, student)
    for attack in attacks:
        attack.hand_in(course.root / "submitted" / attack.name / "shapes", script, here.known)


def grade(course: TinyCourse, environment: dict[str, str], as_user: Callable[[list[str]], list[str]] = list) -> Graded:
    """Run `course grade`, and look at what it leaves behind.

    Args:
        course: The course, submissions handed in.
        environment: Variables of the command.
        as_user: Makes of a command one that another user runs.
    """
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what it leaves running becomes a child of this process
    before = set(children())
    line = as_user(["course", "grade", "shapes", "--jobs", "4"])
    done = subprocess.run(line, cwd=course.root, env=environment, capture_output=True, text=True, check=False)
    left = [name for pid, name in children().items() if pid not in before]
    ctypes.CDLL(None).prctl(36, 0)
    return Graded(course, done, left, abandoned_folders())


def children() -> dict[int, str]:
    """Children of this process that still run, with their names."""
    found = {}
    for pid in map(int, Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()):
        state, name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0], f"/proc/{pid}/comm"
        if state != "Z":
            found[pid] = Path(name).read_text().strip()
    return found


def abandoned_folders(seconds: float = 30.0) -> list[str]:
    """Folders of sandboxes that no process holds any more; those of others come and go."""
    end = time.monotonic() + seconds
    while True:
        left = [str(path) for path in folders.parent_folder().glob(f"{folders.PREFIX}*") if not is_held(path)]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.2)


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock on a sandbox's folder."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return True  # it went just now
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


# each attack


@each_of(ATTACKS)
def test_an_attack_earns_what_is_honest_in_it(graded: Graded, attack: Attack) -> None:
    result = graded.result(attack.name)
    assert (result.verdict, tuple(task.earned for task in result.tasks)) == (attack.verdict, attack.marks), result
    assert attack.reason in result.reason
    assert (attack.verdict == Verdict.GRADED) == (not result.reason)


@each_of(ATTACKS)
def test_an_attack_does_not_get_what_it_is_after(graded: Graded, attack: Attack) -> None:
    recorded = graded.recorded(attack.name)
    assert WORKED not in recorded
    assert not attack.tries or TRIED in recorded


@each_of(SHOWN)
def test_a_student_reads_nothing_that_is_hidden(graded: Graded, attack: Attack) -> None:
    read = graded.page(attack.name).read_text() + graded.command.stdout + graded.command.stderr
    paths = {str(graded.course.root), sys.prefix, sys.base_prefix, str(Path.home())} - {"/usr", "/usr/local", "/"}
    assert [text for text in (*EXPECTED, *paths, "TestVolume", "gradient_of_area") if text in read] == []
    assert not attack.hidden or attack.hidden not in read


@each_of(FAMILIES["active"])
def test_in_a_browser_a_page_does_nothing(graded: Graded, attack: Attack, browser: "Browser") -> None:
    # Without the page's own policy, which would forbid the same once more.
    page = re.sub('<meta http-equiv="Content-Security-Policy".*?>', "", graded.page(attack.name).read_text())
    with visiting(browser) as visitor:
        visitor.show(page)
        visitor.click_on_everything("body")
        assert (visitor.attacks, visitor.asked_for) == ([], [])


# the rest of the class


def test_the_gradebook_holds_what_was_earned_and_nobody_else(graded: Graded, chosen: list[Attack]) -> None:
    with Gradebook(f"sqlite:///{graded.course.root / 'gradebook.db'}", "tiny") as gradebook:
        marks = [(one.student.id, one.score) for one in gradebook.assignment_submissions("shapes")]
    expected = {attack.name: float(sum(attack.marks)) for attack in chosen} | dict.fromkeys(HONEST, 5.0)
    assert sorted(marks) == sorted(expected.items()), graded.command.stderr


@pytest.mark.long
def test_honest_submissions_are_graded_as_if_there_were_no_attacks(
    graded: Graded, environment: dict[str, str], tmp_path: Path
) -> None:
    calm = write_hostile_course(tmp_path / "course")
    for student in HONEST:
        hand_in_honestly(calm, student)
    alone = grade(calm, environment)
    assert len(list(make_pages(calm.root, load_course(calm.root), "shapes", HONEST))) == len(HONEST)
    for student in HONEST:
        assert alone.result(student).score == 5.0
        assert without_times(graded, student) == without_times(alone, student)
        assert graded.page(student).read_bytes() == alone.page(student).read_bytes()


def without_times(graded: Graded, student: str) -> str:
    """A result as its file holds it, times left out."""
    text = result_path(graded.course.root, "shapes", student).read_text()
    return re.sub(r'"(cpu|wall)_seconds": [0-9.e+-]+', "", text)


def test_nothing_is_left_behind(graded: Graded) -> None:
    assert graded.left_processes == []
    assert graded.left_folders == []


def test_nothing_came_out_of_the_sandbox(graded: Graded, grading_machine: Machine) -> None:
    assert graded.command.returncode == 0
    assert grading_machine.heard == []


@pytest.mark.long
def test_for_an_ordinary_user_attacks_come_to_the_same(environment: dict[str, str]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ordinary-", dir="/tmp"))
    try:
        course = write_hostile_course(folder / "course")
        with machine(course.root) as here:
            hand_in_all(course, here, ATTACKS)
            home = {"HOME": str(folder), "TMPDIR": "/tmp", "JUPYTER_CONFIG_DIR": str(folder / ".jupyter")}
            if os.getuid() == 0:
                subprocess.run(["chown", "-Rh", f"{USER}:{USER}", str(folder)], check=True)
            needed = [Path(sys.base_prefix), Path(sys.prefix), ROOT]
            graded = grade(course, {**environment, **home}, lambda line: as_ordinary_user(line, needed))
            assert here.heard == []
        assert {student: graded.result(student).score for student in HONEST} == dict.fromkeys(HONEST, 5.0)
        for attack in ATTACKS:
            result = graded.result(attack.name)
            assert (result.verdict, tuple(task.earned for task in result.tasks)) == (attack.verdict, attack.marks), (
                result
            )
            assert WORKED not in graded.recorded(attack.name)
    finally:
        shutil.rmtree(folder)
