"""What a probe may name, by example."""

import inspect
import textwrap

import pytest

from autograder.probes import undeclared_names

EXPECTED = 0.25


def probe(function):
    return function


@pytest.mark.parametrize(
    "source",
    [
        "def f(ns, mu):\n    return torch.autograd.grad(ns['kl'](mu).sum(), mu)",
        "def f(ns, n=math.tau):\n    return [ns.g(i) for i in range(n)]",
        "def f(ns):\n    def inner(k):\n        return 1 if k == 0 else inner(k - 1)\n    return inner(3)",
        "def f(n):\n    return n if n < 1 else f(n - 1)",
        "def f(ns):\n    from torch.nn import functional as F\n    import torch.nn\n    return F.relu(ns)",
        "def f(ns):\n    try:\n        return ns.g()\n    except ValueError as error:\n        return str(error)",
        "def f(ns):\n    (y := ns.g())\n    return y",
        "lambda x, s=2: -x.square() / s",
        "log_prob = lambda x: torch.distributions.Normal(0, 1).log_prob(x)",
        "def f(ns, x):\n    class Net(torch.nn.Module):\n        def __init__(self):\n            super().__init__()\n"
        "            self.a = 1\n    return Net().a",
    ],
)
def test_a_probe_that_stands_alone_may_cross(source):
    assert undeclared_names(source) == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(ns):\n    return ns.g() - EXPECTED", {"EXPECTED"}),
        ("def f(ns, x=EXPECTED):\n    return x", {"EXPECTED"}),
        ("def f(ns, x: Tensor):\n    return x", {"Tensor"}),
        ("def f(ns):\n    return [helper(i) for i in range(3)]", {"helper"}),
        ("def f(ns):\n    def inner():\n        return np.ones(2)\n    return inner()", {"np"}),
        ("def f(ns):\n    global SHARED\n    SHARED = 1", {"SHARED"}),
        ("def f(ns):\n    import numpy as np, torch\n    return np.ones(2)", {"import numpy"}),
        ("def f(ns):\n    from .helpers import a, b\n    return a", {"from .helpers import a, b"}),
        ("def f(ns):\n    return ns.g.__globals__", {".__globals__"}),
        ("def f(ns):\n    return __import__('os')", {"__import__"}),
        ("def f(ns):\n    return eval('EXPECTED')", {"eval"}),
        ("lambda x: x - EXPECTED", {"EXPECTED"}),
    ],
)
def test_what_a_probe_must_not_name_is_found_as_written(source, found):
    assert undeclared_names(source) == found


def test_decorators_and_indentation_are_what_inspect_returns_and_do_not_count():
    @probe
    def nested(ns):
        """A docstring
        that reaches further left."""
        return ns.g() + EXPECTED

    assert undeclared_names(inspect.getsource(nested)) == {"EXPECTED"}


def test_a_variable_of_the_surrounding_function_is_found():
    source = textwrap.indent("@probe\ndef f(ns):\n    return ns.g() - offset\n", "        ")
    assert undeclared_names(source) == {"offset"}


def test_source_that_is_not_python_is_a_syntax_error():
    with pytest.raises(SyntaxError):
        undeclared_names("def f(:")
