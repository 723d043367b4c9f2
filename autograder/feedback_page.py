"""One student's feedback page: nbgrader's own, with reports on the hidden checks, and harmless to open.

Scores, comments and the late penalty are nbgrader's, and so is the frame around the cells. The page differs in three
things. Graded cells show the report on their task, which comes from the stored result and never from the notebook. What
a student wrote passes an allow-list of tags and attributes, once by itself and once more as part of the whole page.
And nothing is loaded: formulas become MathML here, styles are in the page, and a policy tells the browser to refuse
everything else.
"""

import base64
import functools
import hashlib
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbgrader
import nh3
from jinja2 import pass_context
from latex2mathml.converter import convert as latex_to_mathml
from nbconvert.exporters import HTMLExporter, TemplateExporter
from nbconvert.filters import DataTypeFilter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import from_dict
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.preprocessors import NbGraderPreprocessor
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

import autograder
from autograder.gradebook_rows import Rows
from autograder.outputs import clean_outputs
from autograder.results import CheckResult, SubmissionResult, TaskResult, Verdict, load_result, result_path
from autograder.submission import CHECKS_SUFFIX

MAX_CODE = 200_000
MAX_FORMULA = 2_000
MAX_MARKDOWN = 50_000
MAX_OUTPUT_BYTES = 64 * 2**20
MAX_RENDERED = 500_000
MAX_TAGS = 1_000
"""Of HTML in one Markdown cell: the sanitiser's time grows with the square of how deep tags nest."""
CELL_SECONDS, PAGE_SECONDS = 5.0, 20.0
"""Computing time for turning what a student wrote into HTML; what takes longer is shown as it was typed."""


class NoPage(RuntimeError):
    """There can be no page for a submission; the text says why, to the instructor."""


@dataclass(frozen=True)
class Heading:
    """What stands above and beside the notebook in a page.

    Attributes:
        title: The page's title.
        notes: Sentences for the top, the most important first.
        stamp: Hash of everything that decided the page.
    """

    title: str
    notes: tuple[str, ...]
    stamp: str


# What a browser may get

_TEXT_TAGS = {
    "a", "abbr", "b", "blockquote", "br", "caption", "cite", "code", "dd", "del", "details", "dfn", "div", "dl", "dt",
    "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd", "li", "mark",
    "ol", "p", "pre", "q", "s", "samp", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td",
    "tfoot", "th", "thead", "tr", "u", "ul", "var",
}  # fmt: skip
_MATH_TAGS = {
    "math", "menclose", "mfrac", "mi", "mn", "mo", "mover", "mpadded", "mphantom", "mroot", "mrow", "mspace", "msqrt",
    "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover",
}  # fmt: skip
_MATH_ATTRIBUTES = {
    "accent", "accentunder", "columnalign", "columnspacing", "display", "displaystyle", "fence", "form", "height",
    "linethickness", "lspace", "mathvariant", "maxsize", "minsize", "movablelimits", "notation", "rowspacing", "rspace",
    "scriptlevel", "separator", "stretchy", "width",
}  # fmt: skip
_TEXT_ATTRIBUTES = {
    "a": {"href", "title"},
    "details": {"open"},
    "img": {"src", "alt", "title", "width", "height"},
    "ol": {"start"},
    "td": {"align", "colspan", "rowspan"},
    "th": {"align", "colspan", "rowspan"},
}
_ATTRIBUTES = _TEXT_ATTRIBUTES | dict.fromkeys(_MATH_TAGS, _MATH_ATTRIBUTES)

_PIXELS = re.compile(r"data:image/(?:png;base64,iVBORw0KGgo|jpeg;base64,/9j/)[A-Za-z0-9+/\s]*={0,2}\s*")
_LINK = re.compile(r"(?:https?://|mailto:|#)[^\s\\]*")
_PLAIN_VALUE = re.compile(r"[\w .%#=+-]*")


def _attribute(tag: str, name: str, value: str) -> str | None:
    """An attribute's value where it is harmless, else None. Must not raise: the sanitiser would keep the value."""
    if name == "href":
        return value if _LINK.fullmatch(value) else None
    if name == "src":
        return value if _PIXELS.fullmatch(value) else None
    if name in ("alt", "title"):
        return value
    return value if _PLAIN_VALUE.fullmatch(value) else None


def _cleaner(attributes: dict[str, set[str]]) -> nh3.Cleaner:
    return nh3.Cleaner(
        tags=_TEXT_TAGS | _MATH_TAGS,
        attributes=attributes,
        attribute_filter=_attribute,
        url_schemes={"http", "https", "mailto", "data"},  # narrowed by the filter
        link_rel="noopener noreferrer",
    )


_written = _cleaner(_ATTRIBUTES)
"""For what a student wrote: no names, identifiers or classes, with which it could pass for a part of the page."""
_whole = _cleaner(_ATTRIBUTES | {"*": {"class"}, "a": {"href", "title", "name"}})
"""For the page: whatever a template let through ends here."""


# What a student wrote, as HTML


class _TooLong(BaseException):
    """Not an `Exception`, so that no library takes it for one of its own."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `_TooLong` after so much computing; in the main thread only, which is where signals arrive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class _Patience:
    """Computing time that a page may take for what its student wrote."""

    def __init__(self, seconds: float = PAGE_SECONDS) -> None:
        self.left = seconds

    def render(self, function: Callable[[str], str], text: str) -> str:
        """What a function makes of a text; the text as it is where that fails or takes too long.

        Students can write what makes a Markdown, LaTeX or Python parser stumble: that costs them the formatting.
        """
        if self.left <= 0:
            return _as_typed(text)
        started, limit = time.process_time(), min(self.left, CELL_SECONDS)
        try:
            with _time_limit(limit):
                return function(text)
        except _TooLong:
            started = min(started, time.process_time() - limit)  # the timer may be a little ahead of this clock
            return _as_typed(text)
        except Exception:
            return _as_typed(text)
        finally:
            self.left -= time.process_time() - started


def _as_typed(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


class _Renderer(IPythonRenderer):  # type: ignore[misc]
    """Markdown to HTML with formulas as MathML, which browsers show without a script."""

    def inline_math(self, body: str) -> str:
        return _formula(body, "inline")

    def block_math(self, body: str) -> str:
        return _formula(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        whole = body if name.startswith("equation") else f"\\begin{{{name}}}{body}\\end{{{name}}}"
        return _formula(whole, "block")

    def image(self, text: str, url: str, title: str | None = None) -> str:
        if url.startswith("attachment:") and url.removeprefix("attachment:") not in self.attachments:
            return f"[{escape(text)}]"  # nbconvert would give up the whole cell
        return str(super().image(text, url, title))


def _formula(latex: str, display: str) -> str:
    """A formula as MathML, or readable as LaTeX where that cannot be had."""
    latex = latex.strip()
    # The converter copies what stands in \text{...} as it is: it gets no tag to copy.
    safe = _spaced(latex).replace("<", r"\lt ").replace(">", r"\gt ")
    try:
        if len(latex) <= MAX_FORMULA:
            return str(latex_to_mathml(safe, display=display))
    except Exception:  # it has many kinds of errors, and a wrong formula is no reason for having no page
        pass
    return f"<code>{escape(f'$${latex}$$' if display == 'block' else f'${latex}$')}</code>"


_FUNCTION = r"\\(?:arccos|arcsin|arctan|cosh?|cot|det|exp|ln|log|max|min|sinh?|tanh?)(?![A-Za-z])"
_BEFORE_FUNCTION = re.compile(rf"(?<=[A-Za-z0-9}})\]])\s*(?={_FUNCTION})")
_AFTER_FUNCTION = re.compile(
    rf"({_FUNCTION}(?:_(?:\{{[^{{}}]*\}}|[A-Za-z0-9]))?)\s*(?=[A-Za-z0-9]|\\(?!left|big|Big|limits|[^A-Za-z]))"
)


def _spaced(latex: str) -> str:
    """LaTeX with the thin spaces around functions that TeX sets and the converter does not: p ln p, not plnp."""
    return _AFTER_FUNCTION.sub(r"\1\\,", _BEFORE_FUNCTION.sub(r"\\,", latex))


@functools.lru_cache(maxsize=256)  # most cells are the same in every submission
def _markdown_alone(source: str) -> str:
    return _markdown(source, {})


def _markdown(source: str, attachments: Any) -> str:
    renderer = _Renderer(escape=False, attachments=attachments, exclude_anchor_links=True)
    html = str(MarkdownWithMath(renderer=renderer).render(source))
    return _written.clean(html) if len(html) <= MAX_RENDERED else _as_typed(source)


@functools.lru_cache(maxsize=256)
def _python(source: str) -> str:
    return str(highlight(source, get_lexer_by_name("ipython3"), HtmlFormatter()))


# The report on a task


def task_html(task: TaskResult, order: Sequence[str], stopped: str = "", score: float | None = None) -> str:
    """One task's checks for the student, in HTML: what `autograder.report.task_report` says in text.

    Args:
        task: The task.
        order: Names of the assignment's tasks in order, to call a task by its number.
        stopped: What ended the cell with the visible checks, if something did.
        score: The mark in the gradebook, which an instructor may have set by hand.
    """
    passed = sum(check.passed for check in task.checks)
    head = f"<b>Task {order.index(task.name) + 1} · <code>{escape(task.name)}</code></b> "
    tally = f"{passed} of {len(task.checks)} hidden checks passed" if task.checks else "not checked"
    parts = [f"<p>{head}{tally}, {task.earned:g} of {task.points:g} points</p>"]
    if stopped:
        parts.append(f"<p>The visible checks above stopped with {_inline(stopped)}.</p>")
    if score is not None and abs(score - task.earned) > 0.005:
        parts.append(f"<p><b>Your instructor set the mark for this task to {score:g}.</b></p>")
    parts.append(f'<ul class="checks">{"".join(_check_html(check, order) for check in task.checks)}</ul>')
    return f'<div class="report">{"".join(parts)}</div>'


def _check_html(check: CheckResult, order: Sequence[str]) -> str:
    if check.passed:
        return f'<li class="passed"><b>passed</b> {_inline(check.title)}</li>'
    needed = " and ".join(
        f"task {order.index(name) + 1} (<code>{escape(name)}</code>)" for name in check.needs if name in order
    )
    lines = [
        *([_inline(check.cause)] if check.cause else []),
        *([f"<b>Hint:</b> {_inline(check.hint)}"] if check.hint else []),
        *([f"This may follow from {needed}."] if needed else []),
    ]
    details = "".join(f"<p>{line}</p>" for line in lines)
    return f'<li class="failed"><b>not passed</b> {_inline(check.title)}{details}</li>'


def _inline(text: str) -> str:
    """Text with `code` set as code."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(text))


# What nbgrader calls


class PutReports(NbGraderPreprocessor):  # type: ignore[misc]
    """Puts the report on its task into each graded cell, in place of its outputs, and strips what no page shows."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Bring the notebook into the form in which it is shown.

        Raises:
            NoPage: The submission has no result, or the notebook was recorded for another one.
        """
        about = resources["nbgrader"]
        root = Path.cwd()  # nbgrader works in the course's folder
        result = load_result(result_path(root, about["assignment"], about["student"]))
        if result is None:
            raise NoPage("it has not been graded")
        if result.verdict == Verdict.GRADER_FAULT:
            raise NoPage(f"it has no mark, because grading failed: {result.reason}")
        if not _was_run(result):
            nb.cells = []  # what nbgrader recorded, if anything, was handed in before
        _show(nb, result, _hidden_paths(root))
        with Gradebook(about["db_url"]) as gradebook:
            resources["heading"] = Heading(about["notebook"], _notes(result), stamp(root, result, gradebook))
        return nb, resources


def _was_run(result: SubmissionResult) -> bool:
    return any(task.checks for task in result.tasks)


def _notes(result: SubmissionResult) -> tuple[str, ...]:
    notes = []
    if result.reason and _was_run(result):
        notes.append(f"Your submission could not be graded whole: {result.reason}. What it earned counts.")
    elif result.reason:
        notes.append(f"Your submission could not be graded: {result.reason}. It counts as zero.")
    if result.sandbox == "none":
        notes.append("This was graded without a sandbox.")
    return tuple(notes)


def _hidden_paths(root: Path) -> tuple[str, ...]:
    """Paths of the grading machine, longest first.

    Without a sandbox the student's code sees them. In it, some stand where the kernel tells of mounts and where
    packages tell of their installation.
    """
    package = Path(autograder.__file__).parents[1]
    paths = {str(root), str(package), sys.prefix, sys.base_prefix, str(Path.home())} - {"/", "/usr", "/usr/local"}
    return tuple(sorted(paths, key=len, reverse=True))


def _show(nb: Any, result: SubmissionResult, hidden: Sequence[str]) -> None:
    tasks = {task.name: task for task in result.tasks}
    order = list(tasks)
    for cell in nb.cells:
        settings = cell.metadata.get("nbgrader", {})
        cell.metadata = type(cell.metadata)(nbgrader=settings) if settings else type(cell.metadata)()
        if cell.cell_type != "code":
            continue
        if utils.is_grade(cell):
            name = settings["grade_id"].removesuffix(CHECKS_SUFFIX)
            if name not in tasks or _number(cell) != tasks[name].earned:
                raise NoPage(f"the gradebook does not hold the newest result: run `course grade {result.assignment}`")
            report = task_html(tasks[name], order, _visible(cell, result), settings.get("score"))
            outputs: tuple[dict[str, Any], ...] = (
                {"output_type": "display_data", "metadata": {}, "data": {"text/html": report}},
            )
        else:
            outputs = clean_outputs(_without(hidden, json.dumps(cell.outputs)).encode(), MAX_OUTPUT_BYTES)
        cell.outputs = [from_dict(output) for output in outputs]
    nb.metadata = type(nb.metadata)()


def _number(cell: Any) -> float | None:
    """The mark that nbgrader read from a graded cell."""
    results = [output for output in cell.outputs if output.output_type == "execute_result"]
    try:
        return float(results[0]["data"]["text/plain"])
    except (IndexError, KeyError, ValueError):
        return None


def _visible(cell: Any, result: SubmissionResult) -> str:
    """What ended the cell with a task's visible checks, or ""."""
    return next((ran.error for ran in result.cells if ran.cell_id == cell.get("id")), "")


def _without(hidden: Sequence[str], text: str) -> str:
    for path in hidden:
        text = text.replace(path, "...")
    return text


_TEMPLATE = """\
{%- extends 'index.html.j2' -%}
{%- block header -%}{%- endblock -%}
{%- block footer -%}{%- endblock -%}
{%- block in_prompt -%}{%- endblock -%}
{%- block output_area_prompt -%}{%- endblock -%}
{%- block rawcell scoped -%}<pre>{{ cell.source | escape_html }}</pre>{%- endblock -%}
{%- block unknowncell scoped -%}{%- endblock -%}
"""
"""nbgrader's template without its head, which `_page` writes, and without what would show a cell as it is."""


def _patience(context: Any) -> _Patience:
    """What the page that is being made has left."""
    patience: _Patience = context["resources"].setdefault("patience", _Patience())
    return patience


@pass_context
def highlight_code(context: Any, source: str, **_: Any) -> str:
    """Code to HTML; a filter for nbconvert's templates."""
    return _patience(context).render(_python, source) if len(source) <= MAX_CODE else _as_typed(source)


@pass_context
def markdown2html(context: Any, source: str) -> str:
    """Markdown, also that of comments, to HTML that holds nothing active; a filter for nbconvert's templates."""
    if len(source) > MAX_MARKDOWN or source.count("<") > MAX_TAGS:
        return _as_typed(source)
    attachments = context.get("cell", {}).get("attachments", {})
    render = functools.partial(_markdown, attachments=attachments) if attachments else _markdown_alone
    return _patience(context).render(render, source)


class FeedbackPage(HTMLExporter):  # type: ignore[misc]
    """nbgrader's feedback template, with sanitised contents, in a page that loads nothing."""

    def __init__(self, **kwargs: Any) -> None:
        """Make the exporter; what is said here goes before what nbgrader's configuration says of its own."""
        templates = Path(nbgrader.__file__).parent / "server_extensions" / "formgrader" / "templates"
        super().__init__(
            template_name="feedback", extra_template_basedirs=[str(templates)], raw_template=_TEMPLATE, **kwargs
        )

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        """nbconvert's filters, those replaced that see what people wrote."""
        yield from super().default_filters()
        yield "highlight_code", highlight_code
        yield "markdown2html", markdown2html

    def _preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """nbgrader's steps, on the copy of the notebook that nbconvert has made; it would make another here."""
        for step in self._preprocessors:
            nb, resources = step(nb, resources)
        return nb, resources

    def from_notebook_node(self, nb: Any, resources: Any = None, **kwargs: Any) -> tuple[str, Any]:
        """The page of a notebook that went through `PutReports`."""
        self.register_filter("filter_data_type", DataTypeFilter(parent=self))
        # Past HTMLExporter's own, which parses the page once more to add what only JupyterLab's styles use.
        body, resources = TemplateExporter.from_notebook_node(self, nb, self._init_resources(resources), **kwargs)
        return _page(_whole.clean(_tasks_by_name(body)), resources["heading"]), resources


def _tasks_by_name(body: str) -> str:
    """nbgrader's table of contents with the names of tasks, where its own says "Test cell" of each."""
    return re.sub(rf'(<a href="#([\w-]+){CHECKS_SUFFIX}">)Test cell</a>', r"\1<code>\2</code></a>", body)


# The page around it


def _page(body: str, heading: Heading) -> str:
    notes = "".join(f'<p class="note">{_inline(note)}</p>' for note in heading.notes)
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy()}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="{STAMP_NAME}" content="{heading.stamp}">
<title>{escape(heading.title)}</title>
<style>{_style()}</style>
</head>
<body>
{notes}
{body.strip()}
</body>
</html>
"""


@functools.cache
def _policy() -> str:
    style = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"


@functools.cache
def _style() -> str:
    code = re.sub(r" */\*.*?\*/", "", HtmlFormatter().get_style_defs(".highlight"))
    return f"{_CSS}{code}\n"


_CSS = """
body { max-width: 62rem; margin: 0 auto; padding: 1rem; color: #1f2328; background: #fff;
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h4 { font-size: 1.4rem; margin: 0 0 .5rem; }
.rendered_html h4 { font-size: 1rem; }
a { color: #0550ae; }
pre, code { font: .875rem/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre { margin: .5rem 0; white-space: pre-wrap; }
math { font-size: 1.08em; font-family: "Cambria Math", "STIX Two Math", "Latin Modern Math", math; }
math[display="block"] { margin: .6rem 0; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; }
td, th { border: 1px solid #d0d7de; padding: .2rem .6rem; }
blockquote { margin-left: 0; padding-left: 1rem; border-left: 4px solid #d0d7de; }
.note { background: #fff8c5; border: 1px solid #d4a72c; border-radius: 6px; padding: .6rem 1rem; font-weight: 600; }
#toc, .panel-heading ol { margin: 0; padding-left: 1.4rem; }
.late-penalty { color: #a40e26; }
.cell { margin: 1rem 0; }
.input_area { background: #f6f8fa; border-radius: 6px; padding: .1rem .8rem; }
.output_area { padding: 0 .8rem; }
.output_stderr { background: #fff5f5; }
.nbgrader_cell { border: 1px solid #d0d7de; border-radius: 6px; overflow: hidden; }
.nbgrader_cell > .panel-heading { background: #ddf4ff; padding: .3rem .8rem; }
.nbgrader_cell > .panel-body { padding: .1rem .8rem; }
.nbgrader_cell .input_area { background: none; padding: 0; }
.input_area > .highlight { background: none; }
.panel-footer { background: #fff8c5; padding: .1rem .8rem; }
.pull-right { float: right; }
.report { border: 1px solid #d0d7de; border-radius: 6px; padding: .2rem .8rem; margin: .5rem 0; }
.report p { margin: .4rem 0; }
.checks { list-style: none; padding: 0; margin: .4rem 0; }
.checks li { border-left: 4px solid; padding: .1rem .8rem; margin: .4rem 0; }
.checks .passed { border-color: #1a7f37; }
.checks .passed > b { color: #1a7f37; }
.checks .failed { border-color: #cf222e; }
.checks .failed > b { color: #cf222e; }
.checks .failed > p { margin: .2rem 0; }
@media print { .cell { page-break-inside: avoid; } }
"""


# When a page is up to date

STAMP_NAME = "course-feedback"


def stamp(root: Path, result: SubmissionResult, gradebook: Gradebook) -> str:
    """Hash of everything that decides a page: notebook, report, marks and comments, and what makes pages.

    It stands in the page, and so is made of nothing but what the page shows.
    """
    shown = {"verdict", "reason", "sandbox", "tasks"}
    secret = {"tasks": {"__all__": {"checks": {"__all__": {"detail", "cpu_seconds"}}}}}
    notebook = root / "autograded" / result.student / result.assignment / f"{result.assignment}.ipynb"
    parts = [
        hashlib.sha256(notebook.read_bytes()).hexdigest() if _was_run(result) and notebook.is_file() else "",
        {name: value for name, value in result.model_dump(mode="json", exclude=secret).items() if name in shown},
        _marks_and_comments(gradebook, result),
        _maker(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _marks_and_comments(gradebook: Gradebook, result: SubmissionResult) -> list[Any]:
    rows = Rows(gradebook, result.assignment, result.assignment, result.student)
    grades = [[name, grade.score, grade.max_score] for name, grade in rows.grades.items()]
    comments = [[name, comment.comment] for name, comment in rows.comments.items()]
    return [sorted(grades), sorted(comments, key=str), rows.notebook.late_submission_penalty]


@functools.cache
def _maker() -> list[str]:
    packages = ("nbgrader", "nbconvert", "mistune", "Pygments", "nh3", "latex2mathml")
    return [hashlib.sha256(Path(__file__).read_bytes()).hexdigest(), *map(version, packages)]
