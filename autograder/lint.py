"""Finds, before students do, where a reference solution, its notebook and its hidden checks do not fit together.

Everything here reads text and runs nothing: an assignment that does not run can still be linted.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autograder.authoring import BEGIN, END, Script, ScriptCell, ScriptError, read_script, solution_region
from autograder.course import Assignment, Course
from autograder.probes import bound_names, outside_names, undeclared_names

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, order=True)
class Problem:
    """One thing to put right, and where."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def lint(root: Path, course: Course, names: Sequence[str] = ()) -> list[Problem]:
    """Lint assignments.

    Args:
        root: The course's folder.
        course: Its settings.
        names: Assignments to look at; none means all.

    Returns:
        What is wrong, in the order of files and lines; paths are relative to the root.

    Raises:
        CourseError: A name is no assignment's.
    """
    problems = [problem for assignment in course.select(names) for problem in _lint_assignment(root, assignment)]
    return sorted({Problem(found.path.relative_to(root), found.line, found.message) for found in problems})


def solution_path(root: Path, name: str) -> Path:
    """Where an assignment's reference solution is."""
    return root / "solutions" / f"{name}.py"


def checks_path(root: Path, name: str) -> Path:
    """Where an assignment's hidden checks are."""
    return root / "tests" / "checks" / f"test_{name}.py"


def _lint_assignment(root: Path, assignment: Assignment) -> Iterator[Problem]:
    path = checks_path(root, assignment.name)
    try:
        script = read_script(solution_path(root, assignment.name))
        _parse_cells(script)
        hidden = _read_hidden_checks(path)
    except ScriptError as error:
        yield Problem(error.path, error.line, error.message)
        return
    yield from _unique_tasks(script)
    yield from _tasks_and_checks_fit(script, hidden)
    yield from _points_add_up(script, assignment)
    yield from _solution_regions(script)
    yield from _visible_answers(script)
    yield from _names_of_demos(script)
    yield from _undeclared_calls(script, hidden)
    yield from _probes(hidden)


def _parse_cells(script: Script) -> None:
    for cell in _code(script):
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            raise ScriptError(script.path, cell.line + (error.lineno or 1) - 1, f"{error.msg}.") from error


def _code(script: Script) -> Iterator[ScriptCell]:
    return (cell for cell in script.cells if cell.kind == "code")


# Tasks and their checks


@dataclass(frozen=True)
class _HiddenTask:
    """What one class of hidden checks declares."""

    task: str
    needs: frozenset[str]
    line: int


@dataclass(frozen=True)
class _HiddenChecks:
    """What a file of hidden checks declares."""

    path: Path
    tasks: tuple[_HiddenTask, ...]
    probes: tuple[tuple[int, str], ...]
    """Line and source of each probe."""
    problems: tuple[Problem, ...]


def _read_hidden_checks(path: Path) -> _HiddenChecks:
    """Read, without importing it, what a file of hidden checks declares."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except FileNotFoundError:
        raise ScriptError(path, 1, "there are no hidden checks: write this file.") from None
    except SyntaxError as error:
        raise ScriptError(path, error.lineno or 1, f"{error.msg}.") from error
    tasks: list[_HiddenTask] = []
    probes: list[tuple[int, str]] = []
    problems: list[Problem] = []
    for node in tree.body:
        declaration = _decorator(node, "task")
        if isinstance(node, ast.ClassDef) and declaration is not None:
            try:
                tasks.append(_hidden_task(node, declaration))
            except ValueError as error:
                problems.append(Problem(path, node.lineno, str(error)))
            problems += [Problem(path, line, message) for line, message in _untitled(node)]
        elif isinstance(node, _Function) and _decorator(node, "probe") is not None:
            probes.append((node.lineno, ast.get_source_segment(source, node) or ""))
    return _HiddenChecks(path, tuple(tasks), tuple(probes), tuple(problems))


def _decorator(node: ast.AST, name: str) -> ast.expr | None:
    """The decorator of that name, called or not, with or without its module in front."""
    for decorator in getattr(node, "decorator_list", []):
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if ast.unparse(target).rpartition(".")[2] == name:
            found: ast.expr = decorator
            return found
    return None


def _hidden_task(node: ast.ClassDef, declaration: ast.expr) -> _HiddenTask:
    if not (isinstance(declaration, ast.Call) and len(declaration.args) == 1):
        raise ValueError(f'say which task {node.name} checks: @task("name").')
    task = _literal(declaration.args[0])
    if not isinstance(task, str):
        raise ValueError(f"the name of the task that {node.name} checks must be a string.")
    checks = _checks(node)
    if not checks:
        raise ValueError(f"{node.name} has no check: a check is a method whose name begins with test_.")
    needs = _needs(declaration)
    for check in checks:
        needs |= _needs(_decorator(check, "check"))
    return _HiddenTask(task, needs, node.lineno)


def _checks(node: ast.ClassDef) -> list[_Function]:
    return [item for item in node.body if isinstance(item, _Function) and item.name.startswith("test")]


def _needs(declaration: ast.expr | None) -> frozenset[str]:
    """The `needs=` of a decorator."""
    for keyword in declaration.keywords if isinstance(declaration, ast.Call) else ():
        if keyword.arg == "needs":
            needs = _literal(keyword.value)
            if isinstance(needs, str):
                return frozenset({needs})
            if isinstance(needs, tuple | list) and all(isinstance(name, str) for name in needs):
                return frozenset(needs)
            raise ValueError('needs= must be written out, as in needs=("entropy",).')
    return frozenset()


def _literal(node: ast.expr) -> object:
    try:
        value: object = ast.literal_eval(node)
    except ValueError:
        return None
    return value


def _untitled(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    for check in _checks(node):
        if not ast.get_docstring(check):
            yield check.lineno, f"{check.name} has no title: its docstring is the line that the student reads."


def _unique_tasks(script: Script) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for cell in script.cells:
        if cell.grade_id in seen:
            what = f"the task {cell.task}" if cell.task else f"a cell with the checks of {cell.checks}"
            yield Problem(script.path, cell.line, f"there is {what} already, in line {seen[cell.grade_id]}.")
        elif cell.grade_id:
            seen[cell.grade_id] = cell.line


def _tasks_and_checks_fit(script: Script, hidden: _HiddenChecks) -> Iterator[Problem]:
    yield from hidden.problems
    lines = {cell.task: cell.line for cell in script.cells if cell.task}
    visible = {cell.checks: cell.line for cell in script.cells if cell.checks}
    checked = {item.task for item in hidden.tasks}
    for task, line in lines.items():
        if task not in visible:
            yield Problem(script.path, line, f'the task {task} has no cell # %% checks="{task}" points=...')
        elif visible[task] < line:
            yield Problem(script.path, visible[task], f"the checks of {task} stand above the task.")
        if task not in checked:
            yield Problem(script.path, line, f"the task {task} has no hidden checks in {hidden.path.name}.")
    for task, line in visible.items():
        if task not in lines:
            yield Problem(script.path, line, f"these are checks of {task}, but there is no such task.")
    for item in hidden.tasks:
        for name in sorted({item.task} | item.needs):
            if name not in lines:
                what = "checks" if name == item.task else "needs"
                yield Problem(hidden.path, item.line, f"this class {what} {name}, but there is no such task.")


def _points_add_up(script: Script, assignment: Assignment) -> Iterator[Problem]:
    total = sum(cell.points for cell in script.cells if cell.points)
    if abs(total - assignment.points) > 1e-9:
        message = f"the points add up to {total:g}; course_config.py says {assignment.points:g}."
        yield Problem(script.path, 1, message)


# Solution regions


def _solution_regions(script: Script) -> Iterator[Problem]:
    for cell in script.cells:
        markers = _region_markers(cell)
        unbalanced = _unbalanced(markers)
        if unbalanced is not None:
            line, message = unbalanced
            yield Problem(script.path, cell.line + line - 1, message)
        elif markers and not cell.task:
            yield Problem(script.path, cell.line + markers[0][0] - 1, "a solution region outside a task cell.")
        elif cell.task:
            yield from _functions_have_regions(script, cell, [line for line, marker in markers if marker == BEGIN])


def _region_markers(cell: ScriptCell) -> list[tuple[int, str]]:
    """Lines of the cell, counted from one, that open or close a solution region."""
    lines = enumerate(cell.source.split("\n"), 1)
    return [(number, marker) for number, line in lines for marker in (BEGIN, END) if marker in line]


def _unbalanced(markers: Iterable[tuple[int, str]]) -> tuple[int, str] | None:
    opened = 0
    for line, marker in markers:
        if marker == BEGIN and opened:
            return line, f"{BEGIN} although the one above is still open."
        if marker == END and not opened:
            return line, f"{END} without a {BEGIN} above."
        opened = line if marker == BEGIN else 0
    return (opened, f"{BEGIN} without an {END} below.") if opened else None


def _functions_have_regions(script: Script, cell: ScriptCell, begins: list[int]) -> Iterator[Problem]:
    defined = [node for node in ast.parse(cell.source).body if isinstance(node, _Function | ast.ClassDef)]
    if not defined:
        yield Problem(script.path, cell.line, f"the task {cell.task} defines no function and no class.")
    inside: set[int] = set()
    for node in defined:
        own = {line for line in begins if node.lineno < line <= (node.end_lineno or line)}
        inside |= own
        if not own:
            message = f"{node.name} has no solution region: students would get its answer."
            yield Problem(script.path, cell.line + node.lineno - 1, message)
    for line in set(begins) - inside:
        message = "a solution region outside a function: what students get would fail when the cell runs."
        yield Problem(script.path, cell.line + line - 1, message)


# Answers in what students see


def _visible_answers(script: Script) -> Iterator[Problem]:
    answers = {text: line for cell in script.cells if cell.task for line, text in answers_of(cell)}
    owners = {name: cell for cell in script.cells if cell.task for name in _functions(cell)}
    for cell in script.cells:
        _, visible = solution_region(cell.source)
        for answer, origin in answers.items():
            line = find_answer(answer, visible)
            if line is not None:
                message = f"students see the answer of line {origin} here: {answer}"
                yield Problem(script.path, cell.line + line - 1, message)
        if cell.kind == "code":
            for name in sorted(bound_names(cell.source) & owners.keys()):
                if owners[name] is not cell:
                    message = f"{name} is defined here, but it belongs to the task {owners[name].task}."
                    yield Problem(script.path, cell.line, message)


def answers_of(cell: ScriptCell) -> Iterator[tuple[int, str]]:
    """What a task cell's answer computes.

    Yields:
        A line of the script and the expression that is returned or assigned there, in one fixed spelling. Expressions
        that say little, such as `result` or `x.sum(-1)`, are left out: they may well stand elsewhere.
    """
    lines, _ = solution_region(cell.source)
    for node in ast.walk(ast.parse(cell.source)):
        if not isinstance(node, ast.Return | ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr):
            continue
        text = _tight(ast.get_source_segment(cell.source, node.value) or "") if node.value else ""
        if lines[node.lineno - 1] and _is_telling(text):
            yield cell.line + node.lineno - 1, text


def find_answer(answer: str, lines: Sequence[str]) -> int | None:
    """The line, counted from one, in which an answer ends that a text shows, however it is wrapped and spaced."""
    pattern = re.compile(rf"(?<![\w.]){re.escape(answer)}(?!\w)" if answer[0].isalpha() else re.escape(answer))
    if not pattern.search(_tight("\n".join(lines))):
        return None
    shown = (number for number in range(1, len(lines) + 1) if pattern.search(_tight("\n".join(lines[:number]))))
    return next(shown, len(lines))


def _is_telling(code: str) -> bool:
    """Whether an expression is so particular that it would give an answer away."""
    return len(re.findall(r"(?<![\w)\]])-?\d[\d.e]*|[^\W\d]\w*|[-+*/%@<>&|^~]+", code)) >= 5


def _tight(text: str) -> str:
    """A text without the spaces and line breaks that mean nothing in code."""
    return " ".join(re.sub(r"\s*([^\w\s])\s*", r"\1", text).split())


def _functions(cell: ScriptCell) -> set[str]:
    """Names of the functions and classes that a cell defines."""
    return {node.name for node in ast.parse(cell.source).body if isinstance(node, _Function | ast.ClassDef)}


# Names that cross from cell to cell


def _names_of_demos(script: Script) -> Iterator[Problem]:
    """Demo cells may be skipped while grading, so nothing else may lean on them."""
    demo_names = {name for cell in _code(script) if cell.demo for name in bound_names(cell.source)}
    plain_names = {name for cell in _code(script) if not cell.demo for name in bound_names(cell.source)}
    from_demo: set[str] = set()  # names whose latest binding, in the order of the cells, is a demo's
    for cell in _code(script):
        if cell.demo:
            from_demo |= bound_names(cell.source)
            continue
        for name in sorted(outside_names(cell.source) & (from_demo | (demo_names - plain_names))):
            line = cell.line + _first_use(cell.source, name) - 1
            yield Problem(script.path, line, f"{name} comes from a demo cell, which grading may skip.")
        from_demo -= bound_names(cell.source)


def _first_use(source: str, name: str) -> int:
    lines = [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name) and node.id == name]
    return min(lines, default=1)


def _undeclared_calls(script: Script, hidden: _HiddenChecks) -> Iterator[Problem]:
    """A solution that calls another task's function fails with it: its hidden checks must say so."""
    owners = {name: cell.task for cell in script.cells if cell.task for name in _functions(cell)}
    helpers = _helpers(script)
    declared: dict[str, set[str]] = {}
    for item in hidden.tasks:
        declared.setdefault(item.task, set()).update(item.needs)
    for cell in script.cells:
        if cell.task is None:
            continue
        for name in sorted(_reached(outside_names(cell.source), helpers) & owners.keys()):
            owner = owners[name]
            if owner != cell.task and owner not in declared.get(cell.task, set()):
                message = f'{cell.task} calls {name}: say needs=("{owner}",) at its checks in {hidden.path.name}.'
                yield Problem(script.path, cell.line + _first_use(cell.source, name) - 1, message)


def _helpers(script: Script) -> dict[str, set[str]]:
    """What each function outside the tasks uses, itself and through other such functions not yet followed."""
    return {
        node.name: outside_names(ast.unparse(node))
        for cell in _code(script)
        if not (cell.task or cell.demo or cell.checks)
        for node in ast.parse(cell.source).body
        if isinstance(node, _Function | ast.ClassDef)
    }


def _reached(names: set[str], helpers: dict[str, set[str]]) -> set[str]:
    """Names that are used directly or through helpers."""
    reached: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += helpers.get(name, ())
    return reached


def _probes(hidden: _HiddenChecks) -> Iterator[Problem]:
    for line, source in hidden.probes:
        for name in sorted(undeclared_names(source)):
            message = f"a probe names {name}: only its parameters, its locals, torch and math exist where it runs."
            yield Problem(hidden.path, line, message)


def summary(problems: Sequence[Problem]) -> str:
    """The problems, a line for each, and how many there are in which file."""
    counted = Counter(problem.path for problem in problems)
    total = ", ".join(f"{count} in {path}" for path, count in sorted(counted.items()))
    return "\n".join([*map(str, problems), f"{len(problems)} to put right: {total}"])
