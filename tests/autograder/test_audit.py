"""Tests of the tests: the committed findings, and an audit of a tiny course whose checks have known holes."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from audit_sample import rerun_sample
from click.testing import CliRunner
from conftest import TinyCourse, write_tiny_course

from autograder.audit import (
    Audit,
    TaskTable,
    audit,
    load_table,
    measured_digest,
    save_table,
    table_path,
    variant_problem,
    why_stale,
)
from autograder.audit_worker import Answer
from autograder.authoring import read_script
from autograder.cli import main
from autograder.course import load_course
from autograder.mutants import mutants_of
from autograder.variants import Variant

ROOT = Path(__file__).parents[2]
ASSIGNMENTS = [assignment.name for assignment in load_course(ROOT).assignments]

VARIANTS = """
from autograder.variants import alternative, mistake


@mistake("area", "one off")
def one_off():
    def area(side):
        return side.square() + 1


@mistake("area", "nothing is wrong with it")
def harmless():
    def area(side):
        return side * side


@mistake("area", "sometimes right")
def by_chance():
    def area(side):
        return side.square() + (torch.rand(()) < 0.5)


@mistake("volume", "it never ends by itself")
def exits():
    def volume(side, height):
        import os

        os._exit(0)


@mistake("volume", "it hangs")
def hangs():
    def volume(side, height):
        while True:
            pass


@alternative("volume", "wrong, really")
def wrong():
    def volume(side, height):
        return side + height


@alternative("area", "a product")
def product():
    def area(side):
        return side * side
"""


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_the_committed_findings_stand_for_what_is_there_and_meet_the_targets(assignment: str) -> None:
    assert why_stale(ROOT, assignment) == ""
    kept = load_table(ROOT, assignment)
    assert kept is not None
    assert kept.shortcomings == []
    assert kept.flaky == 0
    assert kept.checks > 0


SAMPLED = ("information_theory",)
"""What `make test` samples; the long tests sample the others."""


@pytest.mark.parametrize(
    "assignment", [pytest.param(name, marks=() if name in SAMPLED else pytest.mark.long) for name in ASSIGNMENTS]
)
def test_a_sample_of_the_audit_comes_out_as_committed(assignment: str) -> None:
    assert rerun_sample(ROOT, assignment, 1) == []


ANSWER = """\
    i = 0
    while i < 1:
        i += 1
    return abs(area(side)) * height * i"""
"""What makes a mutant that never ends, and one that computes the same since an area is not negative."""


@dataclass
class Audited:
    """A course whose checks have holes, and what an audit said of it."""

    root: Path
    found: Audit
    output: str
    exit_code: int

    def mutant(self, line: str) -> str:
        """The name of the mutant that has this line."""
        script = read_script(self.root / "solutions" / "shapes.py")
        mutants = [mutant for cell in script.cells if cell.task for mutant in mutants_of(cell.task, cell.source)]
        (found,) = [mutant.id for mutant in mutants if f"+    {line}" in mutant.diff.splitlines()]
        return found


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """Audited once with the command: a mistake that hangs, one of chance, variants that are not what they say, and a
    check of volume whose side of one lets the square be forgotten."""
    root = write_tiny_course(tmp_path_factory.mktemp("audited")).root
    (root / "tests" / "variants").mkdir()
    (root / "tests" / "variants" / "shapes.py").write_text(VARIANTS)
    solution, checks = root / "solutions" / "shapes.py", root / "tests" / "checks" / "test_shapes.py"
    solution.write_text(solution.read_text().replace("    return area(side) * height", ANSWER))
    checks.write_text(checks.read_text().replace("[2.0]), torch.tensor([3.5])", "[1.0]), torch.tensor([14.0])"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("autograder.audit.SEEDS", 6)
        result = CliRunner().invoke(main, ["audit", "shapes", "--jobs", "2", "--html", "report.html"])
    found = load_table(root, "shapes")
    assert found is not None, result.output
    return Audited(root, found, result.output, result.exit_code)


def test_an_audit_tells_what_is_wrong_with_checks(audited: Audited) -> None:
    area, volume = audited.found.tasks
    assert (area.mistakes, area.alternatives, area.accepted) == (3, 1, 1)
    assert (volume.mistakes, volume.caught, volume.alternatives, volume.accepted) == (2, 2, 1, 0)
    problems = audited.found.problems
    assert "one_off: also loses points in volume" in problems  # which it does not say
    assert "harmless: the mistake in area loses no points" in problems
    assert "wrong: right, but fails volume/test_box" in problems
    assert "area: 1 alternatives; 2 or more are asked for" in problems
    assert any(problem.startswith("by_chance: another verdict with seed") for problem in problems)
    assert audited.found.flaky == 1
    assert not any(problem.startswith("the ") for problem in problems)  # neither reference nor untouched release


def test_the_command_prints_all_of_it_and_fails_below_the_targets(audited: Audited) -> None:
    assert audited.exit_code == 1
    for problem in audited.found.shortcomings:
        assert problem in audited.output
    caught = sum(task.caught for task in audited.found.tasks)
    assert f"mistakes_caught={caught}/5 alternatives_accepted=1/2 flaky=1" in audited.output
    assert "fall short of what is asked of hidden checks" in audited.output


def test_a_mutant_that_no_check_notices_is_shown_as_a_diff(audited: Audited) -> None:
    volume = audited.found.tasks[1]
    assert volume.killed >= 3
    assert volume.survived >= 1  # with a side of one, its square may as well be left out
    assert volume.score < 0.95
    assert any(problem.startswith("volume: ") and "must be" in problem for problem in audited.found.shortcomings)
    assert "+    return abs(side) * height * i" in audited.output
    shown = (audited.root / "report.html").read_text()
    assert "<ins>+    return abs(side) * height * i</ins>" in shown
    assert "<script" not in shown


def test_crashing_and_endless_mutants_are_counted_apart(audited: Audited) -> None:
    volume = audited.found.tasks[1]
    assert audited.mutant("    pass") in audited.found.fates["timed out"]  # in place of `i += 1`
    assert audited.mutant("return abs(area(None)) * height * i") in audited.found.fates["crashed"]
    assert len(audited.found.fates["timed out"]) == volume.timed_out
    assert volume.crashed >= 1


@pytest.mark.long
def test_equivalents_are_proven_and_not_believed(audited: Audited) -> None:
    root = audited.root
    same = audited.mutant("return area(side) * height * i")
    other = audited.mutant("return abs(side) * height * i")
    killed = audited.mutant("return i")
    survivors = {survivor.id: survivor for survivor in audited.found.survivors}
    assert survivors[same].differs == ""
    assert survivors[same].compared > 20
    assert "random" in survivors[other].differs
    assert killed not in survivors
    listed = root / "tests" / "equivalents" / "shapes.toml"
    listed.parent.mkdir()
    entry = '[[mutant]]\nid = "{}"\nkind = "identical"\nreason = "an area is not negative"\n'
    try:
        listed.write_text("".join(entry.format(mutant) for mutant in (same, other, killed)))
        second = audit(root, "shapes", jobs=2, seeds=1)
    finally:
        listed.unlink()
    assert second.tasks[1].equivalent == 1
    assert second.tasks[1].survived == audited.found.tasks[1].survived - 1
    assert any(problem.startswith(f"{other} is declared identical, but differs") for problem in second.problems)
    assert f"{killed}: the list of equivalents names it, but there is no such mutant that survives" in second.problems


@pytest.mark.long
def test_a_sample_notices_what_is_not_as_committed(audited: Audited) -> None:
    killed = audited.mutant("return i")
    findings = table_path(audited.root, "shapes")
    before = findings.read_text()
    audited.found.fates["crashed"].append(killed)
    try:
        save_table(audited.root, audited.found)
        wrong = rerun_sample(audited.root, "shapes", 100, jobs=2)
    finally:
        audited.found.fates["crashed"].remove(killed)
        findings.write_text(before)
    assert [one for one in wrong if "on record" in one] == [f"{killed} in volume: killed, where crashed is on record"]
    assert "harmless: the mistake in area loses no points" in wrong


def test_a_changed_check_makes_the_findings_stale(tiny_course: TinyCourse) -> None:
    root = tiny_course.root
    assert why_stale(root, "shapes").startswith("shapes was never audited")
    save_table(root, Audit("shapes", measured_digest(root, "shapes"), [TaskTable("area", killed=3)]))
    assert why_stale(root, "shapes") == ""
    kept = load_table(root, "shapes")
    assert kept is not None
    assert kept.tasks == [TaskTable("area", killed=3)]
    checks = root / "tests" / "checks" / "test_shapes.py"
    checks.write_text(checks.read_text() + "\n")
    assert "has changed since it was audited: run `course audit shapes`" in why_stale(root, "shapes")


def test_checks_that_cannot_be_collected_end_the_audit_with_the_reason(
    tiny_course: TinyCourse, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny_course.root
    (root / "tests" / "variants").mkdir()
    (root / "tests" / "variants" / "shapes.py").write_text(VARIANTS)
    (root / "tests" / "checks" / "test_shapes.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(root)
    result = CliRunner().invoke(main, ["audit", "shapes", "--jobs", "1"])
    assert result.exit_code == 1
    assert "nowhere_to_be_found" in result.output


def test_a_mistake_may_lose_points_where_it_says_so() -> None:
    variant = Variant("area", "mistake", "", "one_off", "", also=("volume",))
    answer = Answer(runs=((("area", "test_three", "refused"), ("volume", "test_box", "refused")),))
    assert variant_problem(variant, answer) == ""
