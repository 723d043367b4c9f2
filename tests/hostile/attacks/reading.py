"""Attacks that look for what a submission must not see: checks, answers, other submissions, the grader's secrets."""

from attack import Attack
from controls import works_without_walls

ATTACKS = (
    Attack(
        name="reads_hidden_checks",
        what="Opens the hidden checks by their path in the course folder.",
        cell="""
tried("the file of the hidden checks")
if "TestArea" in open(COURSE + "/tests/checks/test_shapes.py").read():
    worked("read it")
""",
        control=works_without_walls,
    ),
)
