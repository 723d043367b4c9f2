"""The hidden checks of every assignment against its variants: typical mistakes, and other right answers."""

from pathlib import Path

import pytest
from conftest import TinyCourse

from autograder.audit import Finding, audit_variants
from autograder.course import load_course

ROOT = Path(__file__).parents[2]
MIN_MISTAKES, MIN_ALTERNATIVES = 3, 2
"""For every task."""


@pytest.mark.parametrize("assignment", [assignment.name for assignment in load_course(ROOT).assignments])
def test_every_mistake_loses_points_in_its_own_task_and_every_alternative_earns_all(assignment: str) -> None:
    findings = audit_variants(ROOT, assignment)
    assert [finding.problem for finding in findings if finding.problem] == []
    tasks = {finding.task for finding in findings if finding.task}
    for task in tasks:
        kinds = [finding.kind for finding in findings if finding.task == task]
        assert kinds.count("mistake") >= MIN_MISTAKES, task
        assert kinds.count("alternative") >= MIN_ALTERNATIVES, task


def test_an_audit_tells_uncaught_mistakes_and_refused_alternatives(tiny_course: TinyCourse) -> None:
    variants = tiny_course.root / "tests" / "variants" / "shapes.py"
    variants.parent.mkdir()
    variants.write_text("""
from autograder.variants import alternative, mistake


@mistake("area", "one off")
def one_off():
    def area(side):
        return side.square() + 1


@mistake("area", "nothing is wrong with it")
def harmless():
    def area(side):
        return side * side


@mistake("volume", "it never ends by itself")
def exits():
    def volume(side, height):
        import os

        os._exit(0)


@alternative("volume", "wrong, really")
def wrong():
    def volume(side, height):
        return side * height


@alternative("area", "a product")
def product():
    def area(side):
        return side * side
""")
    findings = {finding.variant: finding for finding in audit_variants(tiny_course.root, "shapes")}
    assert findings[""].failed == ()
    assert findings["one_off"].problem == "one_off: also loses points in volume"  # volume needs area, which it must say
    assert findings["harmless"].problem == "harmless: the mistake in area loses no points"
    assert findings["exits"].ended == "it ended by itself"
    assert findings["exits"].problem == ""
    assert findings["wrong"].problem == "wrong: right, but fails volume/test_box"
    assert findings["product"].problem == ""


def test_a_mistake_may_lose_points_where_it_says_so() -> None:
    finding = Finding("one_off", "area", "mistake", ("area/test_three", "volume/test_box"), also=("volume",))
    assert finding.problem == ""
