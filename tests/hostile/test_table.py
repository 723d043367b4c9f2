"""The page on security says what the attacks are and what comes of them, and nothing else."""

import json

import pytest
from attacks import ATTACKS
from controls import RECORDED
from stock_nbgrader import record
from table import DOCUMENT, beaten_by, recorded, written


def test_the_page_on_security_is_what_the_attacks_say() -> None:
    document = DOCUMENT.read_text()
    assert written(document) == document, "run `python tests/hostile/table.py`"
    assert [attack.name for attack in ATTACKS if f"| `{attack.name}`: " not in document] == []


def test_stock_nbgrader_was_asked_about_every_attack_that_does_not_harm_the_machine() -> None:
    assert recorded().keys() == {attack.name for attack in ATTACKS if attack.stock}


def test_twenty_attacks_and_more_get_the_better_of_stock_nbgrader() -> None:
    stock = recorded()
    assert sum(bool(beaten_by(attack, stock.get(attack.name))) for attack in ATTACKS) >= 20


def test_there_are_attacks_enough_and_each_has_its_own_name() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.long
def test_stock_nbgrader_still_does_what_was_recorded() -> None:
    assert dict(record()) == json.loads(RECORDED.read_text())["attacks"]
