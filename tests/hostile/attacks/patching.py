"""Attacks that change what judges them: comparisons, builtins, the interpreter, the file formats around them."""

from attack import Attack
from controls import passes_tests_in_its_own_process

AREA = "def area(side):\n    return {}"
VOLUME = "def volume(side, height):\n    return {}"
NOTHING = {"area": AREA.format(0), "volume": VOLUME.format(0)}

ATTACKS = (
    Attack(
        name="allclose_says_yes",
        what="Replaces torch.allclose by a function that always says yes.",
        cell="""
import torch
torch.allclose = lambda *args, **kwargs: True
""",
        answers={"volume": VOLUME.format(0)},
        marks=(2, 0),
        control=passes_tests_in_its_own_process,
    ),
)
