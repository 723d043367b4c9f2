"""An assignment is one percent script: read it, build its notebook, or run it as the reference solution.

The author marks two kinds of cells, `# %% task="kl"` and `# %% checks="kl" points=3`, and tags demo cells; everything
that nbgrader and Jupyter want to know follows from that. A build depends on the script alone: the same text gives the
same bytes on every machine.
"""

import io
import itertools
import keyword
import linecache
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jupytext
import nbformat
from nbformat import NotebookNode

from autograder.course import CourseError

HELPER = "expect"
"""The module beside the scripts that every student gets beside the notebook."""

BEGIN, END = "BEGIN SOLUTION", "END SOLUTION"
"""The comments around what students do not get; nbgrader looks for the same words."""

STUB = {"python": "raise NotImplementedError"}
"""What students find in the place of an answer."""

_FORMAT = {"extension": ".py", "format_name": "percent", "comment_magics": False}
_MARKER = re.compile(r"#\s*%%+(\s|$)")
_OPTIONS = {"task", "checks", "points", "tags", "title"}
_JUPYTEXTS_OWN = {"lines_to_next_cell", "lines_to_end_of_cell_marker", "cell_marker"}  # how the script was laid out


class ScriptError(CourseError):
    """A script cannot be read as one; says where."""

    def __init__(self, path: Path, line: int, message: str) -> None:
        super().__init__(f"{path}, line {line}: {message}")
        self.path, self.line, self.message = path, line, message


@dataclass(frozen=True)
class ScriptCell:
    """One cell of a script, with what its marker says."""

    kind: Literal["markdown", "code"]
    source: str
    line: int
    """Where the source begins in the script, counted from one."""
    cell_id: str
    task: str | None = None
    """The task whose answer this cell holds."""
    checks: str | None = None
    """The task that this cell's visible checks belong to."""
    points: float | None = None
    demo: bool = False

    @property
    def grade_id(self) -> str | None:
        """What nbgrader calls the cell; None for one that it leaves alone."""
        return self.task or (f"{self.checks}_checks" if self.checks else None)


@dataclass(frozen=True)
class Script:
    """A percent script, cell by cell."""

    path: Path
    cells: tuple[ScriptCell, ...]

    @property
    def name(self) -> str:
        """The assignment's name."""
        return self.path.stem

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return tuple(cell.task for cell in self.cells if cell.task)


# Reading


def read_script(path: Path) -> Script:
    """Read a percent script.

    A docstring or comments above the first marker are for readers of the script and belong to no cell.

    Raises:
        CourseError: The script cannot be read, or a marker says something that it must not; the text names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScriptError(path, 1, f"the script cannot be read: {error}") from error
    lines = text.splitlines(keepends=True)
    markers = _marker_lines(path, text)
    first = markers[0] if markers else len(lines) + 1
    _no_code_above(path, "".join(lines[: first - 1]))
    cells = jupytext.reads("".join(lines[first - 1 :]), fmt=_FORMAT).cells if markers else []
    if len(cells) != len(markers):
        raise ScriptError(path, first, f"{len(markers)} cell markers make {len(cells)} cells; is one of them indented?")
    read = [_read_cell(path, cell, line) for cell, line in zip(cells, markers, strict=True)]
    return Script(path, _with_ids(read))


def _marker_lines(path: Path, text: str) -> list[int]:
    """Lines of the `# %%` comments; those inside a string are none."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except tokenize.TokenError as error:
        raise ScriptError(path, error.args[1][0], f"{error.args[0]}.") from error
    except SyntaxError as error:
        raise ScriptError(path, error.lineno or 1, f"{error.msg}.") from error
    return [
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and _MARKER.match(token.string) and not token.line[: token.start[1]].strip()
    ]


def _no_code_above(path: Path, text: str) -> None:
    allowed = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.STRING, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in allowed:
            raise ScriptError(path, token.start[0], "this code belongs to no cell; put '# %%' above it.")


def _read_cell(path: Path, cell: NotebookNode, marker: int) -> ScriptCell:
    """Turn one cell, as jupytext reads it, and the line of its marker into ours (its id comes later)."""
    options = {key: value for key, value in cell.metadata.items() if key not in _JUPYTEXTS_OWN}
    wrong = _wrong_marker(options, cell.cell_type)
    if wrong:
        raise ScriptError(path, marker, wrong)
    task, checks, points = (options.get(key) for key in ("task", "checks", "points"))
    source = cell.source.lstrip("\n")
    skipped = len(cell.source) - len(source)
    return ScriptCell(cell.cell_type, source, marker + 1 + skipped, "", task, checks, points, "tags" in options)


def _wrong_marker(options: Mapping[str, Any], kind: str) -> str | None:
    """What a cell marker says that it must not; None where it is fine."""
    task, checks, points, tags = (options.get(key) for key in ("task", "checks", "points", "tags"))
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown or "=" in options.get("title", "") or kind not in ("markdown", "code"):
        garbled = options.get("incorrectly_encoded_metadata")
        said = garbled or ", ".join(unknown) or options.get("title", f"[{kind}]")
        return (
            f'a cell marker cannot say {said!r}; it says [markdown], task="name", '
            'checks="name" points=3, or tags=["demo"].'
        )
    for name in (task, checks):
        if name is not None and not (isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)):
            return f"{name!r} cannot name a task; a Python name can, such as that of its function."
    if tags not in (None, ["demo"]):
        return f'the tags are {tags!r}; the one tag that there is, is tags=["demo"].'
    if sum(option is not None for option in (task, checks, tags)) > 1:
        return "a cell is either a task, or checks, or a demo."
    if (task or checks or tags) and kind == "markdown":
        return "only a code cell is a task, checks, or a demo."
    if (checks is None) != (points is None):
        return "points belong to a cell with checks, and such a cell needs points."
    if points is not None and not (type(points) in (int, float) and 0 < points < float("inf")):
        return f"the points are {points!r}; they must be a number greater than 0."
    return None


def _with_ids(cells: list[ScriptCell]) -> tuple[ScriptCell, ...]:
    """Give each cell an id made of names.

    A cell without a task is called after its first words, so that editing, adding or moving one leaves the ids of the
    others alone.
    """
    taken = {cell.grade_id for cell in cells}
    named = []
    for cell in cells:
        cell_id = cell.grade_id or _free_id(cell, taken)
        taken.add(cell_id)
        named.append(ScriptCell(**{**vars(cell), "cell_id": cell_id}))
    return tuple(named)


def _free_id(cell: ScriptCell, taken: set[str | None]) -> str:
    kind = "demo" if cell.demo else "text" if cell.kind == "markdown" else "code"
    words = re.findall(r"[a-z0-9]+", cell.source.partition("\n")[0].lower())
    base = "_".join([kind, *words])[:48].rstrip("_")
    numbered = (f"{base}_{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([base], numbered) if name not in taken)


# Building


def build_notebook(script: Script) -> NotebookNode:
    """The instructor's notebook: every cell of the script, answers included, with nbgrader's metadata."""
    notebook = nbformat.v4.new_notebook(
        cells=[_build_cell(cell) for cell in script.cells],
        metadata={
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            # No version here: it would be that of the machine which built the notebook.
            "language_info": {
                "file_extension": ".py",
                "mimetype": "text/x-python",
                "name": "python",
                "pygments_lexer": "ipython3",
            },
        },
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def _build_cell(cell: ScriptCell) -> NotebookNode:
    metadata: dict[str, Any] = {}
    if cell.grade_id:
        metadata["nbgrader"] = {
            "grade": cell.checks is not None,
            "grade_id": cell.grade_id,
            "locked": cell.checks is not None,
            "schema_version": 3,
            "solution": cell.task is not None,
            "task": False,
        }
    if cell.checks:
        metadata["nbgrader"]["points"] = cell.points
    if cell.demo:
        metadata["tags"] = ["demo"]
    new_cell = nbformat.v4.new_code_cell if cell.kind == "code" else nbformat.v4.new_markdown_cell
    return new_cell(cell.source, id=cell.cell_id, metadata=metadata)


def solved_notebook(script: Script, overrides: Mapping[str, str] | None = None) -> NotebookNode:
    """A submission with the reference answers: the released notebook, its stubs filled in.

    Args:
        script: The assignment.
        overrides: Per task, source that a student adds below the reference answer and that so takes its place.

    Raises:
        CourseError: An override is for a task that there is not.
    """
    return with_answers(released_notebook(script), script, overrides)


def with_answers(notebook: NotebookNode, script: Script, overrides: Mapping[str, str] | None = None) -> NotebookNode:
    """The same notebook, its tasks' cells filled in; the other arguments and what it raises are `solved_notebook`'s."""
    overrides = _known_tasks(script, overrides)
    answers = {cell.cell_id: cell for cell in script.cells if cell.task}
    for cell in notebook.cells:
        if cell.id in answers:
            answer = answers[cell.id]
            cell.source = without_markers(answer.source)
            if answer.task and answer.task in overrides:
                cell.source += f"\n\n\n{overrides[answer.task].strip()}"
    return notebook


def released_notebook(script: Script) -> NotebookNode:
    """The notebook that students get, by nbgrader's own steps but without a gradebook."""
    from nbgrader.preprocessors import ClearSolutions, ComputeChecksums, LockCells

    notebook = build_notebook(script)
    for step in (LockCells(), ClearSolutions(code_stub=STUB), ComputeChecksums()):
        notebook, _ = step.preprocess(notebook, {})
    return notebook


def without_markers(source: str) -> str:
    """A task cell's source without the two comments around its answer."""
    return "\n".join(line for line in source.split("\n") if BEGIN not in line and END not in line)


def solution_region(source: str) -> tuple[list[str], list[str]]:
    """Part the lines of a cell into those of its answer and those that students get.

    Both lists are as long as the cell; a line that belongs to the other one is empty.
    """
    answer, visible = [], []
    inside = False
    for line in source.split("\n"):
        marker = BEGIN in line or END in line
        if marker:
            inside = BEGIN in line
        answer.append(line if inside and not marker else "")
        visible.append(line if not inside and not marker else "")
    return answer, visible


def notebook_bytes(notebook: NotebookNode) -> bytes:
    """A notebook as it is written to a file."""
    return f"{nbformat.writes(notebook).rstrip()}\n".encode()


# Running


def load_solution(script: Path | Script, *, overrides: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a script as the reference solution, without its demo and checks cells.

    Args:
        script: The script, or its path. Modules beside it can be imported while it runs.
        overrides: Per task, source that runs right after the task's cell, as if a student had written it there.

    Returns:
        The namespace in which the cells ran. It is fresh on every call, modules from beside the script included.

    Raises:
        CourseError: The script cannot be read, or an override is for a task that there is not.
        Exception: What the script's code raises; tracebacks show the script's own lines.
    """
    script = read_script(script) if isinstance(script, Path) else script
    overrides = _known_tasks(script, overrides)
    module = ModuleType(f"solution_{script.name}")
    module.__file__ = str(script.path)
    with _importable(script.path.resolve().parent, module):
        for cell in script.cells:
            if cell.kind == "markdown" or cell.demo or cell.checks:
                continue
            # Empty lines in front make the compiler count as the script does.
            _execute("\n" * (cell.line - 1) + cell.source, str(script.path), module)
            if cell.task and cell.task in overrides:
                source, name = overrides[cell.task], f"<{script.name}: instead of {cell.task}>"
                linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
                _execute(source, name, module)
    return vars(module)


def _execute(source: str, name: str, module: ModuleType) -> None:
    exec(compile(source, name, "exec", dont_inherit=True), vars(module))


def _known_tasks(script: Script, overrides: Mapping[str, str] | None) -> Mapping[str, str]:
    unknown = sorted((overrides or {}).keys() - set(script.tasks))
    if unknown:
        raise CourseError(f"{script.path} has no task {', '.join(unknown)}; its tasks are {', '.join(script.tasks)}.")
    return overrides or {}


@contextmanager
def _importable(folder: Path, module: ModuleType) -> Iterator[None]:
    """Let a folder's modules be imported, and afterwards forget them: the next course has others of the same name.

    The folder comes last, as it does for a submission: an assignment called `statistics` hides no library.
    """
    elsewhere = sys.modules.pop(HELPER, None)
    sys.path.append(str(folder))
    sys.modules[module.__name__] = module  # dataclasses look their module up while they are made
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        del sys.modules[module.__name__]
        for name, other in list(sys.modules.items()):
            file = getattr(other, "__file__", None)
            if isinstance(file, str) and Path(file).parent == folder:
                del sys.modules[name]
        if elsewhere:
            sys.modules[HELPER] = elsewhere
