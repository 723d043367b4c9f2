"""A stand-in for a GPU: a device of its own whose tensors carry real values, on machines that have no GPU.

Code that honours the device of its arguments gives the same numbers here as on the CPU. Code that does not fails as it
does on a GPU: `p @ torch.zeros(4, 2)` raises, so does `.numpy()`, and a result that was moved to the CPU is there.

A tensor of the stand-in wraps one on the CPU and runs every operation on that, once it has seen that all operands are
on the device which CUDA demands of them. To torch it is on the device `lazy:0`. That is the one type of device without
a backend of its own whose gradients autograd computes in the calling thread: a `privateuseone` device gets a thread,
and after that no forked process can call `backward`.

This file enters the sandbox: it imports nothing else of ours.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DEVICE = torch.device("lazy", 0)
_CPU = torch.device("cpu")
_aten: Any = torch.ops.aten


def is_standin(device: torch.device) -> bool:
    """Whether this is the stand-in device."""
    return device.type == DEVICE.type


class StandInTensor(Tensor):
    """A tensor that torch takes for one on the device `lazy:0`; `raw` holds its values, on the CPU."""

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, raw: Tensor) -> "StandInTensor":
        """Wrap a tensor on the CPU, memory included."""
        wrapper: StandInTensor = torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )
        wrapper.raw = raw
        return wrapper

    def __init__(self, raw: Tensor) -> None: ...

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch.inference_mode(False):  # what is made within it can be no view of a tensor that was made outside
            return _run(func, args, kwargs or {})

    # What torch refuses, or answers otherwise, for any class that extends Tensor.

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as for a tensor on a GPU."""
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {DEVICE} device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def tolist(self) -> Any:
        """The values as Python numbers."""
        return self.raw.tolist()

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)

    @property
    def data(self) -> Tensor:
        """The values without their history."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, StandInTensor):
            raise RuntimeError("incompatible tensor type: `data` is on another device")
        _set_data(self, value)
        self.raw = value.raw

    # These two mark a class that wraps tensors: `Module.to` then changes its parameters in place, as for a GPU.

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["raw"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: None, size: Any, stride: Any) -> "StandInTensor":
        return StandInTensor(inner["raw"])


_set_data: Callable[[Tensor, Tensor], None] = vars(torch._C.TensorBase)["data"].__set__

# Operations


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operation of torch's dispatcher on what the tensors wrap."""
    if func is _aten.copy_.default:
        _raw(args[0]).copy_(_raw(args[1]), *args[2:], **kwargs)
        return args[0]
    operands = [*_tensors(args), *_tensors(kwargs.values())]
    ours = [operand for operand in operands if isinstance(operand, StandInTensor)]
    if 0 < len(ours) < len(operands) and func is not _aten._to_copy.default:
        _demand_one_device(func, args, kwargs)
    device = kwargs.get("device")
    if device is not None and not is_standin(device):
        return func(*_raw(args), **kwargs)
    kwargs = {name: _CPU if name == "device" else _raw(value) for name, value in kwargs.items()}
    result = func(*_raw(args), **kwargs)
    return _wrapped(result, {id(tensor.raw): tensor for tensor in ours})


_T = TypeVar("_T")


def _raw(value: _T) -> _T:
    """A value with what its tensors wrap in their place."""
    if isinstance(value, StandInTensor):
        return value.raw  # type: ignore[return-value]
    if isinstance(value, list | tuple):
        return type(value)(map(_raw, value))
    return value


def _wrapped(value: Any, there: dict[int, StandInTensor]) -> Any:
    """A result on the stand-in device; what an operation has written into is the tensor that it was."""
    if isinstance(value, Tensor):
        wrapper = there.get(id(value))
        if wrapper is None:  # below this dispatch no operation looks at the bits that conjugate and negate
            return StandInTensor(value.resolve_conj().resolve_neg())
        if wrapper.shape != value.shape or wrapper.stride() != value.stride():
            _set_data(wrapper, StandInTensor(value))  # `unsqueeze_` and its kind
        return wrapper
    if isinstance(value, list | tuple):
        return type(value)(_wrapped(item, there) for item in value)
    return value


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


# Devices of operands

_INDEXING = {
    _aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor, _aten._unsafe_index_put.default,
}  # fmt: skip
"""Their indices may be on the CPU."""

_TAKING_NUMBERS = {
    _aten.fill, _aten.fill_, _aten.floor_divide, _aten.floor_divide_, _aten.index_fill, _aten.index_fill_,
    _aten.index_put, _aten.index_put_, _aten._index_put_impl_, _aten.linspace, _aten.logspace, _aten.masked_fill,
    _aten.masked_fill_, _aten.mse_loss, _aten.rsub, _aten.smooth_l1_loss, _aten._unsafe_index_put,
}  # fmt: skip
_TAKING_NO_NUMBERS = {
    _aten.gcd, _aten.igamma, _aten.igammac, _aten.lcm, _aten.logaddexp, _aten.logaddexp2, _aten.nextafter,
}  # fmt: skip


def _takes_numbers(func: Any) -> bool:
    """Whether a tensor without dimensions may be on the CPU: in most operations that work element by element.

    The exceptions follow `device_check` in torch's native_functions.yaml.
    """
    if func.overloadpacket in _TAKING_NUMBERS:
        return True
    return torch.Tag.pointwise in func.tags and func.overloadpacket not in _TAKING_NO_NUMBERS


def _demand_one_device(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse operands on the CPU, except where CUDA takes them."""
    written = {argument.name for argument in func._schema.arguments if argument.is_write}
    names = (argument.name for argument in func._schema.arguments)
    for name, value in (*zip(names, args, strict=False), *kwargs.items()):
        number = isinstance(value, Tensor) and value.dim() == 0 and name not in written and _takes_numbers(func)
        indices = isinstance(value, list | tuple) and func in _INDEXING
        for operand in () if number or indices else _tensors((value,)):
            if not isinstance(operand, StandInTensor):
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two devices, "
                    f"{DEVICE} and {operand.device}!"
                )


# What torch does for a device without asking a tensor that is there already.


def _kernel(func: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: _run(func, args, kwargs)


def _zeros(size: Any, **kwargs: Any) -> Any:
    return _run(_aten.zeros.default, (size,), kwargs)


_LIBRARY = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
for _name, _function in {
    "empty.memory_format": _kernel(_aten.empty.memory_format),
    "empty_strided": _kernel(_aten.empty_strided.default),
    "tril_indices": _kernel(_aten.tril_indices.default),
    "triu_indices": _kernel(_aten.triu_indices.default),
    "_efficientzerotensor": _zeros,
    # `torch.tensor` and `torch.as_tensor` pass the class of a tensor by.
    "_to_copy": _kernel(_aten._to_copy.default),
    "copy_": _kernel(_aten.copy_.default),
    "lift_fresh": _kernel(_aten.lift_fresh.default),
    "_local_scalar_dense": _kernel(_aten._local_scalar_dense.default),
}.items():
    _LIBRARY.impl(_name, _function, "Lazy")  # type: ignore[no-untyped-call]


def _spare_an_import() -> None:
    """Run a first operation without what torch imports for it.

    It asks whether a tensor is a `torch.distributed.tensor.DTensor`, once in a process, and to know that class it
    imports sympy and 500 modules more: 1.3 seconds.
    """
    name = "torch.distributed.tensor"
    if name in sys.modules:
        return
    stub = ModuleType(name)
    stub.DTensor = type("DTensor", (), {})  # type: ignore[attr-defined]
    sys.modules[name] = stub
    try:
        StandInTensor(torch.zeros(())).neg()
    finally:
        del sys.modules[name]


_spare_an_import()


# Random numbers


class Generator(torch.Generator):
    """A generator on the stand-in device."""

    def __new__(cls) -> "Generator":
        """Make one, like `torch.Generator(device=DEVICE)`."""
        return super().__new__(cls)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The stand-in device."""
        return DEVICE

    def clone_state(self) -> "Generator":
        """Another generator in the same state."""
        clone = Generator()
        clone.set_state(self.get_state())
        return clone


def make_generator(device: Any = _CPU) -> torch.Generator:
    """What `torch.Generator(device)` makes where there is a stand-in."""
    return Generator() if is_standin(torch.device(device)) else _TorchGenerator(device)


_TorchGenerator = torch.Generator


class _GeneratorMeta(type):
    def __call__(cls, device: Any = _CPU) -> torch.Generator:
        return make_generator(device)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _TorchGenerator)


class _AnyGenerator(metaclass=_GeneratorMeta):
    """Takes the place of `torch.Generator`."""


class _OneDeviceForRandomNumbers(TorchFunctionMode):
    """Refuses to draw on one device with a generator of another: torch's dispatcher does not see which one it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        generator = (kwargs or {}).get("generator")
        if isinstance(generator, _TorchGenerator) and isinstance(result, Tensor):
            drawn = result.device
            if is_standin(drawn) is not is_standin(generator.device):
                raise RuntimeError(
                    f"Expected a '{drawn.type}' device type for generator but found '{generator.device.type}'"
                )
        return result


@contextlib.contextmanager
def in_force() -> Iterator[None]:
    """For a while, let `torch.Generator` make generators on the stand-in, and refuse those of another device there."""
    before = torch.Generator
    torch.Generator = _AnyGenerator  # type: ignore[misc, assignment]
    try:
        with _OneDeviceForRandomNumbers():
            yield
    finally:
        torch.Generator = before  # type: ignore[misc]
