"""Every attack works where nothing stops it: otherwise its failure in the sandbox would prove nothing."""

from collections.abc import Iterator

import pytest
from attack import Attack
from attacks import ATTACKS, FAMILIES
from controls import Bench
from course import hand_in_honestly, write_hostile_course
from machine import machine

from autograder.course import Limits
from autograder.results import result_path
from autograder.sandbox.room import Sandbox

NOW = {attack.name for attacks in FAMILIES.values() for attack in [one for one in attacks if not one.long][:1]}
"""Controls that `make test` runs; the long tests run them all."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A course with another student's submission and result, and nothing that stops an attack on them."""
    course = write_hostile_course(tmp_path_factory.mktemp("bare") / "course")
    hand_in_honestly(course, "a_honest")
    path = result_path(course.root, "shapes", "a_honest")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    limits = Limits(memory_bytes=2 * 2**30, processes=64, files_bytes=64 * 2**20)
    with machine(course.root) as here, Sandbox("none", limits, course.root) as sandbox:
        yield Bench(course, here.known, sandbox, lambda: request.getfixturevalue("browser"))


@pytest.mark.parametrize(
    "attack",
    [pytest.param(attack, id=attack.name, marks=() if attack.name in NOW else pytest.mark.long) for attack in ATTACKS],
)
def test_an_attack_works_where_nothing_stops_it(bench: Bench, attack: Attack) -> None:
    attack.control(attack, bench)
