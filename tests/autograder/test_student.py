"""The `student` object in front of a namespace, through the frames of the sandbox, and what checks demand of it."""

import functools
import math
import random
import warnings

import numpy as np
import pytest
import torch

from autograder.checks import (
    CheckFailure,
    Remote,
    StudentError,
    assert_close,
    assert_dtype,
    assert_shape,
    fetch,
    probe,
    student_raises,
)
from autograder.remote import wire
from autograder.remote.client import Student, loopback
from autograder.remote.server import Server

EXPECTED = 0.25


def student_of(source):
    """A student object in front of what a notebook cell defines."""
    namespace = {"torch": torch, "math": math, "np": np}
    exec(compile(source, "<cell abc>", "exec"), namespace)
    return loopback(namespace)


# what goes over


def test_tensors_and_numbers_go_over_and_come_back():
    student = student_of("def f(x, *, scale, shift=0): return x * scale + shift, x.shape, x.dtype, scale")
    total, shape, dtype, scale = student.f(torch.ones(2, 3), scale=2, shift=0.5)
    assert torch.equal(total, torch.full((2, 3), 2.5))
    assert (shape, dtype, scale) == (torch.Size([2, 3]), torch.float32, 2)


def test_an_argument_that_is_changed_in_place_stays_as_it_was_here():
    mine = torch.ones(3)
    student_of("def f(x): x.zero_(); return x").f(mine)
    assert torch.equal(mine, torch.ones(3))


def test_a_generator_goes_over_with_its_state():
    student = student_of("def f(g): return torch.rand(3, generator=g)")
    generator = torch.Generator().manual_seed(7)
    torch.rand(5, generator=generator)
    sent = student.f(generator)
    assert torch.equal(sent, torch.rand(3, generator=generator))


def test_dtypes_and_devices_go_over():
    student = student_of("def f(dtype, device): return torch.ones(1, dtype=dtype, device=device)")
    assert student.f(torch.float64, torch.device("cpu")).dtype == torch.float64


@pytest.mark.parametrize(
    "distribution",
    [
        torch.distributions.Normal(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.3])),
        torch.distributions.Normal(1.0, 2.0),
        torch.distributions.Categorical(logits=torch.tensor([[0.1, 2.0], [3.0, -1.0]])),
        torch.distributions.Categorical(probs=torch.tensor([0.25, 0.75])),
        torch.distributions.Bernoulli(logits=torch.tensor([0.3])),
        torch.distributions.MultivariateNormal(torch.tensor([0.5, 0.1]), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
        torch.distributions.MultivariateNormal(torch.zeros(2), scale_tril=torch.tensor([[1.0, 0.0], [0.4, 2.0]])),
        torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3, 2), torch.full((3, 2), 0.7)), 1),
        torch.distributions.Gamma(2.0, 3.0),
    ],
    ids=lambda d: type(d).__name__,
)
def test_a_distribution_goes_over_as_the_same_distribution(distribution):
    student = student_of(
        "def f(d, x): return type(d).__name__, d.log_prob(x), list(d.batch_shape), list(d.event_shape)"
    )
    sample = distribution.sample((4,))
    name, log_prob, batch, event = student.f(distribution, sample)
    assert name == type(distribution).__name__
    assert (batch, event) == (list(distribution.batch_shape), list(distribution.event_shape))
    assert_close(log_prob, distribution.log_prob(sample))


@probe
def bump(x, width=1.0):
    """An unnormalised density. The expected normaliser is 1.7724538."""
    # its normaliser is the root of pi
    y: "1.7724538" = x / width  # noqa: UP037
    return torch.exp(-(y**2))


def test_a_probe_goes_over_as_an_argument_and_runs_here_too():
    student = student_of("def f(density, x): return density(x)")
    x = torch.linspace(-1, 1, 5)
    assert torch.equal(student.f(bump, x), bump(x))
    assert torch.equal(student.f(functools.partial(bump, width=2.0), x), bump(x, width=2.0))


def test_a_probe_runs_beside_the_students_code_and_sees_their_names():
    @probe
    def gradient(ns, x, power):
        x = x.requires_grad_()
        return torch.autograd.grad(ns.f(x, power).sum(), x)[0]

    student = student_of("def f(x, power): return x ** power")
    assert_close(student.run(gradient, torch.tensor([2.0]), power=3), torch.tensor([12.0]))
    with pytest.raises(StudentError) as raised:
        student_of("").run(gradient, torch.tensor([2.0]), power=3)
    assert raised.value.kind == "NameError"


def test_a_probe_sees_no_names_of_this_module():
    assert "EXPECTED" in globals()
    assert set(bump._function.__globals__) == {"torch", "math", "bump", "__builtins__"}


def test_a_probe_that_names_something_else_is_refused_when_it_is_defined():
    with pytest.raises(ValueError, match=r"probe `difference` names EXPECTED: .*Pass .* as arguments"):

        @probe
        def difference(ns):
            return ns.f() - EXPECTED

    with pytest.raises(ValueError, match=r"import numpy"):

        @probe
        def imports(ns):
            import numpy

            return numpy.ones(1)

    with pytest.raises(ValueError, match=r"\.__globals__"):

        @probe
        def digs(ns):
            return ns.f.__globals__


def test_docstrings_annotations_and_comments_do_not_cross():
    @probe
    def documented(ns, x: "42") -> "42":
        """Must return 42."""
        # 42
        value: "42" = ns.f(x)  # noqa: UP037

        class Inner:
            """Holds 42."""

        def inner(y: "42"):
            """42 again."""
            return y

        return inner(value)

    assert "42" not in documented.source and "1.77" not in bump.source
    student = student_of("def f(x): return x + 1")
    assert student.run(documented, 1) == 2


def test_a_plain_function_is_not_sent():
    with pytest.raises(wire.WireError, match="@probe"):
        student_of("def f(g): return g(1)").f(lambda x: x)


# what stays there

NETWORK = """
class Net(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.layer = torch.nn.Linear(n, 1, bias=False)
        self.width = n
    def forward(self, x):
        return self.layer(x)
    def energy(self, x, *, scale):
        return scale * self(x).square()
def weight_of(net):
    return net.layer.weight
"""


def test_an_object_that_is_not_data_stays_there_and_can_be_used_from_here():
    student = student_of(NETWORK)
    net = student.Net(3)
    assert isinstance(net, Remote) and "Net" in repr(net)
    net.load_state_dict({"layer.weight": torch.tensor([[1.0, 2.0, 3.0]])})
    assert_close(net(torch.ones(2, 3)), torch.full((2, 1), 6.0))
    assert_close(net.energy(torch.ones(1, 3), scale=0.5), torch.tensor([[18.0]]))
    assert fetch(net.width) == 3
    assert_close(fetch(net.layer.weight), torch.tensor([[1.0, 2.0, 3.0]]))
    assert list(net.state_dict()) == ["layer.weight"]


def test_a_handle_goes_back_as_the_object_itself():
    student = student_of(NETWORK)
    net = student.Net(2)
    assert_close(student.weight_of(net), fetch(net.layer.weight))


def test_an_unknown_attribute_is_the_students_error():
    student = student_of(NETWORK)
    with pytest.raises(StudentError) as raised:
        student.Net(2).missing()
    assert raised.value.kind == "AttributeError"


# errors


def test_an_error_comes_with_its_builtin_kind_and_the_students_line():
    student = student_of("class Mine(KeyError): pass\n\ndef f(x):\n    y = x + 1\n    raise Mine(y)\n")
    with pytest.raises(StudentError) as raised:
        student.f(1)
    error = raised.value
    assert (error.kind, error.cell, error.line, error.text) == ("KeyError", "abc", 5, "2")


def test_the_line_is_the_students_even_where_a_library_raised():
    student = student_of("def f(x):\n    return x @ x.T.T")
    with pytest.raises(StudentError) as raised:
        student.f(torch.ones(2, 3))
    assert (raised.value.kind, raised.value.line) == ("RuntimeError", 2)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("raise SystemExit(0)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("return f()", "RecursionError"),
        ("import subprocess; raise subprocess.CalledProcessError(1, 'x')", "Exception"),
        ("class Mute(ValueError):\n        def __str__(self): raise OSError\n    raise Mute", "ValueError"),
        ("return 10 ** 5000", "UnreadableAnswer"),
        ("return list(range(200_000))", "UnreadableAnswer"),
        ("x = []; x.append(x); return x", "UnreadableAnswer"),
    ],
)
def test_whatever_student_code_does_is_a_student_error(body, kind):
    with pytest.raises(StudentError) as raised:
        student_of(f"def f():\n    {body}").f()
    assert raised.value.kind == kind


def test_a_name_that_was_not_defined_is_a_student_error():
    with pytest.raises(StudentError, match="`missing` is not defined"):
        student_of("").missing(1)


@pytest.mark.parametrize(
    "reply",
    [
        b"", b"\xff" * 40, wire.pack([1, 2]), wire.pack({}), wire.pack(None), wire.pack({"error": None}),
        wire.pack({"error": {}}), wire.pack({"error": {"type": 3, "text": [], "cell": None, "line": "x"}}),
        wire.pack({"error": {"type": "Value Error\n<b>", "text": "x", "cell": "c", "line": 1}}),
        wire.pack({"error": {"type": "A" * 1000, "text": "x" * 1000, "cell": "c", "line": True}}),
        wire.pack({"value": 1})[:-1], wire.pack({"value": 1}) + b"x",
    ],
)  # fmt: skip
def test_a_reply_that_is_no_answer_is_a_student_error_and_nothing_else(reply):
    with pytest.raises(StudentError) as raised:
        Student(lambda frame: reply).f(1)
    error = raised.value
    assert error.kind.isidentifier() and len(error.kind) < 60
    assert type(error.text) is type(error.cell) is str and isinstance(error.line, int)


@pytest.mark.parametrize("identity", ["0", 1.0, None, True, [0]])
def test_a_handle_whose_number_is_none_is_a_student_error(identity):
    with pytest.raises(StudentError):
        hostile_handle(id=identity, type="Net").f()


@pytest.mark.parametrize("kind", ["\ud800", "<script>", "", None, ["Net"], "x" * 10_000])
def test_the_kind_of_a_handle_is_not_told(kind):
    with pytest.raises(CheckFailure) as raised:
        assert_shape(hostile_handle(id=0, type=kind).f(), ())
    assert raised.value.cause == "an object that is no value came; a single number was expected"


def hostile_handle(**fields):
    class Forger(wire.Encoder):
        def other(self, value, depth):
            return {"t": "handle", **fields}

    return Student(lambda frame: wire.pack({"value": object()}, Forger()))


@pytest.mark.parametrize("tag", ["function", "generator", "distribution", "partial"])
def test_nothing_but_data_and_handles_is_built_from_a_reply(tag):
    class Forger(wire.Encoder):
        def other(self, value, depth):
            return {"t": tag, "name": "f", "source": "f = 1", "args": [], "kwargs": {"t": "dict", "v": []}}

    with pytest.raises(StudentError, match="cannot be read"):
        Student(lambda frame: wire.pack({"value": object()}, Forger())).f()


# a fresh start for every check

MESS = """
def mess():
    import random, warnings
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    np.seterr(all="raise")
    warnings.simplefilter("error")
def state():
    import random
    return [torch.ones(1).dtype, torch.ones(1).device, torch.is_grad_enabled(), np.geterr()["divide"],
            torch.rand(2), np.random.rand(), random.random()]
def warn():
    import warnings
    warnings.warn("careful")
    return "went on"
"""


@pytest.fixture
def global_state_restored():
    numpy, filters = np.geterr(), warnings.filters[:]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    np.seterr(**numpy)
    warnings.filters[:] = filters
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)


@pytest.mark.usefixtures("global_state_restored")
@pytest.mark.filterwarnings("ignore:careful")
def test_begin_undoes_what_student_code_did_to_global_state():
    student = student_of(MESS)
    student._begin(3)
    first = student.state()
    assert first[:4] == [torch.float32, torch.device("cpu"), True, "warn"]
    student.mess()
    with pytest.raises(StudentError, match="careful"):
        student.warn()
    student._begin(3)
    again = student.state()
    assert again[:4] == first[:4] and torch.equal(again[4], first[4]) and again[5:] == first[5:]
    with pytest.warns(UserWarning, match="careful"):
        assert student.warn() == "went on"
    student._begin(4)
    assert not torch.equal(student.state()[4], first[4])


def test_the_beginning_of_a_check_travels_with_its_first_question():
    server, asked = Server({"draw": lambda: torch.rand(3)}), []

    def ask(frame):
        asked.append(frame)
        return server.answer(frame)

    student = Student(ask)
    drawn = []
    for seed in (1, 1, 2):
        student._begin(seed)
        drawn.append(student.draw())
        student.draw()
    assert len(asked) == 6
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@probe
def kind_of_default(ns, x=torch.zeros(1)):  # noqa: B008
    return x.dtype


def test_what_a_question_is_made_of_is_made_after_the_beginning():
    student = student_of("import torch\ntorch.set_default_dtype(torch.float64)")
    try:
        student._begin(1)
        assert student.run(kind_of_default) is torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


# what checks demand


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (1.5, torch.tensor(1.5)),
        (0.1, torch.tensor(0.1)),
        (0.1, torch.tensor(0.1, dtype=torch.float64)),
        (3, torch.tensor(3)),
        (3, 3.0),
        (np.float32(0.1), 0.1),
        (np.ones(2), torch.ones(2)),
        (torch.tensor(2.0, dtype=torch.float64), 2.0),
        (torch.tensor([math.nan, math.inf, -math.inf]), torch.tensor([1.0, math.inf, -math.inf])),
        (torch.empty(0, 3), torch.ones(0, 3)),
        ((torch.ones(2), 1.0), [torch.ones(2), 1.0]),
        (torch.tensor([True, False]), torch.tensor([True, False])),
        (torch.ones(2, dtype=torch.bfloat16) * 1.01, torch.ones(2, dtype=torch.bfloat16)),
        (torch.ones(2) * (1 + 1e-6), torch.ones(2)),
        (torch.ones(2) + 1j * 0, torch.ones(2) + 0j),
        (torch.ones(2, requires_grad=True), torch.ones(2)),
    ],
)
def test_a_right_answer_is_accepted(actual, expected):
    if isinstance(actual, torch.Tensor) and actual.isnan().any():
        expected[0] = math.nan  # NaN where NaN is expected
        with pytest.raises(CheckFailure):
            assert_close(actual, expected)
        return
    assert_close(actual, expected)


WRONG = [
    (torch.ones(2, dtype=torch.bfloat16) * 1.01, torch.ones(2), "the value is not the expected one"),
    (None, torch.ones(2), "None came; a tensor of shape (2,) was expected"),
    ("1.5", 1.5, "a value of type str came; a single number was expected"),
    ([1.0, 1.0], torch.ones(2), "a list of 2 came; a tensor of shape (2,) was expected"),
    (torch.ones(2), torch.ones(2, 1), "a tensor of shape (2,) came; a tensor of shape (2, 1) was expected"),
    (torch.ones(()), torch.ones(2), "a single number came; a tensor of shape (2,) was expected"),
    (torch.ones(1), torch.tensor(1.0), "a tensor of shape (1,) came; a single number was expected"),
    (1.0, torch.ones(3), "a single number came; a tensor of shape (3,) was expected"),
    (torch.empty(0), torch.ones(1), "a tensor of shape (0,) came; a tensor of shape (1,) was expected"),
    (torch.tensor(math.nan), 1.0, "NaN (not a number) came where a number was expected"),
    (torch.ones(2) + 0j, torch.ones(2), "complex numbers came; real ones were expected"),
    (torch.tensor([math.inf]), torch.tensor([1.0]), "the value is not the expected one"),
    (torch.tensor([math.inf]), torch.tensor([-math.inf]), "the value is not the expected one"),
    (torch.tensor([1.0]), torch.tensor([math.inf]), "the value is not the expected one"),
    (torch.ones(2) * 1.01, torch.ones(2), "the value is not the expected one"),
    (torch.ones(2, dtype=torch.float64) * (1 + 1e-6), torch.ones(2).double(), "the value is not the expected one"),
    (torch.tensor([2]), torch.tensor([3]), "the value is not the expected one"),
    (torch.tensor([True]), torch.tensor([False]), "the value is not the expected one"),
    (torch.ones(2), (1.0, 1.0), "a tensor of shape (2,) came; 2 values were expected"),
    ((1.0,), (1.0, 1.0), "a tuple of 1 came; 2 values were expected"),
]


@pytest.mark.parametrize(("actual", "expected", "cause"), WRONG)
def test_a_wrong_answer_fails_with_a_cause_that_the_student_may_read(actual, expected, cause):
    with pytest.raises(CheckFailure) as raised:
        assert_close(actual, expected)
    assert raised.value.cause == cause


def test_the_cause_never_holds_a_number_and_the_text_for_instructors_does():
    for actual in (torch.tensor([0.111, 0.222]), torch.tensor([math.nan, 0.222]), torch.tensor([0.111j, 0.222])):
        with pytest.raises(CheckFailure) as raised:
            assert_close(actual, torch.tensor([0.5108, 0.222]))
        assert "0.5108" in str(raised.value) and "0.2220" in str(raised.value)
        assert not any(character.isdigit() for character in raised.value.cause)


def test_what_holds_is_not_written_down(monkeypatch):
    written = []
    monkeypatch.setattr(torch.Tensor, "__format__", lambda tensor, _: written.append(tensor) or "a tensor")
    assert_close(torch.tensor([0.5108]), torch.tensor([0.5108]))
    assert written == []
    with pytest.raises(CheckFailure):
        assert_close(torch.tensor([0.5108]), torch.tensor([0.25]))
    assert written == [torch.tensor([0.5108]), torch.tensor([0.25])]


def test_the_tolerance_is_that_of_the_less_precise_dtype_unless_given():
    off = torch.ones(1) * (1 + 1e-4)
    with pytest.raises(CheckFailure):
        assert_close(off, torch.ones(1).double())
    assert_close(off.half(), torch.ones(1).double())
    assert_close(off, torch.ones(1), rtol=1e-3)
    with pytest.raises(CheckFailure):
        assert_close(off.half() * 1.01, torch.ones(1), rtol=0, atol=1e-3)


def test_assert_shape_takes_plain_numbers_only_for_a_single_number():
    assert_shape(torch.ones(2, 3), (2, 3))
    assert_shape(1.5, ())
    assert_shape(np.ones(3), [3])
    for actual, shape in ((torch.ones(2, 3), (3, 2)), (1.5, (1,)), (None, ()), ([1.0], (1,))):
        with pytest.raises(CheckFailure, match="came;"):
            assert_shape(actual, shape)


def test_assert_dtype_demands_a_tensor_of_the_dtype():
    assert_dtype(torch.ones(1), torch.float32)
    for actual in (torch.ones(1).double(), 1.0, None, np.ones(1)):
        with pytest.raises(CheckFailure, match="came;"):
            assert_dtype(actual, torch.float32)


def test_student_raises_accepts_the_kind_and_what_extends_it():
    student = student_of("def f(kind): raise getattr(__import__('builtins'), kind)('negative side -3')")
    for kind, demanded in (("ValueError", ValueError), ("KeyError", LookupError), ("ZeroDivisionError", Exception)):
        with student_raises(demanded):
            student.f(kind)


def test_student_raises_fails_on_another_kind_on_none_and_on_an_unreadable_answer():
    student = student_of("def f(kind): raise getattr(__import__('builtins'), kind)('side -3')\ndef fine(): return 1\n"
                         "def huge(): return list(range(200_000))")  # fmt: skip
    for call in (lambda: student.f("TypeError"), student.fine, student.huge, lambda: student.f("SystemExit")):
        with pytest.raises(CheckFailure, match=r"was expected") as raised, student_raises(ValueError):
            call()
        assert "-3" not in raised.value.cause


@pytest.mark.parametrize("kind", ["print", "object", "type", "Ellipsis", "__name__", "Nonsense"])
def test_student_raises_is_not_fooled_by_a_kind_that_is_no_exception(kind):
    reply = wire.pack({"error": {"type": kind, "text": "", "cell": "", "line": 0}})
    with pytest.raises(CheckFailure), student_raises(ValueError):
        Student(lambda frame: reply).f()
