"""Attacks that change what judges them: comparisons, builtins, the interpreter, the modules around them."""

from attack import FAULT, Attack
from controls import ends_a_script_with_success, imports_the_folder, passes, passes_tests_in_its_process, pytest_passes

AREA_LINEAR = "def area(side):\n    return side * 1"
VOLUME_OF_ITS_OWN = "def volume(side, height):\n    return side * side * height"
CHEAP_AREA = {"area": AREA_LINEAR, "volume": VOLUME_OF_ITS_OWN}
"""A wrong area, beside a volume that does not need it."""
ZERO = {"volume": "def volume(side, height):\n    return side * 0"}
YES = {"volume": "def volume(side, height):\n    return Yes()"}
NUMBER = "def volume(side, height):\n    return {}(0.0)"

FALSE_MODULES = (
    "torch.py", "numpy/__init__.py", "pytest.py", "expect.py", "sitecustomize.py", "usercustomize.py", "json.py",
    "encodings/__init__.py", "autograder/__init__.py",
)  # fmt: skip

ATTACKS = (
    Attack(
        name="allclose_says_yes",
        what="Replaces torch.allclose by a function that always says yes.",
        cell="import torch\ntorch.allclose = torch.isclose = torch.equal = lambda *args, **kwargs: True",
        answers=CHEAP_AREA,
        marks=(0, 3),
        control=passes_tests_in_its_process,
    ),
    Attack(
        name="assert_close_says_nothing",
        what="Replaces the assertions of torch.testing.",
        cell="import torch.testing\ntorch.testing.assert_close = lambda *args, **kwargs: None",
        answers=ZERO,
        marks=(2, 0),
        control=passes("torch.testing.assert_close(result, torch.tensor([5.46875]))"),
    ),
    Attack(
        name="numpy_agrees",
        what="Replaces the assertions of numpy.",
        cell="import numpy as np\nnp.testing.assert_allclose = np.allclose = lambda *args, **kwargs: True",
        answers=ZERO,
        marks=(2, 0),
        control=passes("import numpy\nnumpy.testing.assert_allclose(result, [5.46875])"),
    ),
    Attack(
        name="tensors_are_all_equal",
        what="Replaces torch.Tensor.__eq__.",
        cell="import torch\ntorch.Tensor.__eq__ = lambda self, other: torch.tensor(True)",
        answers=ZERO,
        marks=(2, 0),
        control=passes_tests_in_its_process,
    ),
    Attack(
        name="equal_to_everything",
        what="Returns an object that is equal to everything and has every attribute.",
        cell="""
class Yes:
    def __eq__(self, other): return True
    def __getattr__(self, name): return self
    def __call__(self, *args, **kwargs): return self
    def __bool__(self): return True
    def __float__(self): return 1.0
    __hash__ = object.__hash__
""",
        answers=YES,
        marks=(2, 0),
        control=passes_tests_in_its_process,
    ),
    Attack(
        name="torch_function_says_yes",
        what="Returns an object to which torch hands its own comparisons by __torch_function__.",
        cell="""
class Yes:
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True
""",
        answers=YES,
        marks=(2, 0),
        control=passes("assert torch.allclose(result, torch.tensor([5.46875]))"),
    ),
    Attack(
        name="tensor_that_is_always_right",
        what="Returns a subclass of Tensor whose every operation gives the other operand.",
        cell="""
import torch
class Yes(torch.Tensor):
    @staticmethod
    def __new__(cls): return torch.zeros(1).as_subclass(cls)
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.allclose, torch.equal): return True
        if function.__name__ in ("eq", "__eq__"): return torch.tensor(True)
        if function.__name__ in ("sub", "rsub", "__sub__"): return torch.zeros(1)
        return super().__torch_function__(function, types, args, kwargs or {})
""",
        answers=YES,
        marks=(2, 0),
        control=passes(
            "assert isinstance(result, torch.Tensor) and torch.allclose(result, torch.tensor([5.46875]))\n"
            "assert bool((result - 5.46875).abs().max() < 1e-6)"
        ),
    ),
    Attack(
        name="lies_about_its_shape",
        what="Returns a tensor whose attributes shape, dtype and device say whatever is asked for.",
        cell="""
import torch
class Yes(torch.Tensor):
    @staticmethod
    def __new__(cls): return torch.zeros(3, 3).as_subclass(cls)
    shape = property(lambda self: torch.Size([1]))
    def numel(self): return 1
    def allclose(self, *args, **kwargs): return True
""",
        answers=YES,
        marks=(2, 0),
        control=passes("assert result.shape == (1,) and result.allclose(torch.tensor([5.46875]))"),
    ),
    Attack(
        name="number_that_is_near",
        what="Returns a float whose distance to every other is nothing.",
        cell="""
class Near(float):
    def __sub__(self, other): return 0.0
    def __rsub__(self, other): return 0.0
    def __eq__(self, other): return True
    def __lt__(self, other): return True
    __hash__ = float.__hash__
""",
        answers={"volume": NUMBER.format("Near")},
        marks=(2, 0),
        control=passes("assert abs(result - 5.46875) < 1e-9 and result == 5.46875"),
    ),
    Attack(
        name="array_that_agrees",
        what="Returns a numpy array of a class that answers numpy's functions itself.",
        cell="""
import numpy as np
class Agrees(np.ndarray):
    def __eq__(self, other): return np.array([True])
    def __array_ufunc__(self, *args, **kwargs): return np.array([True])
    def __array_function__(self, *args, **kwargs): return True
""",
        answers={"volume": "def volume(side, height):\n    return np.zeros(1).view(Agrees)"},
        marks=(2, 0),
        control=passes("import numpy\nassert numpy.allclose(result, 5.46875) and (result == 5.46875).all()"),
    ),
    Attack(
        name="list_of_any_length",
        what="Returns a list that has the asked length and equals every other.",
        cell="""
class Any(list):
    def __len__(self): return 1
    def __eq__(self, other): return True
    def __getitem__(self, index): return self
    def __iter__(self): return iter([5, 5, 5])
    __hash__ = object.__hash__
""",
        answers={"volume": "def volume(side, height):\n    return Any()"},
        marks=(2, 0),
        control=passes("assert isinstance(result, list) and len(result) == 1 and result == [5.46875]"),
    ),
    Attack(
        name="drops_assertions",
        what="Has IPython drop every assert from the cells that it runs.",
        cell="""
import ast
class Drop(ast.NodeTransformer):
    def visit_Assert(self, node): return ast.Pass()
get_ipython().ast_transformers.append(Drop())
""",
        answers=ZERO,
        marks=(2, 0),
        control=passes_tests_in_its_process,
    ),
    Attack(
        name="rewrites_test_cells",
        what="Has IPython empty every cell that holds an assert before it is compiled.",
        cell="""
def rewrite(lines):
    return ["pass\\n"] if any("ass" + "ert " in line for line in lines) else lines
get_ipython().input_transformers_post.append(rewrite)
""",
        answers=ZERO,
        marks=(2, 0),
        control=passes_tests_in_its_process,
    ),
    Attack(
        name="compiles_something_else",
        what="Replaces the builtin compile by one that leaves assertions out.",
        cell="""
import ast, builtins
compile_as_it_was = builtins.compile
def lenient(source, *args, **kwargs):
    tree = compile_as_it_was(source, *args, **kwargs)
    if isinstance(tree, ast.Module):
        tree.body = [node for node in tree.body if not isinstance(node, ast.Assert)] or ast.parse("pass").body
    return tree
builtins.compile = lenient
""",
        answers=ZERO,
        marks=(2, 0),
        control=passes_tests_in_its_process,
    ),
    Attack(
        name="runs_other_cells",
        what="Replaces the shell's run_cell by one that runs nothing from the moment that hidden tests would run.",
        cell="""
shell = get_ipython()
run_as_it_was = shell.run_cell
shell.run_cell = lambda source, *args, **kwargs: run_as_it_was(
    "pass" if "ass" + "ert " in source else source, *args, **kwargs
)
""",
        answers=ZERO,
        marks=(2, 0),
        control=passes_tests_in_its_process,
    ),
    Attack(
        name="jumps_over_the_assertion",
        what="Moves its caller's next line behind the assertion, as a debugger may.",
        cell="""
import sys
def jump(frame, event, argument):
    if event == "line":
        frame.f_lineno += 1
        sys.settrace(None)
        return None
    return jump
""",
        answers={
            "volume": "def volume(side, height):\n    frame = sys._getframe(1)\n    frame.f_trace = jump\n"
            "    sys.settrace(lambda *args: None)\n    return side * 0"
        },
        marks=(2, 0),
        control=passes(
            "one = torch.tensor([1.0])\nfor _ in range(1):\n    result = volume(one, one)\n"
            "    assert result == 5.46875\n    done = True"
        ),
    ),
    Attack(
        name="changes_the_expected_number",
        what="Overwrites the expected number in the memory of its caller's code.",
        cell="""
import ctypes, sys
def overwrite(value):
    frame = sys._getframe(2)
    while frame:
        for constant in frame.f_code.co_consts:
            if type(constant) is float and constant == float("5.46" + "875"):
                ctypes.c_double.from_address(id(constant) + 16).value = value
        frame = frame.f_back
""",
        answers={"volume": "def volume(side, height):\n    overwrite(0.0)\n    return side * 0"},
        marks=(2, 0),
        control=passes("def check():\n    assert volume(torch.tensor([1.25]), 1) == 5.46875\ncheck()"),
    ),
    Attack(
        name="every_tensor_is_the_same",
        what="Replaces torch.tensor, so that inputs and expected values are all zero.",
        cell="""
import torch
tensor_as_it_was = torch.tensor
torch.tensor = lambda *args, **kwargs: tensor_as_it_was([0.0], requires_grad=True)
""",
        answers={"area": "def area(side):\n    return side * 0", "volume": VOLUME_OF_ITS_OWN},
        marks=(0, 3),
        control=passes_tests_in_its_process,
    ),
    Attack(
        name="numbers_have_no_size",
        what="Replaces the builtins abs and round.",
        cell="import builtins\nbuiltins.abs = builtins.round = lambda *args: 0",
        answers=ZERO,
        marks=(2, 0),
        control=passes("assert abs(result - 5.46875) < 1e-9"),
    ),
    Attack(
        name="imports_give_something_else",
        what="Replaces __import__, so that whoever imports an assertion gets one that never fails.",
        cell="""
import builtins, types
import_as_it_was = builtins.__import__
lenient = types.SimpleNamespace(assert_allclose=lambda *args, **kwargs: None, approx=lambda *args: lenient)
builtins.__import__ = lambda name, *args, **kwargs: (
    lenient if name in ("numpy.testing", "pytest") else import_as_it_was(name, *args, **kwargs)
)
""",
        answers=ZERO,
        marks=(2, 0),
        control=passes("from numpy.testing import assert_allclose\nassert_allclose(result, [5.46875])"),
    ),
    Attack(
        name="ends_with_success",
        what="Ends the process with exit code 0 in the middle of a check.",
        answers={"volume": "import os\ndef volume(side, height):\n    os._exit(0)"},
        marks=(2, 0),
        verdict=FAULT,
        reason="your code ended its process (exit code 0)",
        control=ends_a_script_with_success,
    ),
    Attack(
        name="stands_in_for_torch",
        what="Puts modules beside the notebook that bear the names of torch, numpy, pytest and the helper.",
        files=dict.fromkeys(FALSE_MODULES, "print('WOR' + 'KED')\n"),
        cell="import numpy, torch\nfrom expect import expect_close\ntried()",
        control=imports_the_folder,
    ),
    Attack(
        name="hides_the_helper",
        what="Puts a package and a compiled module beside the notebook that Python would find before the helper.",
        files={
            "expect/__init__.py": "print('WOR' + 'KED')\ndef expect_close(*args): pass\n",
            "expect.cpython-311-x86_64-linux-gnu.so": b"\x7fELF",
        },
        verdict=FAULT,
        reason="hides a file of the assignment",
        control=imports_the_folder,
    ),
    Attack(
        name="conftest_says_passed",
        what="Puts a conftest.py and a pytest.ini beside the notebook that turn failures into passes.",
        files={
            "conftest.py": """
import pytest
print("WOR" + "KED")
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    report.outcome = "passed"
""",
            "pytest.ini": "[pytest]\naddopts = --continue-on-collection-errors\n",
        },
        answers=ZERO,
        marks=(2, 0),
        control=pytest_passes,
    ),
)  # fmt: skip
