"""Running cells in a real room of the sandbox, and looking at its processes from outside."""

import contextlib
import json
import os
import textwrap
import time
from pathlib import Path
from typing import Any

from autograder.remote import wire
from autograder.sandbox.room import Room

SECONDS = 30.0


def ask(room: Room, seconds: float = SECONDS, **request: Any) -> Any:
    """The value that answers one request."""
    reply = wire.unpack(room.ask(wire.pack(request), seconds))
    assert "value" in reply, reply
    return reply["value"]


def run_cell(room: Room, source: str, seconds: float = SECONDS, limit: int = 2**20) -> tuple[list[Any], Any]:
    """Run one cell: its outputs, and the description of its error or None."""
    text = textwrap.dedent(source).strip("\n").encode("utf-8", "surrogatepass")
    value = ask(room, seconds, op="cell", source=text, cell_id="the-cell", output_bytes=limit)
    return json.loads(value["outputs"]), value["error"]


def result_of(room: Room, source: str, seconds: float = SECONDS, **values: Any) -> Any:
    """Run student code that leaves a value in `result`; `values` are names that it finds."""
    names = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    outputs, error = run_cell(room, f"{names}{textwrap.dedent(source)}", seconds)
    assert error is None, outputs
    outputs, error = run_cell(room, "import json as _json; print(_json.dumps(result))")
    assert error is None, outputs
    return json.loads(outputs[0]["text"])


def process_namespace(room: Room) -> str:
    """The room's process namespace, by a name that is the same inside and outside."""
    return str(result_of(room, "import os\nresult = os.readlink('/proc/self/ns/pid')"))


def processes_in(namespace: str) -> list[int]:
    """This machine's processes in a process namespace; those that only wait to be collected do not count."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0] if folder.name.isdigit() else "Z"
            if state != "Z" and str((folder / "ns" / "pid").readlink()) == namespace:
                found.append(int(folder.name))
    return found


def none_left(namespace: str, seconds: float = 60.0) -> bool:
    """Whether a process namespace comes to be empty."""
    end = time.monotonic() + seconds
    while (left := processes_in(namespace)) and time.monotonic() < end:
        time.sleep(0.02)
    assert os.getpid() not in left
    return not left
