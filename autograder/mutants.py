"""Mutants of a reference solution: the same code with one small error in it, made by machine.

The operators are mutmut's, which know the errors of programs in general, and ours, which know those of tensor code: a
mean for a sum, a dropped `dim`, swapped arguments, a lost `.detach()`, another axis. A mutant that hidden checks do not
notice is a wrong answer that would earn full marks.
"""

import ast
import difflib
import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string

Operator = tuple[type[cst.CSTNode], Callable[..., Iterable[cst.CSTNode]]]


@dataclass(frozen=True)
class Mutant:
    """One wrong version of a task's cell.

    Attributes:
        task: The task whose cell it replaces.
        id: Eight hexadecimal digits that depend on the mutated code alone, formatting and comments apart.
        line: Line of the change, counted from 1 in the cell.
        source: The whole cell.
        diff: The change as a unified diff without its header.
    """

    task: str
    id: str
    line: int
    source: str
    diff: str


def mutants_of(task: str, source: str) -> list[Mutant]:
    """All mutants of one cell, in the order of its lines, no two alike.

    Left alone are annotations, docstrings, what stands outside functions, and what a `raise` says: no check reads an
    error's text.

    Args:
        task: The task's name.
        source: Its cell, answers included.
    """
    wrapper = MetadataWrapper(cst.parse_module(source))
    visitor = _Visitor([*_MUTMUT, *_OURS])
    wrapper.visit(visitor)
    seen = {plain(source)}
    mutants = []
    for line, node, replacement in sorted(visitor.found, key=lambda found: found[0]):
        changed = wrapper.module.deep_replace(node, replacement)
        assert isinstance(changed, cst.Module)
        try:
            spelling = plain(changed.code)
        except SyntaxError:
            continue
        if spelling not in seen:
            seen.add(spelling)
            digest = hashlib.sha256(f"{task}\n{spelling}".encode()).hexdigest()[:8]
            mutants.append(Mutant(task, digest, line, changed.code, _diff(source, changed.code)))
    return mutants


def plain(source: str) -> str:
    """Code in Python's own spelling, without comments and docstrings: two that are spelled alike do the same.

    Raises:
        SyntaxError: It is not Python.
    """
    with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
        compile(source, "<code>", "exec", dont_inherit=True)
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node, clean=False):
            node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]
    return ast.unparse(tree)


def _diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
    return "\n".join(line for line in list(lines)[2:])


class _Visitor(cst.CSTVisitor):
    """Collects (line, node, replacement) for everything inside functions that an operator applies to."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, operators: Sequence[Operator]) -> None:
        super().__init__()
        self.operators = operators
        self.found: list[tuple[int, cst.CSTNode, cst.CSTNode]] = []
        self.depth = 0

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Raise) or _is_docstring(node):
            return False
        if self.depth or isinstance(node, cst.FunctionDef):
            line = self.get_metadata(PositionProvider, node, None)
            for kind, operator in self.operators:
                if isinstance(node, kind) and line is not None:
                    self.found += [(line.start.line, node, replacement) for replacement in operator(node)]
        self.depth += isinstance(node, cst.FunctionDef)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        self.depth -= isinstance(original_node, cst.FunctionDef)


def _is_docstring(node: cst.CSTNode) -> bool:
    return (
        isinstance(node, cst.SimpleStatementLine)
        and isinstance(node.body[0], cst.Expr)
        and isinstance(node.body[0].value, cst.SimpleString | cst.ConcatenatedString)
    )


# Texts have operators of their own below: three spellings of each string say little about tensor code.
_MUTMUT: list[Operator] = [(kind, operator) for kind, operator in mutation_operators if operator is not operator_string]

# What a student would write for another, each a method or a function.
_NEIGHBOURS = {
    "sum": ["mean"], "mean": ["sum"], "max": ["min"], "min": ["max"], "amax": ["amin"], "amin": ["amax"],
    "tril": ["triu"], "triu": ["tril"], "softmax": ["log_softmax"], "log_softmax": ["softmax"],
    "zeros": ["ones", "randn"], "ones": ["zeros"], "zeros_like": ["ones_like"], "ones_like": ["zeros_like"],
    "cat": ["stack"], "argmax": ["argmin"], "argmin": ["argmax"], "log": ["log2", "log1p"], "log2": ["log"],
    "log1p": ["log"], "expm1": ["exp"], "exp": ["expm1"], "cos": ["sin"], "sin": ["cos"], "sqrt": ["square"],
    "square": ["sqrt"], "rand": ["randn"], "randn": ["rand"], "rand_like": ["randn_like"],
    "randn_like": ["rand_like"], "floor": ["ceil"], "ceil": ["floor"], "all": ["any"], "any": ["all"],
    "repeat_interleave": ["repeat"], "repeat": ["repeat_interleave"],
    "var": ["std"], "std": ["var"], "cumsum": ["cumprod"], "cumprod": ["cumsum"], "sigmoid": ["tanh"],
    "tanh": ["sigmoid"], "relu": ["gelu"], "append": ["insert"], "prod": ["sum"], "numel": ["dim"],
    "zeros_": ["ones_"], "ones_": ["zeros_"],
}  # fmt: skip
_MODULES = {"torch", "F", "nn", "math", "np", "init", "functional", "special", "linalg", "distributions", "func"}


def _in_parentheses(node: cst.BaseExpression) -> cst.BaseExpression:
    if node.lpar or isinstance(node, cst.Name | cst.Call | cst.Attribute | cst.Subscript | cst.BaseNumber):
        return node
    return node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])


def _lost_or_swapped_operand(node: cst.BinaryOperation) -> Iterator[cst.CSTNode]:
    """`a - b` as `a`, `b` and `b - a`."""
    yield _in_parentheses(node.left)
    yield _in_parentheses(node.right)
    if not isinstance(node.operator, cst.Add | cst.Multiply):
        yield node.with_changes(left=_in_parentheses(node.right), right=_in_parentheses(node.left))


def _lost_call(node: cst.Call) -> Iterator[cst.CSTNode]:
    """`exp(x)` as `x`, `x.detach()` as `x`."""
    if node.args and node.args[0].keyword is None and not node.args[0].star:
        yield _in_parentheses(node.args[0].value)
    if isinstance(node.func, cst.Attribute) and _last_name(node.func.value) not in _MODULES:
        yield node.func.value


def _neighbouring_function(node: cst.Call) -> Iterator[cst.CSTNode]:
    """`x.sum()` as `x.mean()`."""
    name = node.func.attr if isinstance(node.func, cst.Attribute) else node.func
    if isinstance(name, cst.Name):
        for other in _NEIGHBOURS.get(name.value, ()):
            yield node.with_deep_changes(name, value=other)


def _swapped_arguments(node: cst.Call) -> Iterator[cst.CSTNode]:
    """`f(a, b)` as `f(b, a)`."""
    places = [place for place, argument in enumerate(node.args) if argument.keyword is None and not argument.star]
    for i, j in pairwise(places):
        arguments = list(node.args)
        arguments[i] = arguments[i].with_changes(value=node.args[j].value)
        arguments[j] = arguments[j].with_changes(value=node.args[i].value)
        yield node.with_changes(args=arguments)


def _lost_only_keyword(node: cst.Call) -> Iterator[cst.CSTNode]:
    """`x.sum(dim=-1)` as `x.sum()`: mutmut drops an argument only where there are two."""
    if len(node.args) == 1 and (node.args[0].keyword or isinstance(node.args[0].value, cst.UnaryOperation)):
        yield node.with_changes(args=[])


def _another_infinity(node: cst.Call) -> Iterator[cst.CSTNode]:
    """`float("-inf")` as `0.0` and as `float("inf")`."""
    if isinstance(node.func, cst.Name) and node.func.value == "float":
        yield cst.Float("0.0")
        yield cst.parse_expression('float("inf")')


def _first_axis(node: cst.UnaryOperation) -> Iterator[cst.CSTNode]:
    """`-1` as `0`: the first axis for the last."""
    if isinstance(node.operator, cst.Minus) and isinstance(node.expression, cst.Integer):
        yield cst.Integer("0")


def _lost_statement(node: cst.SimpleStatementLine) -> Iterator[cst.CSTNode]:
    """A line left out."""
    if not isinstance(node.body[0], cst.Pass | cst.Import | cst.ImportFrom):
        yield node.with_changes(body=[cst.Pass()])


def _decided_condition(node: cst.If) -> Iterator[cst.CSTNode]:
    """`if x:` as `if True:` and `if False:`."""
    yield node.with_changes(test=cst.Name("True"))
    yield node.with_changes(test=cst.Name("False"))


def _lost_decorator(node: cst.FunctionDef) -> Iterator[cst.CSTNode]:
    """A function without one of its decorators."""
    for place in range(len(node.decorators)):
        yield node.with_changes(decorators=[*node.decorators[:place], *node.decorators[place + 1 :]])


def _lost_transpose(node: cst.Attribute) -> Iterator[cst.CSTNode]:
    """`x.mT` as `x`."""
    if node.attr.value in ("T", "mT", "H", "mH"):
        yield node.value


def _the_other_matrix(node: cst.Attribute) -> Iterator[cst.CSTNode]:
    """`lora_A` as `lora_B`."""
    if node.attr.value.endswith(("_A", "_B")):
        yield node.with_changes(attr=cst.Name(node.attr.value[:-1] + "BA"["AB".index(node.attr.value[-1])]))


def _another_text(node: cst.SimpleString) -> Iterator[cst.CSTNode]:
    """`reduction="sum"` with the text lost."""
    if not node.value.startswith(('"""', "'''")) and node.raw_value:
        yield cst.SimpleString('"mean"' if node.raw_value == "sum" else '"sum"' if node.raw_value == "mean" else '""')


def _last_name(node: cst.BaseExpression) -> str:
    if isinstance(node, cst.Attribute):
        return node.attr.value
    return node.value if isinstance(node, cst.Name) else ""


_OURS: list[Operator] = [
    (cst.BinaryOperation, _lost_or_swapped_operand),
    (cst.Call, _lost_call),
    (cst.Call, _neighbouring_function),
    (cst.Call, _swapped_arguments),
    (cst.Call, _lost_only_keyword),
    (cst.Call, _another_infinity),
    (cst.UnaryOperation, _first_axis),
    (cst.SimpleStatementLine, _lost_statement),
    (cst.If, _decided_condition),
    (cst.FunctionDef, _lost_decorator),
    (cst.Attribute, _lost_transpose),
    (cst.Attribute, _the_other_matrix),
    (cst.SimpleString, _another_text),
]
