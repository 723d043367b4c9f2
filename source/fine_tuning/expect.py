"""The helper behind every visible check: it says what was asked, what was expected and what came."""

import torch
from torch import Tensor

ROUNDING = 1e-4  # expected values in the notebooks are written with four decimals


def expect_close(
    actual: object,
    expected: object,
    sentence: str,
    *,
    atol: float | None = None,
    rtol: float | None = None,
) -> None:
    """Compare a result with the expected one, number by number; print "ok" or explain the difference.

    Shapes must agree; dtypes and devices need not. Infinities must agree in place and sign, and NaN is never right.

    Args:
        actual: What your code returned: a number, a tensor or an array. Anything else is reported, not raised.
        expected: A number, nested list or tensor.
        sentence: What the comparison means, in words. It heads the message.
        atol: Largest difference allowed, absolute. Give none of the two tolerances and both are 1e-4, the rounding of
            a number with four decimals; give one and the other is zero.
        rtol: Largest difference allowed, relative to the expected number.

    Raises:
        AssertionError: The result is not the expected one; the message shows both.
    """
    if atol is None and rtol is None:
        atol = rtol = ROUNDING
    wanted = _as_tensor(expected)
    if wanted is None:
        raise TypeError(f"expected must be a number, a list of numbers or a tensor, not {_describe(expected)}")
    came = _as_tensor(actual)

    remark = ""
    if came is None:
        if actual is None:
            remark = "None came back: is a return missing?"
        elif callable(actual):
            remark = "That is a function: was it called?"
    elif came.shape != wanted.shape:
        remark = f"{_shape(wanted)} was expected, {_shape(came)} came.".capitalize()
    else:
        wrong = ~_close(came, wanted, atol or 0.0, rtol or 0.0)
        if not wrong.any():
            print(f"ok: {sentence}")
            return
        remark = _first_difference(came, wanted, wrong)
    lines = [sentence, f"  expected: {_describe(expected)}", f"  came:     {_describe(actual)}"]
    message = "\n".join([*lines, f"  {remark}"] if remark else lines)
    raise AssertionError(message)


def _as_tensor(value: object) -> Tensor | None:
    """The value as a float64 (or complex128) tensor on the CPU; None where it holds no numbers."""
    if value is None or isinstance(value, (str, bytes)) or callable(value):
        return None
    try:
        tensor = torch.as_tensor(value)
        if tensor.is_floating_point() and not isinstance(value, Tensor):
            tensor = torch.as_tensor(value, dtype=torch.float64)  # a Python number is more precise than float32
        tensor = tensor.detach().cpu().to_dense()
        return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    except Exception:  # whatever a student returns, the message must still come
        return None


def _close(came: Tensor, wanted: Tensor, atol: float, rtol: float) -> Tensor:
    """Which entries agree. A finite number is never close to an infinite one, and NaN to nothing."""
    near = (came - wanted).abs() <= atol + rtol * wanted.abs()
    return (came == wanted) | (near & torch.isfinite(came) & torch.isfinite(wanted))


def _first_difference(came: Tensor, wanted: Tensor, wrong: Tensor) -> str:
    """Where several numbers were compared: how many differ, and the first of them."""
    nan = int(torch.isnan(came).sum())
    if came.dim() == 0:
        return "NaN comes from 0/0, 0 * inf, inf - inf or the logarithm of a negative number." if nan else ""
    index = tuple(torch.nonzero(wrong)[0].tolist())
    place = ", ".join(map(str, index))
    counted = f"{int(wrong.sum())} of {wrong.numel()} differ" + (f" ({nan} NaN)" if nan else "")
    return f"{counted}; at [{place}]: expected {_number(wanted[index])}, came {_number(came[index])}."


def _describe(value: object) -> str:
    """The value on one short line."""
    tensor = _as_tensor(value)
    if tensor is None:
        return "None" if value is None else f"{_short_repr(value)} ({type(value).__name__})"
    kind = f" ({str(value.dtype).removeprefix('torch.')})" if isinstance(value, Tensor) and value.dim() == 0 else ""
    if tensor.dim() == 0:
        return _number(tensor) + kind
    if tensor.numel() <= 12:
        return _nested(tensor)
    sample = ", ".join(_number(number) for number in tensor.flatten()[:4])
    return f"shape {tuple(tensor.shape)}, beginning {sample}, ..."


def _short_repr(value: object) -> str:
    """At most 60 characters, on one line, whatever the object."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        return "an object that cannot be shown"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _shape(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}" if tensor.dim() else "a single number"


def _nested(tensor: Tensor) -> str:
    """The numbers of a small tensor, in brackets as a list is written."""
    return _number(tensor) if tensor.dim() == 0 else f"[{', '.join(_nested(row) for row in tensor)}]"


def _number(number: Tensor) -> str:
    """Six significant digits."""
    return f"{number.item():.6g}"
