"""What a probe may name: a function that crosses into the sandbox as source text must make sense there on its own.

Its parameters, its locals, Python's builtins, `torch` and `math` are there; a helper, a constant of the checks file or
another module is not, and must not be: an expected value would cross with it.
"""

import ast
import builtins
import symtable

MODULES = frozenset({"torch", "math"})
"""The modules that every probe finds in the sandbox without importing them."""

_HIDING = frozenset({"eval", "exec", "compile", "globals", "open", "input", "breakpoint"})
"""Builtins that reach what reading the source cannot show."""

_KNOWN = MODULES | {name for name in dir(builtins) if not name.startswith("_")} - _HIDING


def undeclared_names(source: str) -> set[str]:
    """Find what a function's source uses beyond its parameters, locals, builtins, `torch` and `math`.

    Args:
        source: One function or lambda as `inspect.getsource` returns it: indented and decorated sources are fine, and
            the decorators themselves are left out.

    Returns:
        What is used but must not be, as written: a name (`EXPECTED`), an import (`import numpy`), or an attribute that
        leads into the interpreter (`.__globals__`). Empty for a probe that may cross.

    Raises:
        SyntaxError: The source is not Python.
    """
    tree = _parse(source)
    return (outside_names(ast.unparse(tree)) - _KNOWN) | _imports(tree) | _interpreter_attributes(tree)


def outside_names(source: str) -> set[str]:
    """Names that a piece of Python uses, in whatever scope, and that it neither defines nor imports itself."""
    used = set()
    scopes = [symtable.symtable(source, "<source>", "exec")]
    while scopes:
        scope = scopes.pop()
        at_top = scope.get_type() == "module"
        used |= {
            name.get_name() for name in scope.get_symbols() if (name.is_referenced() if at_top else name.is_global())
        }
        scopes += scope.get_children()
    return used - bound_names(source)


def bound_names(source: str) -> set[str]:
    """Names that a piece of Python defines or imports at its top level."""
    symbols = symtable.symtable(source, "<source>", "exec").get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}


def _parse(source: str) -> ast.Module:
    """Read the source of one function, which may be indented, without its decorators."""
    if source[:1].isspace():
        source = f"if True:\n{source}"  # `textwrap.dedent` stumbles over strings that reach further left
    tree = ast.parse(source)
    if isinstance(tree.body[0], ast.If):
        tree.body = tree.body[0].body
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            statement.decorator_list = []
    return tree


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {f"import {alias.name}" for alias in node.names if alias.name.partition(".")[0] not in MODULES}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module.partition(".")[0] not in MODULES:
                found.add(f"from {module} import {', '.join(alias.name for alias in node.names)}")
    return found


def _interpreter_attributes(tree: ast.AST) -> set[str]:
    """Attributes such as `.__globals__`; `super().__init__()` is how a module is written and stays allowed."""
    return {
        f".{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("__")
        and node.attr.endswith("__")
        and not (isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "super")
    }
