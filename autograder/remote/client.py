"""The `student` object of hidden checks: attribute access names what the student defined, a call runs it over there.

It is the same object whether it fronts a submission in the sandbox or, under plain `pytest`, the reference solution in
this process: the reference goes through the same encode and decode.
"""

import ast
import builtins
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autograder.probes import undeclared_names
from autograder.remote import wire
from autograder.remote.server import UNREADABLE, Server, compile_function
from autograder.remote.standin import DEVICE


class StudentError(Exception):
    """Student code raised an exception, or answered with something that is not an answer.

    Attributes:
        kind: Name of the builtin exception that it is or extends; "UnreadableAnswer" where the answer is not one.
        text: What it said; for instructors, since it can carry hidden inputs.
        cell: Identifier of the notebook cell whose line raised it, or "".
        line: Number of that line in the cell, from 1; 0 where it is not known.
    """

    def __init__(self, kind: str, text: str, cell: str = "", line: int = 0) -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind, self.text, self.cell, self.line = kind, text, cell, line


class Probe:
    """A function that crosses as its own source text and runs beside the student's code (see `autograder.probes`).

    Called here, it runs here: a check may evaluate the density that it hands to a sampler.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        """Take a function's source, without its decorators, annotations, comments and docstring.

        Raises:
            ValueError: It names more than its parameters, locals, builtins, `torch` and `math`.
        """
        self.name = function.__name__
        self.source = _bare_source(function)
        extra = undeclared_names(self.source)
        if extra:
            raise ValueError(
                f"probe `{self.name}` names {', '.join(sorted(extra))}: a probe crosses into the sandbox as its source "
                "and may name only its parameters, its locals, builtins, torch and math. Pass the rest as arguments."
            )
        self._function = compile_function(self.name, self.source)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _bare_source(function: Callable[..., Any]) -> str:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.decorator_list = [] if node is tree.body[0] else node.decorator_list
            node.returns = None
            arguments = node.args
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                argument.annotation = None
            for rest in (arguments.vararg, arguments.kwarg):
                if rest is not None:
                    rest.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


Ask = Callable[[bytes], bytes | bytearray]


# What a check might ask of a tensor that it believes to have: `out.sum(-1)` must not be answered by the student's code.
_VALUES_ONLY = frozenset(dir(torch.Tensor)) - frozenset(dir(torch.nn.Module))


class Remote:
    """Something that stays on the student's side: call it, or name one of its attributes.

    It is no value: it has no truth, cannot be compared, and does not answer to names of a tensor's own, except through
    `attribute`.
    """

    def __init__(self, student: "Student", handle: int | None, path: tuple[str, ...], kind: str = "") -> None:
        self._student, self._handle, self._path, self._kind = student, handle, path, kind

    def __getattr__(self, name: str) -> "Remote":
        if name.startswith("__"):
            raise AttributeError(name)
        if self._handle is not None and not self._path and name in _VALUES_ONLY:
            raise StudentError(UNREADABLE, f"an object came where a value was expected (asked for its `{name}`)")
        return attribute(self, name)

    def __bool__(self) -> bool:
        raise StudentError(UNREADABLE, "an object came where a value was expected")

    def __eq__(self, other: object) -> bool:  # `assert student.f(x) != wrong` must not hold for any object
        raise StudentError(UNREADABLE, "an object came where a value was expected")

    __hash__ = object.__hash__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._student._request(
            "call", object=self._handle, path=list(self._path), args=list(args), kwargs=kwargs
        )

    def __repr__(self) -> str:
        return f"<{self._kind or 'attribute'} {'.'.join(self._path)} on the student's side>"


def attribute(remote: Remote, name: str) -> Remote:
    """An attribute of an object on the student's side, even if tensors have it too (a distribution's mean)."""
    return Remote(remote._student, remote._handle, (*remote._path, name))


def fetch(remote: Remote) -> Any:
    """The value of an attribute on the student's side, as data."""
    return remote._student._request("get", object=remote._handle, path=list(remote._path))


class Student:
    """Fronts one namespace: `student.entropy(p)` calls the function `entropy` that lives there."""

    def __init__(self, ask: Ask) -> None:
        """Talk through `ask`, which takes a request frame and returns the reply frame."""
        self._ask = ask
        self._seed: int | None = None

    def __getattr__(self, name: str) -> Remote:
        if name.startswith("__"):
            raise AttributeError(name)
        return Remote(self, None, (name,))

    def run(self, probe: Probe, *args: Any, **kwargs: Any) -> Any:
        """Run a probe beside the student's code: `probe(ns, *args, **kwargs)`, `ns` holding the student's names."""
        return self._request("run", probe=probe, args=list(args), kwargs=kwargs)

    def _begin(self, seed: int) -> None:
        """Let the next request find global state put back and random numbers seeded.

        It travels with that request: a question of its own would wait for another process to wake up.
        """
        self._seed = seed

    def _request(self, operation: str, **fields: Any) -> Any:
        frame = wire.pack({"op": operation, **fields}, _Encoder(self))
        if self._seed is not None:
            frame = wire.pack({"op": "begin", "seed": self._seed, "then": frame})
            self._seed = None
        reply = self._ask(frame)
        try:
            message = wire.unpack(reply, functools.partial(_Decoder, self))
        except wire.WireError as error:
            raise StudentError(UNREADABLE, f"the answer cannot be read: {error}") from None
        if isinstance(message, dict) and "value" in message:
            return message["value"]
        raise _as_error(message)


def _as_error(message: Any) -> StudentError:
    error = message.get("error") if isinstance(message, dict) else None
    if not isinstance(error, dict):
        return StudentError(UNREADABLE, "the answer is neither a value nor an error")
    kind, text, cell, line = (error.get(key) for key in ("type", "text", "cell", "line"))
    return StudentError(
        kind if isinstance(kind, str) and (kind == UNREADABLE or _is_builtin_exception(kind)) else "Exception",
        text if isinstance(text, str) else "",
        cell if isinstance(cell, str) else "",
        line if isinstance(line, int) else 0,
    )


def _is_builtin_exception(name: str) -> bool:
    """Whether an exception may be called by this name: the name of any other could spell a hidden input."""
    found = getattr(builtins, name, None)
    return isinstance(found, type) and issubclass(found, BaseException)


def loopback(namespace: dict[str, Any], elsewhere: torch.device = DEVICE) -> Student:
    """A `Student` that fronts a namespace of this process, through the same frames as a submission.

    Args:
        namespace: What the student defined.
        elsewhere: The device that stands behind the checks' stand-in for a GPU (see `Server`).
    """
    return Student(Server(namespace, elsewhere=elsewhere).answer)


class _Decoder(wire.Decoder):
    """Turns handles into `Remote`s."""

    def __init__(self, student: Student, body: memoryview) -> None:
        super().__init__(body)
        self.student = student

    def other(self, tag: str, node: dict[str, Any], depth: int) -> Any:
        if tag != "handle" or type(node["id"]) is not int:
            raise wire.WireError(f"unknown tag {tag!r}")
        kind = node.get("type")
        return Remote(self.student, node["id"], (), kind[:60] if isinstance(kind, str) and kind.isidentifier() else "?")


class _Encoder(wire.Encoder):
    """Also sends what only the trusted side may: functions as source, generators, distributions, handles."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def other(self, value: Any, depth: int) -> Any:
        if isinstance(value, Remote) and value._handle is not None and not value._path:
            return {"t": "handle", "id": value._handle}
        if isinstance(value, Remote):
            return self.encode(self.student._request("get", object=value._handle, path=list(value._path)), depth)
        tag, parts = self._parts(value)
        return {"t": tag, **{key: self.encode(part, depth + 1) for key, part in parts.items()}}

    def _parts(self, value: Any) -> tuple[str, Mapping[str, Any]]:
        if isinstance(value, Probe):
            return "function", {"name": value.name, "source": value.source}
        if isinstance(value, functools.partial):
            return "partial", {"function": value.func, "args": list(value.args), "kwargs": dict(value.keywords)}
        if isinstance(value, torch.Generator):
            return "generator", {"device": value.device, "state": value.get_state()}
        if isinstance(value, torch.distributions.Independent):
            return "distribution", {
                "name": "Independent",
                "args": [value.base_dist, value.reinterpreted_batch_ndims],
                "kwargs": {},
            }
        if isinstance(value, torch.distributions.Distribution):
            name = type(value).__name__
            if getattr(torch.distributions, name, None) is type(value):
                return "distribution", {"name": name, "args": [], "kwargs": _given(value)}
        hint = " (decorate it with @probe)" if callable(value) else ""
        raise wire.WireError(f"a {type(value).__name__} cannot be sent to the student's code{hint}")


_ALTERNATIVES = ({"probs", "logits"}, {"covariance_matrix", "precision_matrix", "scale_tril"})


def _given(distribution: torch.distributions.Distribution) -> dict[str, Any]:
    """The parameters that a distribution was made with: what it computed from them stands later in its dict."""
    given: dict[str, Any] = {}
    for key, value in distribution.__dict__.items():
        others = next((group for group in _ALTERNATIVES if key in group), set())
        if key in distribution.arg_constraints and not others & given.keys():
            given[key] = value
    return given
