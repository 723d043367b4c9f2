"""What may cross between trusted checks and student code: data, in frames of strict JSON plus raw tensor bytes.

Both sides speak this format; the trusted side treats every byte from the other as hostile. Nothing is ever unpickled
or evaluated: a frame is checked against the limits below before anything is built from it, and what is built is fresh
(plain tensors, arrays, numbers, strings and containers).

A frame is `json_length:4 | json | body`, the length big-endian; how it travels is `frames`'s concern. In the JSON,
`null`, booleans, integers, finite floats, strings and lists stand for themselves; everything else is an object with a
tag `"t"`. Tensors and bytes lie one after another in the body, in the order in which the JSON names them.

This file enters the sandbox: of ours it imports only what enters with it.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from autograder.remote.frames import MAX_FRAME as MAX_FRAME
from autograder.remote.frames import WireError as WireError

MAX_JSON = 256 * 2**10
MAX_TENSORS = 256
MAX_DIMENSIONS = 8
MAX_DEPTH = 16
JSON_LENGTH = struct.Struct(">I")

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64",
        "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
    )
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
NUMPY_DTYPES = frozenset(DTYPES) - {"bfloat16"}
DEVICES = re.compile(r"cpu|(cuda|lazy)(:[0-9])?", re.ASCII)
"""Names of the devices that may cross; `lazy` is the stand-in for a GPU (see `standin`)."""
_CPU = torch.device("cpu")

JsonValue = Any


class Encoder:
    """Turns values into JSON and body bytes; `other` decides on what is not data."""

    def __init__(self) -> None:
        self.body: list[bytes] = []
        self.size = 0

    def other(self, value: Any, depth: int) -> JsonValue:
        """Encode a value that is not data, or refuse it."""
        raise WireError(f"a {type(value).__name__} is not data and cannot be sent")

    def append(self, data: bytes) -> None:
        """Add bytes to the body."""
        if len(self.body) >= MAX_TENSORS:
            raise WireError(f"more than {MAX_TENSORS} tensors in one message")
        self.size += len(data)
        if self.size > MAX_FRAME - MAX_JSON - 64:
            raise WireError(f"the tensors of one message are larger than {MAX_FRAME // 2**20} MiB")
        self.body.append(data)

    def encode(self, value: Any, depth: int = 0) -> JsonValue:
        """JSON for one value; tensor bytes go to the body.

        Subclasses of the builtin types (named tuples, string enumerations) are sent as the builtin they extend.
        """
        if depth > MAX_DEPTH:
            raise WireError(f"nested deeper than {MAX_DEPTH} levels")
        encode = self._ENCODERS.get(type(value)) or _first_that_fits(value, self._ENCODERS)
        return encode(self, value, depth) if encode else self.other(value, depth)

    def _itself(self, value: Any, depth: int) -> JsonValue:
        return value

    def _text(self, value: str, depth: int) -> JsonValue:
        return str.__str__(value)

    def _integer(self, value: int, depth: int) -> JsonValue:
        return int.__int__(value)

    def _scalar(self, value: Any, depth: int) -> JsonValue:
        return self._numbers(np.asarray(value), "scalar", depth)

    def _float(self, value: float, depth: int) -> JsonValue:
        number = float.__float__(value)
        return number if math.isfinite(number) else {"t": "float", "v": repr(number)}

    def _complex(self, value: complex, depth: int) -> JsonValue:
        return {"t": "complex", "v": [self.encode(value.real), self.encode(value.imag)]}

    def _bytes(self, value: bytes, depth: int) -> JsonValue:
        self.append(bytes(value))
        return {"t": "bytes", "n": len(value)}

    def _size(self, value: torch.Size, depth: int) -> JsonValue:
        return {"t": "size", "v": [int(n) for n in value]}

    def _tuple(self, value: tuple[Any, ...], depth: int) -> JsonValue:
        return {"t": "tuple", "v": self._list(value, depth)}

    def _list(self, value: Sequence[Any], depth: int) -> list[JsonValue]:
        return [self.encode(item, depth + 1) for item in value]

    def _dict(self, value: dict[Any, Any], depth: int) -> JsonValue:
        pairs = [[self.encode(key, depth + 1), self.encode(item, depth + 1)] for key, item in value.items()]
        return {"t": "dict", "v": pairs}

    def _tensor(self, value: torch.Tensor, depth: int) -> JsonValue:
        dtype, device = DTYPE_NAMES.get(value.dtype), value.device
        if dtype is None or value.layout is not torch.strided or value.dim() > MAX_DIMENSIONS or not may_cross(device):
            return self.other(value, depth)
        # Views of one storage, conjugated, negated and non-contiguous tensors are right answers too.
        plain = value.detach()
        if device != _CPU:
            plain = plain.cpu()
        plain = plain.resolve_conj().resolve_neg()
        if plain.dtype is torch.bfloat16:  # which NumPy does not have
            plain = plain.view(torch.int16)
        self.append(plain.numpy().tobytes())
        return {
            "t": "tensor", "dtype": dtype, "shape": list(value.shape), "device": self.device_name(device_of(value)),
        }  # fmt: skip

    def _array(self, value: Any, depth: int) -> JsonValue:
        return self._numbers(value, "ndarray", depth)

    def _numbers(self, value: Any, tag: str, depth: int) -> JsonValue:
        if value.dtype.name not in NUMPY_DTYPES or value.ndim > MAX_DIMENSIONS:
            return self.other(value, depth)
        self.append(np.asarray(value, dtype=value.dtype.newbyteorder("=")).tobytes())
        return {"t": tag, "dtype": value.dtype.name, "shape": list(value.shape)}

    def _dtype(self, value: torch.dtype, depth: int) -> JsonValue:
        return {"t": "dtype", "v": DTYPE_NAMES[value]} if value in DTYPE_NAMES else self.other(value, depth)

    def _device(self, value: torch.device, depth: int) -> JsonValue:
        return {"t": "device", "v": self.device_name(value)} if may_cross(value) else self.other(value, depth)

    def device_name(self, device: torch.device) -> str:
        """What a device is called on the other side."""
        return str(device)

    # What fits first is taken: a boolean is an integer too, NumPy's numbers extend Python's, a size is a tuple.
    _ENCODERS: dict[type, Callable[..., JsonValue]] = {
        type(None): _itself,
        bool: _itself,
        str: _text,
        int: _integer,
        np.generic: _scalar,
        float: _float,
        complex: _complex,
        bytes: _bytes,
        torch.Size: _size,
        tuple: _tuple,
        list: _list,
        dict: _dict,
        torch.Tensor: _tensor,
        np.ndarray: _array,
        torch.dtype: _dtype,
        torch.device: _device,
    }


def _first_that_fits(value: Any, by_type: dict[type, Callable[..., JsonValue]]) -> Callable[..., JsonValue] | None:
    return next((encode for kind, encode in by_type.items() if isinstance(value, kind)), None)


def may_cross(device: torch.device) -> bool:
    """Whether a tensor may cross that is on this device."""
    return device == _CPU or DEVICES.fullmatch(str(device)) is not None


class Decoder:
    """Builds values from JSON and body bytes; `other` decides on tags that are not data."""

    def __init__(self, body: memoryview) -> None:
        self.body = body
        self.offset = 0
        self.taken = 0

    def other(self, tag: str, node: dict[str, JsonValue], depth: int) -> Any:
        """Decode a tag that does not stand for data, or refuse it."""
        raise WireError(f"unknown tag {tag!r}")

    def take(self, count: int) -> memoryview:
        """The next bytes of the body."""
        self.taken += 1
        if self.taken > MAX_TENSORS:
            raise WireError(f"more than {MAX_TENSORS} tensors in one message")
        if count < 0 or self.offset + count > len(self.body):
            raise WireError("the body is shorter than the message says")
        part = self.body[self.offset : self.offset + count]
        self.offset += count
        return part

    def decode(self, node: JsonValue, depth: int = 0) -> Any:
        """The value that a JSON node stands for."""
        if depth > MAX_DEPTH:
            raise WireError(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, list):
            return [self.decode(item, depth + 1) for item in node]
        if not isinstance(node, dict):
            return node
        tag = node.get("t")
        if not isinstance(tag, str):
            raise WireError("an object without a tag")
        builder = self._BUILDERS.get(tag)
        try:
            return builder(self, node, depth) if builder else self.other(tag, node, depth)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise error if isinstance(error, WireError) else WireError(f"a malformed {tag!r}: {error}") from None

    def device(self, name: JsonValue) -> torch.device:
        """The device of a name that may cross."""
        if not isinstance(name, str) or not DEVICES.fullmatch(name):
            raise WireError("a device that may not cross")
        return torch.device(name)

    def place(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Put a tensor where it was on the other side: here it stays on the CPU, and only says where it was."""
        tensor.came_from = device  # type: ignore[attr-defined]
        return tensor

    def _tensor(self, node: dict[str, JsonValue], depth: int) -> torch.Tensor:
        return self.place(self._values(node), self.device(node["device"]))

    def _values(self, node: dict[str, JsonValue]) -> torch.Tensor:
        dtype = DTYPES[node["dtype"]]
        shape, count = _shape(node["shape"])
        data = self._copy(count * dtype.itemsize, node["dtype"])
        if not data:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype).reshape(shape)

    def _array(self, node: dict[str, JsonValue], depth: int) -> Any:
        if node["dtype"] not in NUMPY_DTYPES:
            raise WireError("an array of a dtype that may not cross")
        dtype = np.dtype(node["dtype"])
        shape, count = _shape(node["shape"])
        return np.frombuffer(self._copy(count * dtype.itemsize, node["dtype"]), dtype=dtype).reshape(shape)

    def _copy(self, count: int, dtype: str) -> bytearray:
        """The next bytes of the body, to be changed by whoever gets them."""
        data = bytearray(self.take(count))
        if dtype == "bool":  # a byte of 2 would make a boolean that is neither True nor False
            numbers = np.frombuffer(data, dtype=np.uint8)
            np.minimum(numbers, 1, out=numbers)
        return data

    def _scalar(self, node: dict[str, JsonValue], depth: int) -> Any:
        if node["shape"] != []:
            raise WireError("a scalar with a shape")
        return self._array(node, depth)[()]

    def _float(self, node: dict[str, JsonValue], depth: int) -> float:
        return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[node["v"]]

    def _complex(self, node: dict[str, JsonValue], depth: int) -> complex:
        real, imaginary = (self.decode(part, depth + 1) for part in node["v"])
        return complex(real, imaginary)

    def _bytes(self, node: dict[str, JsonValue], depth: int) -> bytes:
        return bytes(self.take(_natural(node["n"])))

    def _size(self, node: dict[str, JsonValue], depth: int) -> torch.Size:
        return torch.Size([_natural(n) for n in node["v"]])

    def _tuple(self, node: dict[str, JsonValue], depth: int) -> tuple[Any, ...]:
        return tuple(self.decode(item, depth + 1) for item in node["v"])

    def _dict(self, node: dict[str, JsonValue], depth: int) -> dict[Any, Any]:
        pairs = [(self.decode(key, depth + 1), self.decode(item, depth + 1)) for key, item in node["v"]]
        result = dict(pairs)
        if len(result) != len(pairs):
            raise WireError("a dict with a key twice")
        return result

    def _dtype(self, node: dict[str, JsonValue], depth: int) -> torch.dtype:
        return DTYPES[node["v"]]

    def _device(self, node: dict[str, JsonValue], depth: int) -> torch.device:
        return self.device(node["v"])

    _BUILDERS: dict[str, Callable[..., Any]] = {
        "tensor": _tensor,
        "ndarray": _array,
        "scalar": _scalar,
        "float": _float,
        "complex": _complex,
        "bytes": _bytes,
        "size": _size,
        "tuple": _tuple,
        "dict": _dict,
        "dtype": _dtype,
        "device": _device,
    }


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise WireError(f"not a size: {value!r}")
    return value


def device_of(tensor: torch.Tensor) -> torch.device:
    """The device that a tensor is on, or was on when it was sent here."""
    device: torch.device = getattr(tensor, "came_from", tensor.device)
    return device


def _shape(value: Any) -> tuple[tuple[int, ...], int]:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        raise WireError(f"not a shape of at most {MAX_DIMENSIONS} dimensions")
    shape = tuple(_natural(n) for n in value)
    if math.prod(max(n, 1) for n in shape) > MAX_FRAME:  # an empty tensor can still grow large when it is reduced
        raise WireError("a shape larger than a frame")
    return shape, math.prod(shape)


def pack(message: Any, encoder: Encoder | None = None) -> bytes:
    """One frame, without its length prefix.

    Raises:
        WireError: The message holds something that may not cross, or is larger than a frame may be.
    """
    encoder = encoder or Encoder()
    try:
        text = _WRITER.encode(encoder.encode(message))
    except ValueError as error:  # an integer of more digits than Python writes
        raise error if isinstance(error, WireError) else WireError(str(error)) from None
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > MAX_JSON:
        raise WireError(
            f"a message of {len(data) // 1024} KiB beside its tensors; {MAX_JSON // 1024} KiB may be sent "
            "(long lists of numbers are better returned as one tensor)"
        )
    return b"".join((JSON_LENGTH.pack(len(data)), data, *encoder.body))


def unpack(frame: bytes | bytearray, decoder: type[Decoder] | Callable[[memoryview], Decoder] = Decoder) -> Any:
    """The message in one frame (without its length prefix).

    Raises:
        WireError: The frame breaks the format or a limit; nothing of it was used.
    """
    if not JSON_LENGTH.size <= len(frame) <= MAX_FRAME:
        raise WireError(f"a frame of {len(frame)} bytes")
    (length,) = JSON_LENGTH.unpack_from(frame)
    if length > MAX_JSON or JSON_LENGTH.size + length > len(frame):
        raise WireError("the JSON part is larger than it may be")
    view = memoryview(frame)[JSON_LENGTH.size :]
    try:
        node = _READER.decode(str(view[:length], "utf-8"))
    except (ValueError, RecursionError) as error:
        raise WireError(f"not strict JSON: {error}") from None
    reader = decoder(view[length:])
    message = reader.decode(node)
    if reader.offset != len(reader.body):
        raise WireError("bytes that no part of the message names")
    return message


def _no_constant(name: str) -> Any:
    raise WireError(f"the constant {name} is not strict JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise WireError("a float that is not finite")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise WireError("an object with a key twice")
    return result


# Made once: `json.dumps` and `json.loads` would make them anew for each message.
_WRITER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))
_READER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique)
