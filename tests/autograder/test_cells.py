"""What a cell shows, in the order in which it happened: real cells in a room."""

import base64
import textwrap

import pytest
from rooms import ask, result_of, run_cell


def shown(outputs):
    """Kind and content of each output."""
    return [
        (
            output.get("name") or output["output_type"],
            output.get("text") or output.get("ename") or output["data"].get("text/plain"),
        )
        for output in outputs
    ]


def test_streams_displays_results_and_errors_keep_their_order(room):
    outputs, error = run_cell(
        room,
        """
        import sys
        print("one")
        print("two", file=sys.stderr)
        display(3)
        print("four"); print("five")
        raise ValueError("six")
        """,
    )
    assert shown(outputs) == [
        ("stdout", "one\n"),
        ("stderr", "two\n"),
        ("display_data", "3"),
        ("stdout", "four\nfive\n"),
        ("error", "ValueError"),
    ]
    assert (error["type"], error["text"], error["cell"], error["line"]) == ("ValueError", "six", "the-cell", 6)


def test_the_last_expression_is_the_result(room):
    assert shown(run_cell(room, "6 * 7")[0]) == [("execute_result", "42")]
    assert shown(run_cell(room, "6 * 7;")[0]) == []
    assert shown(run_cell(room, "_ + 1")[0]) == [("execute_result", "43")]


def test_a_figure_stands_where_it_was_shown(room):
    outputs, error = run_cell(
        room,
        """
        import matplotlib.pyplot as plt
        print("before")
        plt.plot([1, 2]); plt.show()
        print("between")
        plt.plot([2, 1])
        print("after")
        """,
    )
    assert error is None
    images = [output["data"].get("image/png") for output in outputs if output["output_type"] == "display_data"]
    assert [kind for kind, _ in shown(outputs)] == ["stdout", "display_data", "stdout", "display_data"]
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images) and len(set(images)) == 2


def test_a_display_can_be_updated(room):
    outputs, _ = run_cell(
        room,
        """
        handle = display("loading", display_id=True)
        print("meanwhile")
        handle.update("done")
        """,
    )
    assert shown(outputs) == [("display_data", "'done'"), ("stdout", "meanwhile\n")]


def test_clear_output_forgets_now_or_when_the_next_output_comes(room):
    clear = "from IPython.display import clear_output\n"
    assert shown(run_cell(room, clear + "print('a'); clear_output(); print('b')")[0]) == [("stdout", "b\n")]
    assert shown(run_cell(room, clear + "print('a'); clear_output(wait=True)")[0]) == [("stdout", "a\n")]
    outputs, _ = run_cell(room, clear + "print('a'); clear_output(wait=True); display(1); print('b')")
    assert shown(outputs) == [("display_data", "1"), ("stdout", "b\n")]


def test_an_animation_of_many_frames_keeps_its_last_one(room):
    source = """
    from IPython.display import clear_output
    for frame in range(50):
        clear_output(wait=True)
        display(f"{frame:0500}")
    """
    assert shown(run_cell(room, source, limit=2000)[0]) == [("display_data", repr(f"{49:0500}"))]


def test_what_is_written_to_the_descriptors_is_kept(room):
    outputs, _ = run_cell(
        room,
        """
        import os, subprocess, sys
        os.write(1, b"written\\n")
        subprocess.run([sys.executable, "-c", "import sys; print('child'); print('oops', file=sys.stderr)"], check=True)
        os.system("echo shell")
        None
        """,
    )
    assert sorted(shown(outputs)) == [("stderr", "oops\n"), ("stdout", "written\nchild\nshell\n")]


def test_output_of_one_cell_never_shows_in_the_next(room):
    run_cell(room, "import os; os.write(1, b'x' * 5000); print('y')", limit=1024)
    assert shown(run_cell(room, "print('z')")[0]) == [("stdout", "z\n")]


@pytest.mark.parametrize(
    "source",
    [
        "for _ in range(100): print('x' * 1000)",
        "for _ in range(100): display('x' * 1000)",
        "import os\nfor _ in range(100): os.write(1, b'x' * 1000)",
        "display(*range(1_000))",
        "handles = [display(0, display_id=True) for _ in range(20)]\nfor h in handles: h.update('x' * 5000)",
    ],
)
def test_no_more_output_is_kept_than_allowed(room, source):
    value = ask(room, op="cell", source=source.encode(), cell_id="c", output_bytes=20_000)
    assert value["error"] is None
    assert 10_000 < len(value["outputs"]) < 25_000


def test_top_level_await_and_magics_work(room):
    assert shown(run_cell(room, "import asyncio\nawait asyncio.sleep(0, 'awaited')")[0]) == [
        ("execute_result", "'awaited'")
    ]
    assert "per loop" in run_cell(room, "%timeit -n1 -r1 pass")[0][0]["text"]
    assert shown(run_cell(room, "!echo shell")[0])[0][1].strip() == "shell"
    assert shown(run_cell(room, "%%bash\necho script")[0]) == [("stdout", "script\n")]
    assert shown(run_cell(room, "%%capture kept\nprint('hidden')")[0]) == []
    assert run_cell(room, "%matplotlib inline")[1] is None


def test_exit_ends_the_cell_and_later_cells_run(room):
    assert run_cell(room, "exit()") == ([], None)
    assert run_cell(room, "quit()") == ([], None)
    assert run_cell(room, "import sys; sys.exit(3)")[1]["type"] == "SystemExit"
    assert shown(run_cell(room, "print('still here')")[0]) == [("stdout", "still here\n")]


def test_a_syntax_error_names_cell_and_line(room):
    outputs, error = run_cell(room, "x = 1\n\ndef f(:\n    pass")
    assert (error["type"], error["cell"], error["line"]) == ("SyntaxError", "the-cell", 3)
    assert shown(outputs)[-1] == ("error", "SyntaxError")


try:
    compile("'\x00'", "cell", "exec")
except (SyntaxError, ValueError) as error:  # which of them depends on the version of Python
    NULL_BYTE = type(error).__name__


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise BaseException('odd')", "BaseException"),
        ("def f(): f()\nf()", "RecursionError"),
        ("class Mute(OSError):\n    def __str__(self): raise ValueError\nraise Mute", ""),
        ("x = '\ud800'", "UnicodeEncodeError"),
        ("'\x00'", NULL_BYTE),
        ("input()", "EOFError"),
        ("%nonsense", ""),
        ("%%nonsense\n1", ""),
    ],
)  # fmt: skip
def test_whatever_ends_a_cell_is_its_error_and_later_cells_run(room, source, kind):
    outputs, error = run_cell(room, source)
    assert error is not None or outputs
    if kind:
        assert error["type"] == kind
        assert any(output["output_type"] == "error" for output in outputs)
    assert shown(run_cell(room, "print('on')")[0]) == [("stdout", "on\n")]


def test_an_error_that_cannot_say_what_it_is_shows_no_line_of_ours(room):
    outputs, _ = run_cell(room, "class Mute(OSError):\n    def __str__(self): raise ValueError\nraise Mute")
    assert shown(outputs)[0] == ("error", "Mute")
    assert not any("/opt/room" in line for output in outputs for line in output["traceback"])


def test_a_progress_bar_is_shown(room):
    outputs, error = run_cell(room, "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass")
    assert error is None
    assert [kind for kind, _ in shown(outputs)] == ["stderr"] and "3/3" in outputs[0]["text"]


def test_rich_objects_show_all_their_forms(room):
    source = "class Rich:\n    def _repr_html_(self): return '<b>'\n    def __repr__(self): return 'rich'\nRich()"
    outputs, _ = run_cell(room, source)
    assert outputs[0]["data"] == {"text/plain": "rich", "text/html": "<b>"}


def test_what_is_printed_during_checks_is_kept_apart(room):
    run_cell(room, "def f(): print('in a check')")
    ask(room, op="call", object=None, path=["f"], args=[], kwargs={})
    assert ask(room, op="printed", characters=100) == "in a check\n"
    assert ask(room, op="printed", characters=100) == ""
    assert run_cell(room, "1;") == ([], None)


def test_a_branch_has_what_the_notebook_made_and_keeps_its_changes_to_itself(room):
    run_cell(room, "x = [1]")
    branch = room.fork()
    assert shown(run_cell(branch, "x.append(2); print(x)")[0]) == [("stdout", "[1, 2]\n")]
    branch.close()
    assert shown(run_cell(room, "print(x)")[0]) == [("stdout", "[1]\n")]


def test_the_answer_of_a_cell_can_be_read_whatever_it_shows(room):
    for source in ("print('\\ud800')", "display({'x/y': float('nan')}, raw=True)", "display({'x/y': {1}}, raw=True)"):
        value = ask(room, op="cell", source=source.encode(), cell_id="c", output_bytes=10_000)
        assert isinstance(value["outputs"], bytes)


def test_recursion_without_end_is_told_in_little_time(room):
    """IPython lays out a traceback of a thousand frames: what that costs must fit well into a cell's limit."""
    before = room.usage().cpu_seconds
    outputs, error = run_cell(room, "def f(n): return f(n + 1)\nf(0)", seconds=60)
    assert error["type"] == "RecursionError" and shown(outputs) == [("error", "RecursionError")]
    assert room.usage().cpu_seconds - before < 5


def test_what_a_cell_that_failed_has_made_is_let_go(room):
    """The traceback would keep every variable of its frames, which may be all memory there is."""
    source = """
        import weakref
        class Large: pass
        def fill():
            try:
                large = Large()
                kept.append(weakref.ref(large))
                raise KeyError
            except KeyError as error:
                raise MemoryError from error
        kept = []
        """
    for number, text in enumerate((textwrap.dedent(source), "fill()")):  # of cells with names of their own, IPython
        ask(room, op="cell", source=text.encode(), cell_id=f"cell-{number}", output_bytes=1000)  # shows the source
    assert result_of(room, "result = [one() is None for one in kept]") == [True]


def test_magics_and_pasted_prompts_are_understood(room):
    assert shown(run_cell(room, "where = %pwd\nisinstance(where, str)")[0]) == [("execute_result", "True")]
    assert shown(run_cell(room, "In [1]: x = 3\n   ...: x")[0]) == [("execute_result", "3")]
    assert shown(run_cell(room, "%%capture\nprint('not shown')")[0]) == []


def test_only_what_is_not_python_is_looked_at_token_by_token(monkeypatch):
    from autograder.remote.cells import _Compiler, _Transformer

    looked = []
    monkeypatch.setattr(_Transformer, "do_token_transforms", lambda _, lines: looked.append(lines) or lines)
    assert _Transformer(_Compiler()).transform_cell("x = 1") == "x = 1\n"
    assert looked == []
    _Transformer(_Compiler()).transform_cell("x = %pwd")
    assert len(looked) == 1


COUNT_COMPILATIONS = """
import ast, builtins, sys
parsed, compiled = [], []
real = builtins.compile
def counting(source, name, mode, flags=0, *rest, **named):
    if isinstance(source, str):
        (parsed if flags & ast.PyCF_ONLY_AST else compiled).append(source)
    return real(source, name, mode, flags, *rest, **named)
builtins.compile = counting
"""


def test_a_cell_is_parsed_once_and_not_compiled_to_find_out_whether_it_waits(room):
    assert run_cell(room, COUNT_COMPILATIONS)[1] is None
    assert run_cell(room, "six = 6\nsix * 7")[1] is None
    outputs, _ = run_cell(room, "[sum(one.startswith('six = 6') for one in kind) for kind in (parsed, compiled)]")
    assert shown(outputs) == [("execute_result", "[1, 0]")]


def test_a_warning_of_the_parser_is_shown_with_its_cell(room):
    outputs, error = run_cell(room, r"import warnings; warnings.simplefilter('always')")
    outputs, error = run_cell(room, r"pattern = '\d'; len(pattern)")
    assert error is None
    (kind, text), result = shown(outputs)
    assert kind == "stderr" and "the-cell" in text and "invalid escape sequence" in text
    assert result == ("execute_result", "2")


def test_a_cell_may_wait_at_its_top_level(room):
    run_cell(room, "import asyncio\nasync def six():\n    return 6")
    assert shown(run_cell(room, "await six() * 7")[0]) == [("execute_result", "42")]
    waiting = "async def some():\n    yield 1\nfound = []\nasync for one in some(): found.append(one)\nfound"
    assert shown(run_cell(room, waiting)[0]) == [("execute_result", "[1]")]
