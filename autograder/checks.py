"""The vocabulary of hidden checks.

    @task("kl_divergence")
    class TestKlDivergence:
        @check(hint="Which of p and q weights the logarithm?")
        def test_asymmetric_pair(self, student: Student) -> None:
            \"\"\"Coding a loaded coin with a fair code has the textbook cost.\"\"\"
            assert_close(student.kl_divergence(P, Q), EXPECTED)

A class holds the checks of one task; a check's docstring is the line that the student sees; what it compares with is
never shown. `autograder.plugin` makes pytest run them.
"""

import builtins
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from autograder.remote import wire
from autograder.remote.client import Probe, Remote, Student, StudentError, attribute, fetch

__all__ = [
    "CheckFailure", "Probe", "Remote", "Student", "StudentError", "assert_close", "assert_device", "assert_dtype",
    "assert_shape", "attribute", "check", "fetch", "probe", "student_raises", "task",
]  # fmt: skip

T = TypeVar("T")

# relative and absolute tolerance: those of torch.testing for each dtype
_TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.bfloat16: (1.6e-2, 1e-5), torch.float16: (1e-3, 1e-5), torch.float32: (1.3e-6, 1e-5),
    torch.float64: (1e-7, 1e-7), torch.complex64: (1.3e-6, 1e-5), torch.complex128: (1e-7, 1e-7),
}  # fmt: skip


class CheckFailure(AssertionError):
    """A check did not hold.

    Attributes:
        cause: What the student may read: shapes, dtypes and kinds of value, never a value that was expected.
    """

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}\n{detail}" if detail else cause)
        self.cause = cause


@dataclass(frozen=True)
class TaskInfo:
    """What `@task` says of a class of checks."""

    name: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckInfo:
    """What `@check` says of one check."""

    hint: str = ""
    weight: float = 1.0
    needs: tuple[str, ...] = ()


def task(name: str, *, needs: Sequence[str] = ()) -> Callable[[type[T]], type[T]]:
    """Say which task a class of checks belongs to.

    Args:
        name: The task, as in `# %% task="..."` of the solution.
        needs: Other tasks whose functions these checks use through the student's code.
    """

    def mark(cls: type[T]) -> type[T]:
        cls.task_info = TaskInfo(name, _names(needs))  # type: ignore[attr-defined]
        return cls

    return mark


def check(
    *, hint: str = "", weight: float = 1.0, needs: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Say more about one check.

    Args:
        hint: What the student reads when it fails.
        weight: Its share of the task's points, relative to the others.
        needs: Other tasks that this check alone uses.
    """
    if weight <= 0:
        raise ValueError(f"a check's weight must be positive, not {weight}")

    def mark(function: Callable[..., None]) -> Callable[..., None]:
        function.check_info = CheckInfo(hint, weight, _names(needs))  # type: ignore[attr-defined]
        return function

    return mark


def _names(needs: Sequence[str]) -> tuple[str, ...]:
    return (needs,) if isinstance(needs, str) else tuple(needs)


def probe(function: Callable[..., Any]) -> Probe:
    """Make a function one that may cross: sent as source, it runs beside the student's code."""
    return Probe(function)


def assert_shape(actual: Any, shape: Sequence[int]) -> None:
    """Demand a tensor (or for `()` also a plain number) of this shape."""
    _as_tensor(actual, tuple(shape), torch.float32)


def assert_dtype(actual: Any, dtype: torch.dtype) -> None:
    """Demand a tensor of this dtype."""
    if not isinstance(actual, torch.Tensor):
        raise CheckFailure(f"{_what(actual)} came; a tensor was expected")
    if actual.dtype != dtype:
        raise CheckFailure(f"dtype {_name(actual.dtype)} came; {_name(dtype)} was expected")


def assert_device(actual: Any, device: torch.device) -> None:
    """Demand a tensor that was on this device over there, the device of the inputs (see the fixture `elsewhere`)."""
    if not isinstance(actual, torch.Tensor):
        raise CheckFailure(f"{_what(actual)} came; a tensor on the device of the inputs was expected")
    came = wire.device_of(actual)
    if came.type != device.type or (None not in (came.index, device.index) and came.index != device.index):
        where = "the CPU" if came.type == "cpu" else "another device"
        raise CheckFailure(f"a tensor on {where} came; one on the device of the inputs was expected", f"on {came}")


def assert_close(actual: Any, expected: Any, *, rtol: float | None = None, atol: float | None = None) -> None:
    """Demand the expected value: its shape first, then NaN nowhere, then every number within a tolerance.

    Args:
        actual: What the student's code returned. A plain number will do where one number is expected.
        expected: A tensor, an array, a number, or a tuple or list of them.
        rtol: Relative tolerance; by default that of the less precise dtype of the two (`torch.testing`'s). What came
            in half precision is held to float32's unless half precision was expected.
        atol: Absolute tolerance, likewise.

    Raises:
        CheckFailure: They differ. Its `cause` tells shapes and kinds, its text also the values, for the instructor.
    """
    if isinstance(expected, tuple | list):
        if not isinstance(actual, tuple | list) or len(actual) != len(expected):
            raise CheckFailure(f"{_what(actual)} came; {len(expected)} values were expected")
        for got, wanted in zip(actual, expected, strict=True):
            assert_close(got, wanted, rtol=rtol, atol=atol)
        return
    real = isinstance(expected, float) or (isinstance(expected, int) and abs(expected) >= 2**63)
    wanted = torch.as_tensor(expected, dtype=torch.float64 if real else None).detach().cpu()
    got = _as_tensor(actual, tuple(wanted.shape), wanted.dtype)
    if got.is_complex() and not wanted.is_complex():
        raise CheckFailure("complex numbers came; real ones were expected", _both(got, wanted))
    if wanted.is_floating_point() and bool((got.isnan() & ~wanted.isnan()).any()):
        raise CheckFailure("NaN (not a number) came where a number was expected", _both(got, wanted))
    single = torch.complex64 if got.is_complex() else torch.float32
    came = single if got.dtype in (torch.float16, torch.bfloat16) else got.dtype
    tolerances = [_TOLERANCES.get(dtype, (0.0, 0.0)) for dtype in (came, wanted.dtype)]
    relative = max(t[0] for t in tolerances) if rtol is None else rtol
    absolute = max(t[1] for t in tolerances) if atol is None else atol
    wide = torch.complex128 if got.is_complex() or wanted.is_complex() else torch.float64
    # Not torch.testing.assert_close: its first call imports torch.distributed, seconds that every submission would pay.
    close = torch.isclose(got.to(wide), wanted.to(wide), rtol=relative, atol=absolute)
    if not bool(close.all()):
        count = f"{int((~close).sum())} of {close.numel()} values differ" if close.numel() > 1 else "it differs"
        raise CheckFailure(
            "the value is not the expected one",
            f"{count} (rtol {relative:g}, atol {absolute:g})\n{_both(got, wanted)}",
        )


def _both(got: torch.Tensor, wanted: torch.Tensor) -> str:
    """What came and what should have: text that takes longer to make than the comparison."""
    return f"came:     {got}\nexpected: {wanted}"


def _as_tensor(actual: Any, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """What came as a tensor of the expected shape; a Python number is as precise as what is expected."""
    if isinstance(actual, bool | int | float | complex) and not isinstance(actual, np.generic):
        try:
            number = torch.tensor(actual)
        except (RuntimeError, OverflowError):  # an integer that no dtype holds
            raise CheckFailure("a number came that is larger than any tensor holds") from None
        actual = number.to(dtype) if number.is_floating_point() and dtype.is_floating_point else number
    elif isinstance(actual, np.ndarray | np.generic):
        actual = torch.as_tensor(np.asarray(actual))
    if not isinstance(actual, torch.Tensor):
        raise CheckFailure(f"{_what(actual)} came; {_shape_words(shape)} was expected")
    if tuple(actual.shape) != shape:
        raise CheckFailure(f"{_shape_words(tuple(actual.shape))} came; {_shape_words(shape)} was expected")
    return actual


def _shape_words(shape: tuple[int, ...]) -> str:
    return f"a tensor of shape {shape}" if shape else "a single number"


def _what(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, torch.Tensor):
        return _shape_words(tuple(value.shape))
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Remote):
        return "an object that is no value"  # not its type: student code chooses that name
    return f"a value of type {type(value).__name__}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextlib.contextmanager
def student_raises(kind: type[Exception]) -> Iterator[None]:
    """Demand that student code raises an exception of this kind within the block."""
    try:
        yield
    except StudentError as error:
        raised = getattr(builtins, error.kind, Exception)
        if not (isinstance(raised, type) and issubclass(raised, kind)):
            raise CheckFailure(f"{error.kind} was raised; {kind.__name__} was expected", error.text) from None
    else:
        raise CheckFailure(f"no error was raised; {kind.__name__} was expected")
