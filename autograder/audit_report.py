"""What an audit found, to be read: a table and diffs for a terminal, a page for a browser."""

import html
from collections.abc import Iterable, Sequence

from autograder.audit import Audit, Survivor, TaskTable

_COLUMNS = (
    "task", "mistakes", "alternatives", "killed", "survived", "timed out", "equivalent", "not counted", "score",
)  # fmt: skip


def table(audits: Sequence[Audit]) -> str:
    """A line for each task: mistakes caught, alternatives accepted, what became of the mutants."""
    lines = []
    for audit in audits:
        rows = [_COLUMNS, *(_row(task) for task in audit.tasks)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        lines.append(
            f"{audit.assignment}: {audit.checks} checks, {audit.seconds:.0f} s on {audit.cores} cores, "
            f"{audit.flaky} flaky"
        )
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines.append("")
    return "\n".join(lines)


def _row(task: TaskTable) -> tuple[str, ...]:
    mutants = (task.killed, task.survived, task.timed_out, task.equivalent, task.crashed)
    return (
        task.task, f"{task.caught} of {task.mistakes}", f"{task.accepted} of {task.alternatives}",
        *map(str, mutants), f"{task.score:.1%}",
    )  # fmt: skip


def survivors_text(audit: Audit) -> str:
    """The mutants that no check notices, as diffs, those with an accepted reason left out."""
    return "\n\n".join(
        f"{one.id}  solutions/{audit.assignment}.py:{one.line}  {one.task}  {_compared(one)}\n{one.diff}"
        for one in audit.survivors
        if not one.reason
    )


def _compared(survivor: Survivor) -> str:
    if survivor.differs:
        return f"(answers {survivor.differs} otherwise)"
    return f"(all of {survivor.compared} answers equal the reference's, bit by bit)"


def last_line(audits: Iterable[Audit]) -> str:
    """The targets in one line."""
    tables = [task for audit in audits for task in audit.tasks]
    return (
        f"mutation_score_min={min((task.score for task in tables), default=1.0):.3f} "
        f"mistakes_caught={sum(task.caught for task in tables)}/{sum(task.mistakes for task in tables)} "
        f"alternatives_accepted={sum(task.accepted for task in tables)}/{sum(task.alternatives for task in tables)} "
        f"flaky={sum(audit.flaky for audit in audits)}"
    )


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #d5d9de }
th:first-child, td:first-child { text-align: left }
pre { background: #f5f6f8; padding: .6rem .8rem; overflow-x: auto }
del, ins { text-decoration: none; display: block } del { background: #ffe3e0 } ins { background: #dcf5e1 }
.wrong { color: #a3180d }
"""


def page(audits: Sequence[Audit]) -> str:
    """The whole report as one page of HTML that loads nothing."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Audit of the hidden checks</title><style>{_STYLE}</style><h1>Audit of the hidden checks</h1>",
        "<p>A mutant is the reference solution with one small error made by machine. It is <em>killed</em> when a check"
        " notices it. Not counted are mutants that raise an error whatever they are asked.</p>",
        f"<p><code>{html.escape(last_line(audits))}</code></p>",
    ]
    for audit in audits:
        parts.append(f"<h2>{html.escape(audit.assignment)}</h2>")
        parts.append(f"<p>{audit.checks} checks; {audit.seconds:.0f} s on {audit.cores} cores.</p><table><tr>")
        parts += [f"<th>{column}</th>" for column in _COLUMNS]
        for task in audit.tasks:
            parts.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _row(task)))
        parts.append("</table>")
        if audit.shortcomings:
            parts.append("<h3 class=wrong>What falls short</h3><ul>")
            parts += [f"<li>{html.escape(problem)}" for problem in audit.shortcomings]
            parts.append("</ul>")
        parts += [_survivor(audit, one) for one in audit.survivors]
    return "\n".join(parts) + "\n"


def _survivor(audit: Audit, one: Survivor) -> str:
    kind = f"equivalent: {one.reason}" if one.reason else "survived"
    where = f"solutions/{audit.assignment}.py:{one.line}"
    lines = []
    for line in one.diff.splitlines():
        tag = {"-": "del", "+": "ins"}.get(line[:1], "")
        lines.append(f"<{tag}>{html.escape(line)}</{tag}>" if tag else f"{html.escape(line)}\n")
    head = f"<h3><code>{one.id}</code> {html.escape(f'{one.task}, {where}')}</h3>"
    return f"{head}<p>{html.escape(kind)} {html.escape(_compared(one))}</p><pre>{''.join(lines)}</pre>"
