"""Runs notebook cells with IPython's own shell and records what they show, in order.

Streams, displayed objects, figures and errors go into one list as they happen. What child processes and C code write to
descriptors 1 and 2 goes to a file and is added when the cell ends.

This file enters the sandbox: it imports nothing else of ours but `server`'s naming of cells.
"""

import ast
import contextlib
import gc
import inspect
import io
import json
import os
import re
import sys
import tempfile
import warnings
from typing import Any

from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from autograder.remote.server import CELL_FILE, describe, text_of

Output = dict[str, Any]


class Recorder:
    """One ordered list of a cell's outputs, no larger than it may be."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.displays: dict[str, list[Output]] = {}
        self.limit = self.room = 0
        self.clear_next = False
        self.begin(2**20)

    def begin(self, limit: int) -> None:
        """Start anew with room for `limit` bytes."""
        self.limit = limit
        self._forget()

    def stream(self, name: str, text: str) -> None:
        """Text written to stdout or stderr."""
        if not text:
            return
        self._clear_if_due()
        text = text[: max(0, self.room)]
        if not text:
            return
        self.room -= len(text)
        last = self.outputs[-1] if self.outputs else {}
        if last.get("output_type") == "stream" and last.get("name") == name:
            last["parts"].append(text)
        else:
            self.outputs.append({"output_type": "stream", "name": name, "parts": [text]})

    def show(self, output: Output, display_id: str | None = None) -> None:
        """A displayed object, a result or an error."""
        self._clear_if_due()
        size = len(json.dumps(output, default=str))
        if size > self.room:
            return
        self.room -= size
        self.outputs.append(output)
        if display_id:
            self.displays.setdefault(display_id, []).append(output)

    def update(self, data: Any, metadata: Any, display_id: str) -> None:
        """Replace what was displayed under an id."""
        new = {"data": data, "metadata": metadata}
        for output in self.displays.get(display_id, ()):
            growth = len(json.dumps({**output, **new}, default=str)) - len(json.dumps(output, default=str))
            if growth <= self.room:
                self.room -= growth
                output.update(new)

    def clear(self, wait: bool) -> None:
        """Forget what was shown, now or when the next output comes."""
        if wait:
            self.clear_next = True
        else:
            self._forget()

    def take(self) -> list[Output]:
        """The recorded outputs in nbformat's shape."""
        return [
            {"output_type": "stream", "name": output["name"], "text": "".join(output["parts"])}
            if "parts" in output
            else output
            for output in self.outputs
        ]

    def _clear_if_due(self) -> None:
        if self.clear_next:
            self._forget()

    def _forget(self) -> None:
        self.outputs, self.displays = [], {}
        self.room, self.clear_next = self.limit, False


RECORDER = Recorder()


class _Stream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of a notebook."""

    def __init__(self, name: str) -> None:
        self.stream_name = name

    encoding = "utf-8"  # type: ignore[assignment]

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        RECORDER.stream(self.stream_name, text)
        return len(text)

    def fileno(self) -> int:
        return 1 if self.stream_name == "stdout" else 2


class _Publisher(DisplayPublisher):
    def publish(
        self, data: Any, metadata: Any = None, *, transient: Any = None, update: bool = False, **_: Any
    ) -> None:
        display_id = (transient or {}).get("display_id")
        if update and display_id:
            RECORDER.update(data, metadata or {}, display_id)
        else:
            RECORDER.show({"output_type": "display_data", "data": data, "metadata": metadata or {}}, display_id)

    def clear_output(self, wait: bool = False) -> None:
        RECORDER.clear(wait)


class _Hook(DisplayHook):
    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        RECORDER.show({
            "output_type": "execute_result", "execution_count": None, "data": format_dict, "metadata": md_dict or {},
        })  # fmt: skip

    def finish_displayhook(self) -> None:
        pass


class _Compiler(CachingCompiler):
    """Names the code of a cell after the cell, so that an error can be traced to it."""

    cell_id = ""
    parsed: tuple[str, ast.AST] | None = None
    """What has been parsed already, and what came of it."""

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        name = CELL_FILE.format(self.cell_id)
        # Without this entry `inspect` searches all modules for each frame: half a minute where recursion has no end.
        inspect.modulesbyfile[os.path.abspath(name)] = "__main__"  # type: ignore[attr-defined]  # noqa: PTH100
        return name

    def ast_parse(self, source: str, filename: str = "<unknown>", symbol: str = "exec") -> ast.AST:
        parsed, self.parsed = self.parsed, None
        if parsed is not None and parsed[0] == source and symbol == "exec":
            return parsed[1]
        return super().ast_parse(source, filename, symbol)  # type: ignore[no-any-return]


_PASTED_PROMPT = re.compile(r"\s*In \[\d+\]:")  # which is Python too: an annotation


class _Transformer(TransformerManager):
    """Leaves what is Python as it stands: IPython looks at each token for magics, for longer than most cells run."""

    def __init__(self, compiler: _Compiler) -> None:
        super().__init__()
        self.compiler = compiler

    def transform_cell(self, cell: str) -> str:
        if not _PASTED_PROMPT.match(cell):
            with contextlib.suppress(Exception), warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                tree = ast.parse(cell)
                cell = cell if cell.endswith("\n") else f"{cell}\n"
                self.compiler.parsed = None if heard else (cell, tree)  # parsed once more, it is warned of by name
                return cell
        return super().transform_cell(cell)  # type: ignore[no-any-return]


class _Shell(InteractiveShell):
    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        RECORDER.show({
            "output_type": "error", "ename": etype.__name__, "evalue": text_of(evalue),
            "traceback": [str(line) for line in stb],
        })  # fmt: skip

    def should_run_async(self, raw_cell: str, *, transformed_cell: str | None = None, **known: Any) -> bool:
        """Without one of these words no cell can be: it need not be compiled to find out."""
        if transformed_cell is not None and not re.search("await|async", transformed_cell):
            return False
        return super().should_run_async(raw_cell, transformed_cell=transformed_cell, **known)  # type: ignore[no-any-return]

    def ask_exit(self) -> None:
        """`exit()` in a notebook ends the kernel; here the cell just ends."""

    def enable_gui(self, gui: Any = None) -> None:
        pass


class Cells:
    """IPython's shell in this process. Made once in the warm template; every submission gets a forked copy."""

    def __init__(self) -> None:
        config = Config()
        config.HistoryManager.enabled = False  # it would keep a database and a thread
        config.InteractiveShell.colors = "nocolor"
        config.InteractiveShell.xmode = "Context"
        self.shell: Any = _Shell.instance(
            config=config, displayhook_class=_Hook, display_pub_class=_Publisher, compiler_class=_Compiler
        )
        self.shell.input_transformer_manager = _Transformer(self.shell.compile)
        self.namespace: dict[str, Any] = self.shell.user_ns
        self.files: list[Any] = []
        from matplotlib_inline import backend_inline

        self.shell.run_line_magic("matplotlib", "inline")
        backend_inline.set_matplotlib_formats("png")

    def attach(self) -> None:
        """Take over the streams of this process. Call it after the fork, in the submission's own working folder."""
        for descriptor in (1, 2):
            file = tempfile.TemporaryFile(dir=".")  # noqa: SIM115 - open as long as the process lives
            os.dup2(file.fileno(), descriptor)
            self.files.append(file)
        sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123
        sys.stdout, sys.stderr = _Stream("stdout"), _Stream("stderr")

    def run(self, source: str, cell_id: str, output_bytes: int) -> dict[str, Any]:
        """Run one cell: `outputs` (nbformat's, as JSON bytes) and `error` (a description, or None)."""
        RECORDER.begin(output_bytes)
        self.shell.compile.cell_id = cell_id
        result = self.shell.run_cell(source, store_history=True)
        self._collect(output_bytes)
        error = result.error_before_exec or result.error_in_exec
        described = describe(error) if error is not None else None
        del result
        outputs = json.dumps(RECORDER.take(), default=str, ensure_ascii=False).encode("utf-8", "backslashreplace")
        RECORDER.begin(output_bytes)
        if error is not None:
            del error
            self._let_go()
        return {"outputs": outputs, "error": described}

    def _let_go(self) -> None:
        """Drop the traceback of what failed: it keeps every variable of its frames, perhaps all memory there is."""
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            vars(sys).pop(name, None)
        self.shell.last_execution_result = None
        self.shell.InteractiveTB.tb = None
        gc.collect()  # IPython's description of a traceback and its frames refer to each other

    def take_text(self, limit: int) -> str:
        """Text printed since the last call."""
        self._collect(limit)
        text = "".join(str(output.get("text", "")) for output in RECORDER.take())
        RECORDER.begin(limit)
        return text[:limit]

    def _collect(self, limit: int) -> None:
        for name, file in zip(("stdout", "stderr"), self.files, strict=True):
            descriptor = file.fileno()
            end = os.lseek(descriptor, 0, os.SEEK_END)
            if end:
                text = os.pread(descriptor, min(end, limit), 0).decode("utf-8", "replace")
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                RECORDER.stream(name, text)
