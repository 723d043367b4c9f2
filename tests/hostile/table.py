"""The tables of `docs/security.md`, made from the attacks themselves and from what was recorded of stock nbgrader.

python tests/hostile/table.py writes them; a test keeps them as they are here.
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from attack import Attack
from attacks import FAMILIES
from controls import RECORDED, acts_in_a_stock_page
from course import POINTS

DOCUMENT = HERE.parents[1] / "docs" / "security.md"
BEGIN, END = "<!-- begin: {} -->", "<!-- end: {} -->"


def recorded() -> dict[str, dict[str, Any]]:
    """What stock nbgrader made of attacks, by name."""
    found: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text())["attacks"]
    return found


def beaten_by(attack: Attack, stock: dict[str, Any] | None) -> str:
    """How an attack gets the better of stock nbgrader; "" where it does not, or was not tried."""
    if attack.control is acts_in_a_stock_page:
        return "acts in the page"
    if stock is None:
        return ""
    if stock["worked"]:
        return "gets what it is after"
    if stock["told"]:
        return "tells what is hidden"
    if stock["marks"] is None:
        return "no end" if stock["ended"] == "hung" else "no mark"
    gained = sum(stock["marks"]) - sum(attack.marks)
    return f"{gained:+g} points" if gained else ""


def summary() -> str:
    """Attacks that get the better of stock nbgrader, beside what comes of them here."""
    lines = ["| Attack | Here | Stock nbgrader |", "|---|---|---|"]
    stock = recorded()
    for attacks in FAMILIES.values():
        for attack in attacks:
            beaten = beaten_by(attack, stock.get(attack.name))
            if beaten:
                lines.append(f"| `{attack.name}`: {_cell(attack.what)} | {_here(attack)} | {beaten} |")
    return "\n".join(lines)


def by_family() -> str:
    """All attacks."""
    stock = recorded()
    parts = []
    for family, attacks in FAMILIES.items():
        lines = [f"### {family.capitalize()}", "", "| Attack | Here | Without protection | Stock nbgrader |"]
        lines.append("|---|---|---|---|")
        for attack in attacks:
            beaten = beaten_by(attack, stock.get(attack.name)) or ("no gain" if attack.name in stock else "not tried")
            control = _cell((attack.control.__doc__ or "").strip().splitlines()[0])
            lines.append(f"| `{attack.name}`: {_cell(attack.what)} | {_here(attack)} | {control} | {beaten} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _here(attack: Attack) -> str:
    marks = " + ".join(f"{mark:g}" for mark in attack.marks)
    worth = " + ".join(f"{points:g}" for points in POINTS.values())
    return f"{attack.verdict}, {marks} of {worth}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


TABLES = {"summary": summary, "attacks": by_family}


def written(document: str) -> str:
    """The document with its tables as they are now."""
    for name, make in TABLES.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = document.partition(begin)
        document = f"{before}{begin}\n{make()}\n{end}{rest.partition(end)[2]}"
    return document


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
