"""Feedback pages: what students may know of their marks, and nothing that a browser would act on."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
from attacks.active import DRAWING, MARKDOWN_ATTACKS, PIXEL
from commands import run
from conftest import Beforehand, TinyCourse
from hypothesis import given, settings
from hypothesis import strategies as st
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbgrader.api import Gradebook
from nbgrader.converters import GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from test_gradebook import hand_in

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course
from autograder.feedback import make_pages
from autograder.feedback_page import (
    CELL_SECONDS,
    MAX_TAGS,
    _formula,
    _markdown,
    _Patience,
    _spaced,
    _whole,
    _written,
    task_html,
)
from autograder.rebuilt import harmless_markdown
from autograder.results import SubmissionResult, Verdict, load_result, result_path, save_result

HOSTILE_CODE = f"""\
from IPython.display import HTML, SVG, Javascript, Markdown, display
print("</pre></script><script>attack(40)</script>")
print("\\x1b[31m<img src=x onerror=attack(41)>\\x1b[0m")
display(HTML("<script>attack(42)</script>"), SVG({DRAWING!r}), Javascript("attack(43)"))
display(Markdown("<img src=x onerror=attack(44)>"))
display({{"text/html": "<script>attack(45)</script>", "text/plain": "<script>attack(46)</script>"}}, raw=True)
display({{"application/vnd.jupyter.widget-view+json": {{"model_id": "</script><script>attack(47)"}}}}, raw=True)
size = {{"width": "1 onload=attack(48)"}}
display({{"image/png": {PIXEL!r}, "image/svg+xml": {DRAWING!r}}}, raw=True, metadata={{"image/png": size}})
raise ValueError("<script>attack(49)</script>")
"""


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


ACTIVE_TAGS = {
    "script", "iframe", "frame", "object", "embed", "applet", "form", "input", "button", "base", "link", "svg", "audio",
    "video", "source", "template", "noscript", "portal", "annotation-xml", "mglyph", "maction", "select", "textarea",
}  # fmt: skip


def active(page: Page) -> list[str]:
    """Everything in a page's body that a browser would act on, load or be restyled by."""
    found = [tag for tag, _ in page.tags if tag in ACTIVE_TAGS]
    found += [tag for tag, _ in page.tags if tag == "style"][1:]  # the page's own is the first
    found += ["meta refresh" for tag, attributes in page.tags if attributes.get("http-equiv", "").lower() == "refresh"]
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            flat = re.sub(r"[\s\x00-\x20]", "", value).lower()
            pixels = tag == "img" and re.match(r"data:image/(png|jpeg);base64,(ivborw0kggo|/9j/)", flat)
            link = tag == "a" and re.match(r"(https?://|#|mailto:)", flat)
            loads = name in (
                "src",
                "href",
                "srcset",
                "action",
                "formaction",
                "data",
                "poster",
                "background",
                "xlink:href",
            )
            if name.startswith("on") or name in ("style", "srcdoc", "id") or (loads and not (pixels or link)):
                found.append(f"{tag} {name}={value[:60]}")
    return found


def page_of(root: Path, student: str) -> str:
    return (root / "feedback" / student / "shapes" / "shapes.html").read_text()


def solved(course: TinyCourse, **answers: str) -> dict[str, Any]:
    """A submission with the reference's answers, or others."""
    notebook: dict[str, Any] = json.loads(json.dumps(solved_notebook(read_script(course.script), answers)))
    return notebook


def hostile_notebook(course: TinyCourse) -> dict[str, Any]:
    """A submission in which everything that a student controls attacks whoever opens the feedback."""
    notebook = solved(
        course, area="def area(side):\n    return side.square() + 1  # </script><script>attack(50)</script>"
    )
    for number, attack in enumerate(MARKDOWN_ATTACKS.values()):
        notebook["cells"].append({"cell_type": "markdown", "id": f"m{number}", "metadata": {}, "source": attack})
    code = {"cell_type": "code", "metadata": {}, "source": HOSTILE_CODE, "outputs": [], "execution_count": None}
    notebook["cells"] += [
        {**code, "id": "loud", "metadata": {"tags": ['"><script>attack(51)</script>']}},
        {
            "cell_type": "raw", "id": "raw", "metadata": {"raw_mimetype": "text/html"},
            "source": "<script>attack(52)</script>",
        },
        {
            "cell_type": "markdown", "id": "attached", "metadata": {},
            "source": "![a](attachment:a.png) ![b](attachment:b.png)",
            "attachments": {"a.png": {"text/html": "PHNjcmlwdD4="}, "b.png": {"image/png": PIXEL}},
        },
        {
            "cell_type": "markdown", "id": "named", "source": "mine",
            "metadata": {"nbgrader": {
                "grade_id": '"><script>attack(53)</script>', "grade": False, "solution": True, "locked": False,
                "task": False, "schema_version": 3, "comment": "<script>attack(54)</script>",
            }},
        },
    ]  # fmt: skip
    notebook["cells"][0]["id"] = "first"
    notebook["metadata"]["title"] = "</title><script>attack(55)</script>"
    notebook["metadata"]["language_info"] = {"name": '"><script>attack(56)</script>', "pygments_lexer": "html"}
    notebook["metadata"]["widgets"] = {
        "application/vnd.jupyter.widget-state+json": {"state": "</script><script>attack(57)"}
    }
    return notebook


def record_as_typed(root: Path, student: str) -> None:
    """Put the text of Markdown and raw cells as it was typed into what was recorded of a submission.

    Recording makes it harmless (see `autograder.rebuilt`); a page has to hold nothing active by itself.
    """
    recorded = root / "autograded" / student / "shapes" / "shapes.ipynb"
    notebook = json.loads(recorded.read_text())
    typed = json.loads((root / "submitted" / student / "shapes" / "shapes.ipynb").read_text())
    for cell, before in zip(notebook["cells"], typed["cells"], strict=True):
        if cell["cell_type"] != "code":
            cell["source"] = before["source"]
    recorded.chmod(0o644)
    recorded.write_text(json.dumps(notebook))


@pytest.fixture(scope="module")
def graded(
    released_once: TinyCourse, beforehand: Beforehand, environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TinyCourse]:  # fmt: skip
    """A graded course: submissions that are half right, late, hostile, no notebook, and one that crashes."""
    root = tmp_path_factory.mktemp("feedback") / "course"
    shutil.copytree(released_once.root, root)
    course = TinyCourse(root)
    course.edit(course.config, "import Assignment, Course", "import Assignment, Course, LatePolicy")
    course.edit(course.config, '+00:00")', '+00:00", late=LatePolicy(percent_per_day=10))')
    half = solved(course, area="def area(side):\n    return side.square() + 1")
    hand_in(root, "half", half, "2027-10-01 12:00:00 UTC")
    hand_in(root, "perfect", solved(course), "2027-11-01 12:00:00 UTC")
    hand_in(root, "hostile", hostile_notebook(course))
    hand_in(root, "broken", b"<script>attack(60)</script>")
    hand_in(root, "crashed", solved(course, volume="import os\ndef volume(side, height):\n    os._exit(0)"))
    beforehand(course)
    done = run(root, environment, "course", "grade", "shapes", "--json")
    assert done.returncode == 0, done.stderr
    record_as_typed(root, "hostile")
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}", "tiny") as gradebook:
        gradebook.find_grade("area_checks", "shapes", "shapes", "half").manual_score = 1.75
        comment = "Nearly: $a^2$, not $a^2 + 1$."
        gradebook.find_comment("area", "shapes", "shapes", "half").manual_comment = comment
        comment = "<script>attack(61)</script> <b onclick=attack(62)>see</b> [here](javascript:attack(63))"
        gradebook.find_comment("area", "shapes", "shapes", "hostile").manual_comment = comment
        gradebook.db.commit()
    yield course


@pytest.fixture(scope="module")
def made(graded: TinyCourse, environment: dict[str, str]) -> TinyCourse:
    """The same after `course feedback shapes`."""
    done = run(graded.root, environment, "course", "feedback", "shapes", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == [
        f"{student}: feedback/{student}/shapes/shapes.html"
        for student in ("broken", "crashed", "half", "hostile", "perfect")
    ]
    return graded


def copy_of(course: TinyCourse, folder: Path) -> TinyCourse:
    shutil.copytree(course.root, folder / "copy")
    return TinyCourse(folder / "copy")


# Nothing active


def stock_page(root: Path, student: str) -> str:
    """The page that nbgrader makes of a recorded submission with its own settings."""
    folder = CourseDirectory(root=str(root), assignment_id="shapes", db_url=f"sqlite:///{root / 'gradebook.db'}")
    converter = GenerateFeedback(coursedir=folder)
    exporter = converter.exporter_class(parent=converter, config=converter.config)
    for step in converter.preprocessors:
        exporter.register_preprocessor(step)
    notebook = str(root / "autograded" / student / "shapes" / "shapes.ipynb")
    content = nbformat.read(notebook, as_version=4)
    content.cells = [cell for cell in content.cells if "attachment:" not in cell.source]  # it gives up on a missing one
    page, _ = exporter.from_notebook_node(content, converter.init_single_notebook_resources(notebook))
    return str(page)


def test_nothing_active_reaches_a_browser(made: TinyCourse) -> None:
    assert active(Page(page_of(made.root, "hostile"))) == []
    found = active(Page(stock_page(made.root, "hostile")))
    assert len(found) > 30  # the control: nbgrader's own page of the same notebook is full of it
    assert {"script", "iframe", "form", "meta refresh", "base", "style", "svg"} <= set(found)


def test_comments_and_students_that_look_like_html_stay_text(made: TinyCourse) -> None:
    page = Page(page_of(made.root, "hostile"))
    assert "see" in page.text
    assert "</pre></script><script>attack(40)</script>" in page.text  # printed, and shown as it was printed
    assert "ValueError: <script>attack(49)</script>" in page.text


UNSEEN = {
    "code with a language", "formula with a tag", "formula with quotes", "handler without space", "false report",
    "comment", "title",
}  # fmt: skip
"""Attacks in which Python's HTML parser sees nothing active even as they are: browsers read some of them otherwise."""


def stock_markdown(source: str) -> str:
    """Markdown as nbconvert shows it."""
    return str(MarkdownWithMath(renderer=IPythonRenderer(escape=False, exclude_anchor_links=True)).render(source))


@pytest.mark.parametrize("name", MARKDOWN_ATTACKS)
def test_each_attack_in_markdown_ends_at_the_allow_list(made: TinyCourse, name: str) -> None:
    attack = MARKDOWN_ATTACKS[name]
    handed_in = json.loads((made.root / "submitted/hostile/shapes/shapes.ipynb").read_text())
    assert attack in [cell["source"] for cell in handed_in["cells"]]
    stock = stock_markdown(attack)
    first = "<style></style>"
    assert bool(active(Page(first + stock))) == (name not in UNSEEN)
    for shown in (_written.clean(_markdown(attack, {})), _whole.clean(stock)):
        assert active(Page(first + shown)) == []
        assert not re.search(r"<[^>]*attack", shown)


@pytest.mark.parametrize("name", MARKDOWN_ATTACKS)
def test_what_is_recorded_of_markdown_is_harmless_wherever_it_is_shown(name: str) -> None:
    recorded = harmless_markdown(MARKDOWN_ATTACKS[name])
    shown = stock_markdown(recorded)
    assert active(Page("<style></style>" + shown)) == []
    assert not re.search(r"<[^>]*attack", shown)


PIECES = [
    "<", ">", "/", "!", "?", "[", "]", "(", ")", ":", "\"", "'", "`", "~~~", "$", "$$", "\\", "&lt;", "&#60;", "|", "-",
    "#", "*", "_", "\n", "\n\n", " ", "    ", "\t", "\r", "\0", "= ", "a", "b", "script", "img src=x onerror=attack()",
    "br", "--", "javascript:f()", "data:text/html,x", "https://a.b", "..%2f", "attachment:x", "mermaid", "begin{a}",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_no_text_gets_past_what_is_recorded_of_markdown(text: str) -> None:
    shown = stock_markdown(harmless_markdown(text))
    to_do = r'<input class="task-list-item-checkbox" type="checkbox" disabled( checked)?/>'  # Markdown's own
    assert active(Page("<style></style>" + re.sub(to_do, "", shown))) == []


def test_what_is_harmless_in_markdown_stays_as_it_was_typed() -> None:
    text = "# A\n$a<b$ and $a < b$, **bold** <b>too</b><br/> `x[0]` [paper](https://a.b/c) [down](#a) <3 - [x] $[0,1]$!"
    assert harmless_markdown(text) == text.replace("<b$", "< b$")
    assert harmless_markdown("![a](attachment:a.png)") == "! [a] (attachment:a.png)"  # would end nbgrader's own page
    assert harmless_markdown("<") == "< "  # two raw cells stand side by side in a page


def test_students_cannot_pass_for_the_page_itself(made: TinyCourse) -> None:
    forged = _written.clean(MARKDOWN_ATTACKS["false report"])
    assert forged == '<div><p>all passed</p></div><a rel="noopener noreferrer">x</a>'
    assert page_of(made.root, "hostile").count('class="report"') == 2


def test_pictures_stay_only_as_pixels() -> None:
    kept = f'<img src="data:image/png;base64,{PIXEL}" alt="a">'
    assert _written.clean(kept) == kept
    text = base64.b64encode(b"<script>").decode()
    for source in (
        f"data:image/png;base64,{text}",
        "data:image/svg+xml,x",
        "https://evil.example/a.png",
        "a.png",
        "//e",
    ):
        assert _written.clean(f'<img src="{source}" alt="a">') == '<img alt="a">'


def test_attachments_of_a_cell_become_pixels_or_nothing() -> None:
    attachments = {"a.png": {"text/html": "PHNjcmlwdD4="}, "b.png": {"image/png": PIXEL}}
    shown = _written.clean(_markdown("![a](attachment:a.png) ![b](attachment:b.png)", attachments))
    assert re.findall('src="([^"]*)"', shown) == [f"data:image/png;base64,{PIXEL}"]
    assert "<b>" not in _markdown("*a* ![<b>](attachment:lost.png)", {})
    assert "<em>a</em>" in _markdown("*a* ![<b>](attachment:lost.png)", {})


@pytest.mark.parametrize("student", ["half", "hostile", "broken"])
def test_a_policy_in_the_page_forbids_everything_but_its_own_style(made: TinyCourse, student: str) -> None:
    source = page_of(made.root, student)
    head = source.partition("</head>")[0]
    policy = dict(Page(head).tags[3][1])
    assert Page(head).tags[3][0] == "meta"
    assert policy["http-equiv"] == "Content-Security-Policy"
    style = head.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy["content"] == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style
    assert "@import" not in style


# What students may know


def test_a_graded_cell_holds_the_report_on_its_task_and_no_output(made: TinyCourse) -> None:
    text = " ".join(Page(page_of(made.root, "half")).text.split())
    assert "Task 1 · area 1 of 2 hidden checks passed, 1.33 of 2 points" in text
    assert "not passed A side of 1.7 makes an area of 2.89.the value is not the expected one" in text
    assert "passed The area's gradient is twice the side." in text
    assert "This may follow from task 1 (area)." in text
    assert "The visible checks above stopped with AssertionError." in text
    recorded = json.loads((made.root / "autograded/half/shapes/shapes.ipynb").read_text())
    (cell,) = (c for c in recorded["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == "volume_checks")
    mark, _, visible = ("".join(output["data"]["text/plain"]) for output in cell["outputs"])
    assert (mark, "Traceback (most recent call last)" in visible) == ("0.0", True)
    assert "Traceback" not in text
    assert "<pre>" not in page_of(made.root, "half").rpartition('<div class="report">')[2]  # of the last cell


def test_a_hint_is_shown_where_its_check_failed(made: TinyCourse) -> None:
    failed = "def area(side):\n    return side.square().detach()"
    assert "Hint" not in Page(page_of(made.root, "half")).text
    result = load_result(result_path(made.root, "shapes", "half"))
    assert result is not None
    area = result.tasks[0]
    checks = tuple(check.model_copy(update={"passed": False, "cause": "`<b>`"}) for check in area.checks)
    shown = task_html(area.model_copy(update={"checks": checks}), ["area"], failed)
    assert "<b>Hint:</b> Is it differentiable?" in shown
    assert "<code>&lt;b&gt;</code>" in shown


def test_marks_comments_and_the_late_penalty_are_nbgraders(made: TinyCourse) -> None:
    half = " ".join(Page(page_of(made.root, "half")).text.split())
    assert "shapes (Score: 1.75 / 5.0)" in half
    assert "Your instructor set the mark for this task to 1.75." in half
    assert "Comments: Nearly: a2, not a2+1." in half
    late = " ".join(Page(page_of(made.root, "perfect")).text.split())
    assert "shapes (Score: 4.5 / 5.0)" in late
    assert "Late submission penalty (Score: -0.5)" in late
    assert "Your instructor" not in late


def test_nothing_that_only_instructors_may_know_is_in_a_page(made: TinyCourse) -> None:
    pages = {student: html.unescape(page_of(made.root, student)) for student in ("half", "hostile", "crashed")}
    for student, page in pages.items():
        result = load_result(result_path(made.root, "shapes", student))
        assert result is not None
        details = [check.detail for task in result.tasks for check in task.checks if check.detail]
        assert details  # the control: there is something to keep
        for line in {line.strip() for detail in details for line in detail.splitlines() if len(line.strip()) > 12}:
            assert line not in page, line
    for secret in ("tensor([14.])", "gradient_of_area", "torch.tensor([3.5])", "TestVolume"):
        assert secret in made.checks.read_text() or "14." in secret
        assert not [student for student, page in pages.items() if secret in page]
    names = {folder.name for folder in (made.root / "submitted").iterdir()}
    for student, page in pages.items():
        words = set(re.findall(r"[\w-]+", Page(page.partition("<body>")[2]).text))
        assert not words & (names - {student})
        assert str(made.root) not in page
        assert sys.prefix not in page


def test_without_a_sandbox_the_page_says_so_and_hides_paths(made: TinyCourse, tmp_path: Path) -> None:
    course = copy_of(made, tmp_path)
    path = result_path(course.root, "shapes", "half")
    result = load_result(path)
    assert result is not None
    save_result(path, result.model_copy(update={"sandbox": "none"}))
    recorded = course.root / "autograded/half/shapes/shapes.ipynb"
    notebook = json.loads(recorded.read_text())
    printed = {"output_type": "stream", "name": "stdout", "text": f"{course.root}/secret and {sys.prefix}/lib"}
    notebook["cells"][1]["outputs"] = [printed]
    recorded.chmod(0o644)
    recorded.write_text(json.dumps(notebook))
    assert [page.outcome for page in make_pages(course.root, load_course(course.root), "shapes", ["half"])] == ["made"]
    text = Page(page_of(course.root, "half")).text
    assert "This was graded without a sandbox." in text
    assert ".../secret and .../lib" in text
    assert "without a sandbox" not in page_of(made.root, "half")


# Formulas


def test_formulas_are_shown_without_a_network(made: TinyCourse) -> None:
    page = page_of(made.root, "half")
    assert '<math display="inline"><mrow><msup><mi>a</mi><mn>2</mn></msup></mrow></math>' in page
    assert "$a^2$" not in page
    assert "$a^2$" in (made.root / "submitted/half/shapes/shapes.ipynb").read_text()
    assert "mathjax" not in page.lower()


@pytest.mark.parametrize(
    ("markdown", "tags"),
    [
        (r"$$\sum_i p_i \ln \frac{p_i}{q_i}$$", {"munder", "mfrac", "msub"}),
        (r"\begin{align} a &= b \\ c &= d \end{align}", {"mtable", "mtr", "mtd"}),
        (r"\begin{equation} x^2 \end{equation}", {"msup"}),
    ],
)
def test_displayed_formulas_are_mathml(markdown: str, tags: set[str]) -> None:
    shown = Page(_written.clean(_markdown(markdown, {})))
    assert ("math", {"display": "block"}) in shown.tags
    assert tags <= {tag for tag, _ in shown.tags}


def test_functions_stand_apart_from_what_they_are_of() -> None:
    assert _spaced(r"p_i \ln p_i") == r"p_i\,\ln\,p_i"
    assert _spaced(r"-\log_2 \frac{1}{2}") == r"-\log_2\,\frac{1}{2}"
    for set_by_itself in (r"\ln(x)", r"\exp\left(x\right)", r"\max\,x", r"\lnx", r"{\min}"):
        assert _spaced(set_by_itself) == set_by_itself


def test_a_formula_that_cannot_be_converted_stays_readable() -> None:
    assert _formula(r"\frac{1}{", "inline") == r"<code>$\frac{1}{$</code>"
    assert _formula("{" * 1500, "block").startswith("<code>$${{{")


def test_every_formula_of_the_assignments_becomes_mathml() -> None:
    root = Path(__file__).parents[2]
    sources = [
        "".join(cell["source"])
        for path in root.glob("release/*/*.ipynb")
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "markdown"
    ]
    shown = [_written.clean(_markdown(source, {})) for source in sources]
    assert sum("<math" in html for html in shown) > 5
    assert not [html for html in shown if re.search(r"<code>\$|<m[io]>\\", html)]


# Submissions that are not like the others


def test_one_that_is_no_notebook_gets_a_page_with_the_reason_and_zero(made: TinyCourse) -> None:
    text = " ".join(Page(page_of(made.root, "broken")).text.split())
    assert "Your submission could not be graded: the notebook is not JSON" in text
    assert "It counts as zero." in text
    assert "shapes (Score: 0.0 / 5.0)" in text
    assert not (made.root / "autograded/broken").exists()


def test_a_fault_in_the_submission_stands_at_the_top(made: TinyCourse, tmp_path: Path) -> None:
    course = copy_of(made, tmp_path)
    path = result_path(course.root, "shapes", "crashed")
    result = load_result(path)
    assert result is not None
    fault = {"verdict": Verdict.STUDENT_FAULT, "reason": "cell <3> ended the process"}
    save_result(path, result.model_copy(update=fault))
    list(make_pages(course.root, load_course(course.root), "shapes", ["crashed"]))
    body = page_of(course.root, "crashed").partition("<body>")[2].strip()
    assert body.startswith(
        '<p class="note">Your submission could not be graded whole: cell &lt;3&gt; ended the process. '
        "What it earned counts.</p>"
    )


def test_a_fault_of_ours_and_an_ungraded_submission_get_no_page_and_are_named(
    made: TinyCourse, environment: dict[str, str], tmp_path: Path
) -> None:
    course = copy_of(made, tmp_path)
    hand_in(course.root, "fresh", solved(course))
    hand_in(course.root, "unlucky", solved(course))
    fault = SubmissionResult(
        assignment="shapes", student="unlucky", verdict=Verdict.GRADER_FAULT, reason="no sandbox started"
    )
    save_result(result_path(course.root, "shapes", "unlucky"), fault)
    done = run(course.root, environment, "course", "feedback", "shapes")
    assert done.returncode == 0  # every graded submission has its page
    assert sorted(done.stderr.splitlines()) == [
        "fresh: no page: it has not been graded",
        "unlucky: no page: it has no mark, because grading failed: no sandbox started",
    ]
    assert not (course.root / "feedback/fresh").exists()
    assert not (course.root / "feedback/unlucky").exists()


def test_a_result_that_the_gradebook_does_not_hold_is_no_page(
    made: TinyCourse, environment: dict[str, str], tmp_path: Path
) -> None:
    course = copy_of(made, tmp_path)
    path = result_path(course.root, "shapes", "half")
    result = load_result(path)
    other = load_result(result_path(course.root, "shapes", "perfect"))
    assert result is not None
    assert other is not None
    save_result(path, result.model_copy(update={"tasks": other.tasks}))
    save_result(result_path(course.root, "shapes", "unknown"), other.model_copy(update={"student": "unknown"}))
    hand_in(course.root, "unknown", solved(course))
    done = run(course.root, environment, "course", "feedback", "shapes")
    assert done.returncode == 1
    assert sorted(done.stderr.splitlines()) == [
        "Error: 2 of 6 graded submissions have no page.",
        "half: no page: the gradebook does not hold the newest result: run `course grade shapes`",
        "unknown: no page: the gradebook holds no mark: run `course grade shapes`",
    ]
    assert "perfect: feedback/perfect/shapes/shapes.html  (up to date)" in done.stdout


# The command


def test_nbgraders_own_command_and_the_formgraders_button_make_the_same_pages(
    made: TinyCourse, environment: dict[str, str], tmp_path: Path
) -> None:
    course = copy_of(made, tmp_path)
    expected = {student: page_of(course.root, student) for student in ("half", "hostile", "perfect")}
    shutil.rmtree(course.root / "feedback")
    done = run(course.root, environment, "nbgrader", "generate_feedback", "shapes")
    assert done.returncode == 0, done.stderr
    assert {student: page_of(course.root, student) for student in expected} == expected
    shutil.rmtree(course.root / "feedback")
    button = (
        "from nbgrader.apps import NbGraderAPI; from nbgrader.apps.baseapp import NbGrader;"
        "app = NbGrader(); app.load_config_file(); app.config.HTMLExporter.template_name = 'formgrade';"
        "done = NbGraderAPI(config=app.config).generate_feedback('shapes'); assert done['success'], done"
    )
    command = [sys.executable, "-c", button]
    done = subprocess.run(command, cwd=course.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {student: page_of(course.root, student) for student in expected} == expected


def test_only_what_has_changed_is_made_again(made: TinyCourse, environment: dict[str, str], tmp_path: Path) -> None:
    course = copy_of(made, tmp_path)
    before = {student: page_of(course.root, student) for student in ("half", "perfect")}
    with Gradebook(f"sqlite:///{course.root / 'gradebook.db'}", "tiny") as gradebook:
        gradebook.find_comment("area", "shapes", "shapes", "perfect").manual_comment = "Well done."
        gradebook.db.commit()
    done = run(course.root, environment, "course", "feedback", "shapes")
    assert (done.returncode, done.stderr) == (0, "")
    assert {line for line in done.stdout.splitlines() if "up to date" not in line} == {
        "perfect: feedback/perfect/shapes/shapes.html"
    }
    assert page_of(course.root, "half") == before["half"]
    assert "Well done." in page_of(course.root, "perfect")
    forced = run(course.root, environment, "course", "feedback", "shapes", "--student", "half", "--force")
    assert forced.stdout == "half: feedback/half/shapes/shapes.html\n"
    assert page_of(course.root, "half") == before["half"]


def test_what_the_exchange_needs_lies_beside_the_page_and_nothing_else(made: TinyCourse) -> None:
    folder = made.root / "feedback/half/shapes"
    assert {path.name for path in folder.iterdir()} == {"shapes.html", "timestamp.txt"}
    assert (folder / "timestamp.txt").read_text() == "2027-10-01 12:00:00 UTC"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "Missing argument"),
        (("shapes", "--jobs", "0"), 2, "--jobs"),
        (("shape",), 2, "shapes"),
        (("shapes", "--student", "../half"), 2, "identifier"),
        (("shapes", "--student", "nobody"), 2, "nobody has handed in no shapes"),
        (("--help",), 0, "course feedback information_theory --student ada"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits_accordingly(
    made: TinyCourse, environment: dict[str, str], arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = run(made.root, environment, "course", "feedback", *arguments)
    assert done.returncode == code
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# Patience


def test_what_takes_too_long_is_shown_as_it_was_typed() -> None:
    slow, quick = _Patience(0.2), _Patience()
    source = r"\begin{a}" * 5000
    started = time.process_time()
    assert slow.render(lambda text: _markdown(text, {}), source) == f"<pre>{source}</pre>"
    assert slow.render(str.upper, "<a>") == "<pre>&lt;a&gt;</pre>"
    assert time.process_time() - started < 1 < CELL_SECONDS
    assert quick.render(str.upper, "<a>") == "<A>"


def test_tags_nested_as_deep_as_may_be_take_no_time() -> None:
    started = time.process_time()
    assert _whole.clean(_written.clean("<div>" * MAX_TAGS + "deep")).count("<div>") == MAX_TAGS
    assert time.process_time() - started < 0.5
