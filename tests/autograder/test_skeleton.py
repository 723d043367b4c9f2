"""What `course new` writes is an assignment that works from the start."""

import pytest
from click.testing import CliRunner
from conftest import TinyCourse

from autograder.audit import audit
from autograder.cli import main
from autograder.course import load_course
from autograder.lint import lint


@pytest.fixture
def started(tiny_course: TinyCourse, monkeypatch: pytest.MonkeyPatch) -> tuple[TinyCourse, str]:
    """A course with a new assignment, entered as the command says, and what it said."""
    monkeypatch.chdir(tiny_course.root)
    result = CliRunner().invoke(main, ["new", "adding", "--title", "Bob's sums"])
    assert result.exit_code == 0, result.output
    (entry,) = [line.strip() for line in result.output.splitlines() if "Assignment(" in line]
    tiny_course.edit(tiny_course.config, "    assignments=[", f"    assignments=[{entry} ")
    return tiny_course, result.output


@pytest.mark.long
def test_it_meets_what_the_audit_asks(started: tuple[TinyCourse, str]) -> None:
    course, _ = started
    assert lint(course.root, load_course(course.root), ["adding"]) == []
    found = audit(course.root, "adding", jobs=1, seeds=2)
    assert found.shortcomings == []
    assert found.checks == 6
    assert found.tasks[0].killed > 10


def test_it_is_headed_as_asked_and_the_next_steps_are_told(started: tuple[TinyCourse, str]) -> None:
    course, output = started
    assert "# # Bob's sums\n" in (course.root / "solutions" / "adding.py").read_text()
    assert "course lint adding && course release adding && course audit adding" in output


def test_what_is_there_is_not_touched(started: tuple[TinyCourse, str]) -> None:
    course, _ = started
    before = (course.root / "solutions" / "adding.py").read_bytes()
    (course.root / "tests" / "variants" / "adding.py").unlink()
    result = CliRunner().invoke(main, ["new", "adding"])
    assert result.exit_code == 1
    assert "solutions/adding.py and tests/checks/test_adding.py exists already" in result.output
    assert (course.root / "solutions" / "adding.py").read_bytes() == before
    assert not (course.root / "tests" / "variants" / "adding.py").exists()


@pytest.mark.parametrize("name", ["Adding", "a-b", "../x", "1st"])
def test_a_name_that_can_be_none_is_refused(
    tiny_course: TinyCourse, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tiny_course.root)
    result = CliRunner().invoke(main, ["new", name])
    assert result.exit_code == 2
    assert "cannot be an assignment's name" in result.output
