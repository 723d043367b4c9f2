"""Variants of a reference solution, to test the hidden checks with: typical mistakes, and other right answers.

A variants file (`tests/variants/<assignment>.py`) is a list of functions that are never called. The *body* of each is
source text that runs after the reference's cell of one task and so replaces that task's functions:

    @mistake("kl_divergence", "the arguments of KL are swapped")
    def kl_swapped():
        def kl_divergence(p, q):
            return (torch.special.xlogy(q, q) - torch.special.xlogy(q, p)).sum(-1)

The checks of that task must catch every mistake, and let every alternative pass. The body may use the names that the
notebook has at that point (`torch`, `math`, earlier tasks); anything else it imports itself. The file is read as a
syntax tree and is not executed, so the arguments of a decorator are literals.
"""

import ast
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

Kind = Literal["mistake", "alternative"]
_Function = TypeVar("_Function", bound=Callable[..., Any])


class VariantsError(ValueError):
    """A variants file is not what `load_variants` reads; the message names the file, the line and what to do."""


@dataclass(frozen=True)
class Variant:
    """One replacement of one task's functions."""

    task: str
    kind: Kind
    description: str
    """What is wrong with a mistake, or how an alternative goes about it."""
    name: str
    """The function's name in the variants file: unique there."""
    source: str
    """Statements to execute after the reference's cell of `task`."""
    also: tuple[str, ...] = ()
    """Further tasks where a mistake may lose points, because their checks need this one."""


def mistake(task: str, reason: str, also: Sequence[str] = ()) -> Callable[[_Function], _Function]:
    """Mark a function whose body is a wrong answer to `task`: the checks must catch it.

    Args:
        task: Name of the task it replaces.
        reason: What is wrong, in the words a teacher would use.
        also: Tasks that build on this one, where it may lose points too.
    """
    return lambda function: function


def alternative(task: str, how: str) -> Callable[[_Function], _Function]:
    """Mark a function whose body is another right answer to `task`: the checks must accept it.

    Args:
        task: Name of the task it replaces.
        how: In what it differs from the reference.
    """
    return lambda function: function


def load_variants(path: Path) -> list[Variant]:
    """Read a variants file, without executing any of it.

    Args:
        path: The file. Besides marked functions it may hold a docstring and imports (for linters), nothing else:
            what stands outside a body would not be there when the body runs.

    Returns:
        The variants in the order of the file.

    Raises:
        VariantsError: The file is missing, is not Python, or holds something that is not a variant.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, filename=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise VariantsError(f"{path}: cannot be read: {error}") from error
    except SyntaxError as error:
        raise VariantsError(f"{path}:{error.lineno}: not valid Python: {error.msg}") from error

    variants: dict[str, Variant] = {}
    for statement in tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)) or _is_docstring(statement):
            continue
        if not isinstance(statement, ast.FunctionDef):
            _refuse(path, statement, "only imports and functions marked @mistake or @alternative belong here")
        if statement.name in variants:
            _refuse(path, statement, f"a second variant is named {statement.name!r}: names must be unique")
        variants[statement.name] = _variant(path, text, statement)
    if not variants:
        raise VariantsError(f"{path}: holds no variants: mark functions with @mistake(...) or @alternative(...)")
    return list(variants.values())


def _variant(path: Path, text: str, function: ast.FunctionDef) -> Variant:
    """One marked function as a variant."""
    arguments = function.args
    if arguments.posonlyargs or arguments.args or arguments.kwonlyargs or arguments.vararg or arguments.kwarg:
        _refuse(path, function, f"{function.name} takes no parameters: only its body is used, and it is never called")
    if len(function.decorator_list) != 1:
        _refuse(path, function, f"{function.name} needs exactly one decorator: @mistake(...) or @alternative(...)")
    kind, given = _marking(path, function.name, function.decorator_list[0])
    body = function.body[1:] if _is_docstring(function.body[0]) else function.body
    if not any(isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.Assign)) for statement in body):
        _refuse(path, function, f"the body of {function.name} defines nothing, so it would replace nothing")
    for statement in body:
        for node in _outside_functions(statement):
            if isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom)):
                _refuse(path, node, f"the body of {function.name} runs as a cell does: it cannot return or yield")
    return Variant(
        task=given["task"],
        kind=kind,
        description=given["reason" if kind == "mistake" else "how"],
        name=function.name,
        source=_source(text, body),
        also=tuple(given.get("also", ())),
    )


def _marking(path: Path, name: str, decorator: ast.expr) -> tuple[Kind, dict[str, Any]]:
    """Which decorator it is, and its arguments by name."""
    parameters: dict[Kind, tuple[str, ...]] = {"mistake": ("task", "reason", "also"), "alternative": ("task", "how")}
    if not (isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name)):
        _refuse(path, decorator, f"{name} is marked with neither @mistake(...) nor @alternative(...)")
    kind: Kind
    if decorator.func.id == "mistake":
        kind = "mistake"
    elif decorator.func.id == "alternative":
        kind = "alternative"
    else:
        _refuse(path, decorator, f"@{decorator.func.id} is unknown here: use @mistake(...) or @alternative(...)")
    names = parameters[kind]
    if len(decorator.args) > len(names):
        _refuse(path, decorator, f"@{kind} takes {', '.join(names)}: {name} gives more")
    given: dict[str, Any] = {}
    pairs = [*zip(names, decorator.args, strict=False), *((word.arg, word.value) for word in decorator.keywords)]
    for parameter, value in pairs:
        if parameter not in names or parameter in given:
            _refuse(path, decorator, f"@{kind} takes {', '.join(names)}, each once: {name} gives {parameter}")
        try:
            given[parameter] = ast.literal_eval(value)
        except ValueError:
            _refuse(path, value, f"{parameter} of {name} must be written out as a literal: the file is not executed")
    for parameter in names[:2]:
        if not isinstance(given.get(parameter), str) or not given[parameter].strip():
            _refuse(path, decorator, f"@{kind} of {name} needs {parameter}, a text")
    also = given.get("also", ())
    if not isinstance(also, (tuple, list)) or not all(isinstance(task, str) for task in also):
        _refuse(path, decorator, f"also of {name} must be a list or tuple of task names")
    return kind, given


def _source(text: str, body: Sequence[ast.stmt]) -> str:
    """The statements as they were written, moved to the left margin."""
    first = min([body[0].lineno, *(node.lineno for node in getattr(body[0], "decorator_list", []))])
    last = body[-1].end_lineno or body[-1].lineno
    written = textwrap.dedent("\n".join(text.splitlines()[first - 1 : last])) + "\n"
    tree = ast.Module(body=list(body), type_ignores=[])
    try:
        if ast.dump(ast.parse(written)) == ast.dump(tree):
            return written
    except SyntaxError:
        pass
    # A string over several lines changes when it is moved, and `def f(): g = 1` shares its line with the body.
    return ast.unparse(tree) + "\n"


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str)


def _outside_functions(node: ast.AST) -> list[ast.AST]:
    """The node and what it contains, without looking into functions and classes."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return []
    return [node, *(inner for child in ast.iter_child_nodes(node) for inner in _outside_functions(child))]


def _refuse(path: Path, node: ast.stmt | ast.expr | ast.AST, problem: str) -> NoReturn:
    raise VariantsError(f"{path}:{getattr(node, 'lineno', '?')}: {problem}")
