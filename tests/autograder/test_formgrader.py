"""nbgrader's formgrader as an instructor sees it: in JupyterLab, in a real browser, without a network."""

import html
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import nbgrader
import psutil
import pytest
from browsing import Visitor, visiting
from commands import run
from conftest import CHECKS, Beforehand, TinyCourse
from nbconvert.exporters import HTMLExporter
from nbgrader.api import Gradebook
from playwright.sync_api import Browser, Page
from test_feedback import MARKDOWN_ATTACKS, hostile_notebook, record_as_typed, solved
from test_gradebook import hand_in

from autograder.nbgrader_settings import PAGE_FILTERS
from autograder.results import load_result, result_path

STUDENTS = ("half", "hostile", "perfect")
PLACES = (
    "manage_assignments", "manage_submissions/shapes", "gradebook", "gradebook/shapes", "gradebook/shapes/shapes",
    "manage_students", "manage_students/half", "manage_students/half/shapes",
)  # fmt: skip
FIRST_ATTACK = """\
# area_checks

[Also](page.html) [see](..%2f..%2f..%2fsubmitted%2fhostile%2fshapes%2fpage.html)
"""
"""A heading whose anchor would stand for the field with the mark, and links to a page that was handed in."""
MATHJAX = "https://cdnjs.cloudflare.com/ajax/libs/mathjax/"
"""What nbgrader's page of a submission asks for besides; it works without."""


def open_formgrader(visitor: Visitor, place: str) -> Page:
    """One of its pages, whole."""
    page = visitor.open(f"formgrader/{place}")
    page.wait_for_function("jQuery.active === 0")  # it has got all that it has asked for
    return page


def open_submission(visitor: Visitor, root: Path, student: str) -> Page:
    """The page on which a submission is marked."""
    with opened_gradebook(root) as gradebook:
        number = gradebook.find_submission_notebook("shapes", "shapes", student).id
    return open_formgrader(visitor, f"submissions/{number}/")


@contextmanager
def jupyter_lab(root: Path, environment: dict[str, str], log: Path) -> Iterator[tuple[str, str]]:
    """JupyterLab, started in the course's folder as the README says; its address and token."""
    started = log.parent / "runtime"
    options = ("--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0")
    offline = "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["jupyter", "lab", *options, offline],
            cwd=root,
            env={**environment, "JUPYTER_RUNTIME_DIR": str(started)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 180
        while not (found := list(started.glob("jpserver-*.json"))):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        about = json.loads(found[0].read_text())
        yield about["url"], about["token"]
        left = psutil.Process(server.pid).children(recursive=True)
    finally:
        server.terminate()
        server.wait(60)
    assert not psutil.wait_procs(left, 30)[1]  # the worker and the sandbox, which the button had started, end with it


@pytest.fixture(scope="module")
def course(released_once: TinyCourse, tmp_path_factory: pytest.TempPathFactory) -> TinyCourse:
    """A released course with submissions, none of them graded."""
    root = tmp_path_factory.mktemp("formgrader") / "course"
    shutil.copytree(released_once.root, root)
    course = TinyCourse(root)
    hand_in(root, "half", solved(course, area="def area(side):\n    return side.square() + 1"))
    hand_in(root, "perfect", solved(course))
    notebook = hostile_notebook(course)
    cell = {"cell_type": "markdown", "id": "top", "metadata": {}, "source": FIRST_ATTACK}
    hand_in(root, "hostile", {**notebook, "cells": [cell, *notebook["cells"]]})
    (root / "submitted/hostile/shapes/page.html").write_text("<script>attack(70)</script>")
    (root / "submitted/hostile/shapes/data.csv").write_text("1,2\n")
    return course


@pytest.fixture(scope="module")
def visitor(
    course: TinyCourse, browser: Browser, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Visitor]:
    """An instructor who has opened the formgrader and pressed Autograde for every submission."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with jupyter_lab(course.root, environment, log) as (server, token), visiting(browser, server) as visitor:
        visitor.open(f"formgrader?token={token}")
        for student in STUDENTS:
            autograde(visitor, student)
        yield visitor
        assert visitor.failed == []
    assert "Traceback" not in log.read_text()


def autograde(visitor: Visitor, student: str) -> str:
    """Press the button; the student's score as the page shows it then."""
    page = open_formgrader(visitor, "manage_submissions/shapes")
    row = page.locator("#main-table tr", has=page.locator("td.student-id", has_text=student))
    row.locator("td.autograde a").click()
    page.locator(".modal-body").wait_for()
    assert f"Successfully autograded 'shapes' for student '{student}'." in page.locator(".modal-body").inner_text()
    page.locator(".modal-footer button").click()
    page.locator(".modal").wait_for(state="detached")
    return row.locator("td.score").inner_text()


@contextmanager
def opened_gradebook(root: Path) -> Iterator[Gradebook]:
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}", "tiny") as gradebook:
        yield gradebook


TYPED = {"#area_checks": "1.75", "#volume_checks_extra_credit": "0.5", "#area-comment": "Nearly: $a^2$."}
"""What an instructor types into the page of half's submission, by the field."""


@pytest.fixture(scope="module")
def by_button(visitor: Visitor, course: TinyCourse) -> dict[str, Any]:
    """What the button has recorded; then the instructor types a mark, extra credit and a comment."""
    recorded = automatic(course.root)
    page = open_submission(visitor, course.root, "half")
    for place, typed in TYPED.items():
        page.locator(place).fill(typed)
        saving(page, page.locator(place).blur)
    return recorded


def saving(page: Page, act: Callable[[], None]) -> None:
    """Do what makes the page save something, and wait until it has."""
    with page.expect_response(lambda answer: answer.request.method == "PUT") as saved:
        act()
    assert saved.value.ok


@pytest.fixture(scope="module")
def by_command(
    by_button: dict[str, Any], course: TinyCourse, beforehand: Beforehand, environment: dict[str, str]
) -> dict[str, Any]:
    """What `course grade` records then, of the same submissions graded anew."""
    shutil.rmtree(course.root / "autograded")
    beforehand(course)
    done = run(course.root, environment, "course", "grade", "shapes")
    assert done.returncode == 0, done.stderr
    return automatic(course.root)


def automatic(root: Path) -> dict[str, Any]:
    """By student: what the gradebook holds of each task but for what was typed, and the recorded notebook."""
    with opened_gradebook(root) as gradebook:
        return {
            submission.student.id: (
                {grade.name: (grade.auto_score, grade.max_score) for grade in submission.notebooks[0].grades},
                (root / "autograded" / submission.student.id / "shapes/shapes.ipynb").read_bytes(),
            )
            for submission in gradebook.assignment_submissions("shapes")
        }


# Marks


def test_jupyterlabs_menu_opens_the_formgrader_on_this_course(visitor: Visitor, course: TinyCourse) -> None:
    page = visitor.open("lab")
    page.get_by_role("menuitem", name="Nbgrader").click()
    page.get_by_text("Formgrader", exact=True).first.click()
    frame = page.frame_locator("iframe[src*=formgrader]")
    row = frame.locator("#main-table tr")
    row.locator("td.name", has_text="shapes").wait_for()
    assert row.count() == 1
    assert row.locator("td.duedate").inner_text().startswith("2027-10-31 23:59")
    assert row.locator("td.num-submissions").inner_text() == "3"
    settings = frame.locator("#collapseConfig").text_content() or ""
    for setting in ("'course_id': 'tiny'", f"'root': '{course.root}'", "autograder.gradebook.RunChecks"):
        assert setting in settings


def test_the_button_gives_the_same_marks_as_course_grade(by_button: dict[str, Any], by_command: dict[str, Any]) -> None:
    assert by_button == by_command
    assert {student: marks for student, (marks, _) in by_button.items()} == {
        "half": {"area_checks": (1.33, 2.0), "volume_checks": (0.0, 3.0)},
        "hostile": {"area_checks": (1.33, 2.0), "volume_checks": (0.0, 3.0)},
        "perfect": {"area_checks": (2.0, 2.0), "volume_checks": (3.0, 3.0)},
    }


@pytest.mark.usefixtures("by_command")
def test_what_was_typed_survives_both_ways_of_grading_again(visitor: Visitor, course: TinyCourse) -> None:
    def held() -> tuple[Any, ...]:
        with opened_gradebook(course.root) as gradebook:
            area, volume = (
                gradebook.find_grade(f"{task}_checks", "shapes", "shapes", "half") for task in ("area", "volume")
            )
            comment = gradebook.find_comment("area", "shapes", "shapes", "half").comment
            return area.auto_score, area.manual_score, area.score, volume.extra_credit, volume.score, comment

    def shown() -> dict[str, str]:
        page = open_submission(visitor, course.root, "half")
        return {place: page.locator(place).input_value() for place in TYPED}

    expected = (1.33, 1.75, 1.75, 0.5, 0.5, "Nearly: $a^2$.")
    assert (held(), shown()) == (expected, TYPED)
    assert autograde(visitor, "half") == "2.25 / 5"
    assert (held(), shown()) == (expected, TYPED)
    resolve = visitor.page.get_by_role("button", name="Resolve").first
    saving(visitor.page, resolve.click)
    assert (held(), shown(), resolve.is_visible()) == (expected, TYPED, False)
    page = open_formgrader(visitor, "manage_submissions/shapes")
    students, scores = (page.locator(f"td.{kind}").all_inner_texts() for kind in ("student-id", "score"))
    assert dict(zip(students, scores, strict=True)) == {"half": "2.25 / 5", "hostile": "1.33 / 5", "perfect": "5 / 5"}


# What students wrote, and what they may not know


def test_no_page_holds_anything_of_the_hidden_checks(visitor: Visitor, course: TinyCourse) -> None:
    pages = [open_formgrader(visitor, place).content() for place in PLACES]
    pages += [open_submission(visitor, course.root, student).content() for student in STUDENTS]
    everything = html.unescape("".join(pages))
    assert "1 of 2 hidden checks passed, 1.33 of 2 points" in everything
    lines = {line.strip() for line in CHECKS.splitlines() if not line.startswith("import") and "hint=" not in line}
    for student in STUDENTS:
        result = load_result(result_path(course.root, "shapes", student))
        assert result is not None
        lines |= {line.strip() for task in result.tasks for check in task.checks for line in check.detail.splitlines()}
    secrets = {line for line in lines if len(line) > 12 and not line.startswith('"""')}
    assert len(secrets) > 20
    assert [secret for secret in secrets if secret in everything] == []


def test_formulas_are_shown_without_a_network(visitor: Visitor, course: TinyCourse) -> None:
    assert open_submission(visitor, course.root, "perfect").locator("math msup").text_content() == "a2"
    assert [address for address in visitor.asked_for if address.startswith(MATHJAX)]


def test_nothing_of_a_hostile_submission_runs_in_the_formgrader(visitor: Visitor, course: TinyCourse) -> None:
    page = open_submission(visitor, course.root, "hostile")
    visitor.click_on_everything("#notebook-container :is(.rendered_html, .output_area)")
    assert visitor.attacks == []
    assert [address for address in visitor.asked_for if not address.startswith(MATHJAX)] == []
    addresses = [link.get_attribute("href") or "" for link in page.locator("#notebook-container a").all()]
    assert addresses
    assert [address for address in addresses if not re.match("https?://|mailto:|#", address)] == []
    assert page.locator("#area_checks").evaluate_all("found => found.map(element => element.tagName)") == ["INPUT"]
    assert visitor.context.request.get(f"{page.url}data.csv").text() == "1,2\n"
    assert visitor.context.request.get(f"{page.url}page.html").status == 404


@pytest.mark.usefixtures("visitor")
@pytest.mark.parametrize(
    ("typed", "filters", "runs"),
    [
        (True, {}, True),  # the control: nbgrader's own page of what was handed in
        (False, {}, False),  # as it is shown by a server that was started elsewhere, without the course's settings
        (True, PAGE_FILTERS, False),
    ],
)
def test_what_is_recorded_and_how_it_is_shown_are_harmless_each_by_itself(
    course: TinyCourse, browser: Browser, tmp_path: Path, typed: bool, filters: dict[str, str], runs: bool
) -> None:
    recorded = Path("hostile/shapes/shapes.ipynb")
    for step in ("submitted", "autograded"):
        shutil.copytree(course.root / step / "hostile", tmp_path / step / "hostile")
    if typed:
        record_as_typed(tmp_path, "hostile")
    notebook = nbformat.read(tmp_path / "autograded" / recorded, as_version=4)
    # nbgrader's own page gives up on a missing attachment, and one attack would leave it before the others run.
    without = ("attachment:", MARKDOWN_ATTACKS["refresh"]) if typed else ()
    notebook.cells = [cell for cell in notebook.cells if not any(text in cell.source for text in without)]
    templates = Path(nbgrader.__file__).parent / "server_extensions/formgrader/templates"
    exporter = HTMLExporter(template_name="formgrade", extra_template_basedirs=[str(templates)], filters=dict(filters))
    source, _ = exporter.from_notebook_node(notebook, {"base_url": "", "notebook_path": "", "index": 0, "total": 1})
    with visiting(browser) as visitor:
        visitor.show(source)
        visitor.click_on_everything("#notebook-container")
        elsewhere = {address for address in visitor.asked_for if "evil.example" in address}
        if runs:
            assert {1, 3, 12} <= set(visitor.attacks)
            assert len(elsewhere) > 3
        else:
            assert (visitor.attacks, elsewhere) == ([], set())
