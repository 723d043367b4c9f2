"""Answers, beside the student's code, what the trusted checks ask: call this function, run this probe, run this cell.

One `Server` fronts one namespace. In a submission it sits at the end of a socket in the sandbox; under plain `pytest`
it fronts the reference solution in the same process. Either way each question and each answer is a frame of `wire`.

This file enters the sandbox: it imports nothing else of ours but `wire` and `standin`.
"""

import builtins
import contextlib
import functools
import hashlib
import math
import os
import random
import socket
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch

from autograder.remote import frames, standin, wire

CELL_FILE = "<cell {}>"
MAX_TEXT = 4000
_FILTERS = list(warnings.filters)
UNREADABLE = "UnreadableAnswer"
"""The kind of error that stands for an answer which is not data, is too large or breaks the format."""


class CellRunner(Protocol):
    """What runs notebook cells (see `cells`)."""

    def run(self, source: str, cell_id: str, output_bytes: int) -> dict[str, Any]:
        """Run one cell; its outputs as JSON bytes and the error that ended it, if one did."""
        ...

    def take_text(self, limit: int) -> str:
        """What was printed since the last call, at most `limit` characters."""
        ...


class Server:
    """Fronts one namespace: the student's, or the reference's."""

    def __init__(
        self, namespace: dict[str, Any], cells: CellRunner | None = None, elsewhere: torch.device = standin.DEVICE
    ) -> None:
        """Front a namespace.

        Args:
            namespace: Its names.
            cells: What runs cells in it, if anything does.
            elsewhere: Where tensors go that the checks have on their stand-in for a GPU: a GPU, where there is one.
                What comes back from there is said to be on the stand-in, so that the checks need no GPU of their own.
        """
        self.namespace = namespace
        self.cells = cells
        self.elsewhere = elsewhere
        self.objects: list[Any] = []
        self.forked: list[int] = []
        self.standin_used = False

    def answer(self, frame: bytes | bytearray) -> bytes:
        """The reply to one request; whatever student code raises becomes a description in the reply."""
        try:
            request = wire.unpack(frame, functools.partial(_Decoder, self))
            if then := request.pop("then", None):  # what global state decides of it must be made after the beginning
                self._begin(request["seed"])
                return self.answer(then)
            operation: Callable[..., Any] = getattr(self, "_" + request.pop("op"))
            with standin.in_force() if self.standin_used else contextlib.nullcontext():
                reply: dict[str, Any] = {"value": operation(**request)}
                return wire.pack(reply, _Encoder(self))
        except BaseException as error:  # SystemExit and KeyboardInterrupt are answers too
            return wire.pack({"error": describe(error)})

    def serve(self, channel: socket.socket) -> None:
        """Answer requests until the other side is gone."""
        while True:
            try:
                frame, descriptors = frames.receive_frame(channel)
            except (EOFError, OSError, wire.WireError):
                return
            if descriptors:
                if self._fork() == 0:
                    channel.close()
                    channel = socket.socket(fileno=descriptors[0])
                else:
                    os.close(descriptors[0])
                    frames.send_frame(channel, wire.pack({"value": None}))
                continue
            try:
                frames.send_frame(channel, self.answer(frame))
            except OSError:
                return

    def _fork(self) -> int:
        """Fork this process, its namespace with it, so that what one task's checks do reaches no other task."""
        for pid in list(self.forked):
            with contextlib.suppress(OSError):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self.forked.remove(pid)
        torch.set_num_threads(1)  # a forked child cannot use the threads of its parent
        pid = os.fork()
        if pid:
            self.forked.append(pid)
        return pid

    # operations

    def _begin(self, seed: int) -> None:
        """Put back global state that student code may have changed, and forget what it has printed."""
        self._printed(MAX_TEXT)
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)
        if self.elsewhere.type == "cuda":  # float32 means float32, as on the CPU
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        if torch.are_deterministic_algorithms_enabled():  # setting it imports a compiler, which takes two seconds
            torch.use_deterministic_algorithms(False)
        seed_torch(seed)
        np.random.seed(seed % 2**32)
        np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
        random.seed(seed)
        warnings.resetwarnings()  # a filter that turns warnings into errors would cost marks
        warnings.filters.extend(_FILTERS)  # type: ignore[attr-defined]

    def _call(self, object: int | None, path: list[str], args: list[Any], kwargs: dict[str, Any]) -> Any:
        return self._resolve(object, path)(*args, **kwargs)

    def _get(self, object: int | None, path: list[str]) -> Any:
        return self._resolve(object, path)

    def _run(self, probe: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        return probe(_Names(self.namespace), *args, **kwargs)

    def _cell(self, source: bytes, cell_id: str, output_bytes: int) -> Any:
        assert self.cells is not None
        return self.cells.run(source.decode("utf-8", "surrogatepass"), cell_id, output_bytes)

    def _file(self, name: str, content: bytes) -> None:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def _usable(self) -> bool:
        """Whether the other device still computes: some errors on a GPU make all that follows in its process fail."""
        try:
            return torch.ones((), device=self.elsewhere).add(1).item() == 2
        except Exception:
            return False

    def _printed(self, characters: int) -> str:
        return self.cells.take_text(characters) if self.cells else ""

    def _resolve(self, handle: int | None, path: list[str]) -> Any:
        if handle is None:
            target: Any = _lookup(self.namespace, path[0])
            path = path[1:]
        else:
            target = self.objects[handle]
        for name in path:
            target = getattr(target, name)
        return target


def seed_torch(seed: int) -> None:
    """Seed torch as `torch.manual_seed` does, without the stack trace that it takes for every absent accelerator."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def _lookup(namespace: dict[str, Any], name: str) -> Any:
    if name not in namespace:
        raise NameError(f"`{name}` is not defined after the notebook has run")
    return namespace[name]


class _Names:
    """The `ns` of a probe: the student's names as attributes."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace

    def __getattr__(self, name: str) -> Any:
        return _lookup(self._namespace, name)


class _Encoder(wire.Encoder):
    """Leaves what is not data here and names it by a handle."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server

    def device_name(self, device: torch.device) -> str:
        return super().device_name(standin.DEVICE if device.type == self.server.elsewhere.type else device)

    def other(self, value: Any, depth: int) -> Any:
        self.server.objects.append(value)
        return {"t": "handle", "id": len(self.server.objects) - 1, "type": type(value).__name__}


class _Decoder(wire.Decoder):
    """Also builds what only the trusted side may send: functions from their source, generators, distributions."""

    def __init__(self, server: Server, body: memoryview) -> None:
        super().__init__(body)
        self.server = server

    def device(self, name: Any) -> torch.device:
        device = super().device(name)
        if standin.is_standin(device):
            device = self.server.elsewhere
        self.server.standin_used |= standin.is_standin(device)
        return device

    def place(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        return tensor.to(device)

    def other(self, tag: str, node: dict[str, Any], depth: int) -> Any:
        if tag == "handle":
            return self.server.objects[node["id"]]
        parts = {key: self.decode(part, depth + 1) for key, part in node.items() if key != "t"}
        if tag == "function":
            return compile_function(parts["name"], parts["source"])
        if tag == "partial":
            return functools.partial(parts["function"], *parts["args"], **parts["kwargs"])
        if tag == "generator":
            return _generator(parts["device"], parts["state"])
        if tag == "distribution":
            return getattr(torch.distributions, parts["name"])(*parts["args"], **parts["kwargs"])
        raise wire.WireError(f"unknown tag {tag!r}")


def _generator(device: torch.device, state: torch.Tensor) -> torch.Generator:
    """A generator in this state; on a GPU, whose generators work otherwise, one that a state always seeds the same."""
    generator = standin.make_generator(device)
    if device.type == "cuda":
        digest = hashlib.sha256(state.cpu().numpy().tobytes()).digest()
        return generator.manual_seed(int.from_bytes(digest[:7], "big"))
    generator.set_state(state)
    return generator


def compile_function(name: str, source: str) -> Callable[..., Any]:
    """The function that a source text defines, with `torch` and `math` the only names around it."""
    names: dict[str, Any] = {"torch": torch, "math": math}
    exec(compile(source, f"<{name}>", "exec"), names)
    return names[name]  # type: ignore[no-any-return]


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as data: the builtin it is or extends, its text, and the student's line that raised it."""
    name = next((base.__name__ for base in type(error).__mro__ if getattr(builtins, base.__name__, None) is base), "")
    if isinstance(error, wire.WireError):  # not a ValueError of the student's code, which a check may ask for
        name = UNREADABLE
    place = SimpleNamespace(cell="", line=0)
    prefix, suffix = CELL_FILE.split("{}")
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if file.startswith(prefix) and file.endswith(suffix):
            place = SimpleNamespace(cell=file[len(prefix) : -len(suffix)], line=line)
    if isinstance(error, SyntaxError) and str(error.filename).startswith(prefix):
        place = SimpleNamespace(cell=str(error.filename)[len(prefix) : -len(suffix)], line=error.lineno or 0)
    return {"type": name or "Exception", "text": text_of(error)[:MAX_TEXT], "cell": place.cell, "line": place.line}


def text_of(error: BaseException) -> str:
    """What an exception says; nothing where saying it fails."""
    try:
        return str(error)
    except BaseException:
        return ""
