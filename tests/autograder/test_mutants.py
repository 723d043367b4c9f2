"""The operators that make small errors."""

import ast

import pytest

from autograder.mutants import mutants_of

CELL = '''\
def f(x, dim):
    """What it does: a + b."""
{}
'''


def bodies(statement: str) -> set[str]:
    """The mutants of a function of one statement, as that statement."""
    cell = CELL.format(f"    {statement}")
    found = {plain(mutant.source.splitlines()[2].strip()) for mutant in mutants_of("f", cell)}
    assert plain(statement) not in found
    return found


def plain(statement: str) -> str:
    """A statement in Python's own spelling."""
    return ast.unparse(ast.parse(statement))


@pytest.mark.parametrize(
    ("statement", "mutants"),
    [
        ("return x.sum(dim=-1)", {"return x.mean(dim=-1)", "return x.sum(dim=0)", "return x.sum()", "return x"}),
        ("return x.detach()", {"return x"}),
        ("return torch.exp(x)", {"return x"}),
        ("return x - dim", {"return dim - x", "return x + dim", "return x", "return dim"}),
        ("return f(x, dim)", {"return f(dim, x)", "return f(dim)", "return f(x)"}),
        ("return x @ self.lora_A.mT", {"return x @ self.lora_B.mT", "return x @ self.lora_A"}),
        ("return x.masked_fill(dim, float('-inf'))", {"return x.masked_fill(dim, 0.0)"}),
        ("return x.tril()", {"return x.triu()"}),
        ("return torch.log(x)", {"return torch.log2(x)", "return torch.log1p(x)"}),
        ("x += dim", {"x -= dim", "x = dim", "pass"}),
        ("return F.mse_loss(x, dim, reduction='sum')", {'return F.mse_loss(x, dim, reduction="mean")'}),
        ("return x.sum(-1, keepdim=True)", {"return x.sum(-1)", "return x.sum(-1, keepdim=False)"}),
    ],
)
def test_the_errors_that_students_of_tensor_code_make_are_among_the_mutants(statement: str, mutants: set[str]) -> None:
    assert {plain(mutant) for mutant in mutants} <= bodies(statement)


def test_a_condition_is_decided_either_way() -> None:
    found = bodies("if dim: return x")
    assert {plain("if True: return x"), plain("if False: return x")} <= found


def test_decorators_are_lost() -> None:
    cell = "class A:\n    @property\n    def size(self):\n        return self.n\n"
    assert "class A:\n    def size(self):\n        return self.n\n" in {m.source for m in mutants_of("A", cell)}


def test_docstrings_annotations_and_what_errors_say_stay() -> None:
    cell = (
        "LIMIT = 3 + 4\n\ndef f(x: Tensor | None) -> Tensor:\n"
        '    """One + two."""\n    if x < 1:\n        raise ValueError("too " + "small")\n    return x\n'
    )
    for mutant in mutants_of("f", cell):
        assert mutant.source.startswith('LIMIT = 3 + 4\n\ndef f(x: Tensor | None) -> Tensor:\n    """One + two."""')
        assert 'ValueError("too " + "small")' in mutant.source or "pass" in mutant.source


def test_no_two_mutants_are_alike_and_none_is_the_original() -> None:
    cell = CELL.format("    return (x.sum(dim) - 1) / (2 * dim)")
    mutants = mutants_of("f", cell)
    assert len({mutant.source for mutant in mutants}) == len({mutant.id for mutant in mutants}) == len(mutants) > 10


def test_a_mutants_name_does_not_depend_on_layout() -> None:
    names = {mutant.id for mutant in mutants_of("f", CELL.format("    return x - 1"))}
    assert names == {mutant.id for mutant in mutants_of("f", CELL.format("    # why\n    return (x\n      - 1)"))}


def test_a_mutant_says_what_changed_and_where() -> None:
    (mutant,) = [m for m in mutants_of("f", CELL.format("    return x.tril()")) if ".triu()" in m.source]
    assert mutant.line == 3
    assert mutant.diff.splitlines()[-2:] == ["-    return x.tril()", "+    return x.triu()"]
