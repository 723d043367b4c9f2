"""Hidden checks of the assignment on fine-tuning and LoRA.

Modules stay on the student's side: checks supply their weights, ask for outputs and state_dicts, and compute what these
must be. Weights and inputs are whole numbers in float64 where nothing else is said, so sums come out exactly, in
whatever order they are taken. No mark rests on `requires_grad` alone: what is trained is seen by taking a step.
"""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autograder.checks import (
    Remote,
    Student,
    assert_close,
    assert_device,
    assert_dtype,
    assert_shape,
    attribute,
    check,
    fetch,
    probe,
    student_raises,
    task,
)


def whole(*shape: int, seed: int, least: int = -4, most: int = 4) -> Tensor:
    """Random whole numbers other than zero, as float64."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(least, most, shape, generator=generator, dtype=torch.int64)
    return (numbers + (numbers >= 0)).double()


def exactly(actual: object, expected: object) -> None:
    """Demand equality, number by number; a tensor's dtype too is left to other checks."""
    assert_close(actual, expected, rtol=0.0, atol=0.0)


def same_state(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Demand the names of a state_dict, in whatever order, and its values exactly."""
    assert isinstance(actual, dict) and sorted(actual) == sorted(expected), "other names in the state_dict"
    for name, value in expected.items():
        exactly(actual[name], value.detach())


def same_names(actual: object, expected: list[str]) -> None:
    """Demand a list (a tuple will do) of names, in this order."""
    assert isinstance(actual, list | tuple) and list(actual) == expected, f"{actual} came, {expected} was expected"


@probe
def linear_layer(ns, weight, bias):
    layer = torch.nn.Linear(
        weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype, device=weight.device
    )
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer


@probe
def one_step(ns, model, x, pull, rate):
    (model(x) * pull).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is not None:
                parameter -= rate * parameter.grad


# --- count_parameters --------------------------------------------------------------------------------------------


@probe
def plain_model(ns, device):
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 3), torch.nn.Sequential(torch.nn.Linear(3, 7, bias=False), torch.nn.Conv1d(2, 4, 3))
    )
    return model.to(device)


@probe
def half_frozen_model(ns, device):
    model = torch.nn.ModuleDict({"first": torch.nn.Linear(6, 4), "second": torch.nn.Linear(4, 3)})
    model["first"].weight.requires_grad_(False)
    model["second"].requires_grad_(False)
    return model.to(device)


@probe
def tied_model(ns, device, frozen):
    model = torch.nn.ModuleDict({"table": torch.nn.Embedding(11, 4), "scores": torch.nn.Linear(4, 11)})
    model["scores"].weight = model["table"].weight
    model["table"].weight.requires_grad_(not frozen)
    return model.to(device)


@probe
def repeated_model(ns, device):
    block = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    return torch.nn.Sequential(block, torch.nn.ReLU(), block, torch.nn.ReLU(), block, torch.nn.Linear(3, 2)).to(device)


@probe
def model_with_buffers(ns, device):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("positions", torch.zeros(9))
            self.temperature = torch.nn.Parameter(torch.tensor(2.0))
            self.shift = torch.nn.Parameter(torch.zeros(3, 2), requires_grad=False)
            self.pieces = torch.nn.ParameterList(
                [torch.nn.Parameter(torch.zeros(2, 5)), torch.nn.Parameter(torch.zeros(4))]
            )
            self.norm = torch.nn.BatchNorm1d(6)

    return Model().to(device)


@probe
def bare_model(ns, device):
    return torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm1d(4, affine=False)).to(device)


@task("count_parameters")
class TestCountParameters:
    @check(hint="Modules within modules count, biases count, and each matrix counts with all its entries.")
    def test_nested(self, student: Student, device: torch.device) -> None:
        """Weights and biases of layers at all depths are counted, entry by entry."""
        # number of tensors 5, children only 18, without biases 60, shapes summed
        count = 5 * 3 + 3 + 3 * 7 + 4 * 2 * 3 + 4
        exactly(student.count_parameters(student.run(plain_model, device)), (count, count))

    @check(hint="Trainable first, then all: the second number includes the first.", weight=2)
    def test_frozen(self, student: Student, device: torch.device) -> None:
        """Frozen parameters are counted in the total and not among the trainable ones."""
        # swapped (43, 4), frozen for total (4, 39), everything trainable (43, 43); a bias can train by itself
        exactly(student.count_parameters(student.run(half_frozen_model, device)), (4, 43))

    @check(hint="Two names, one tensor: what tells you that two parameters are the same object?", weight=2)
    def test_tied(self, student: Student, device: torch.device) -> None:
        """A table of tokens that also computes the scores counts once."""
        # counted under both names: 99
        exactly(student.count_parameters(student.run(tied_model, device, False)), (55, 55))

    @check(hint="A tied parameter that is frozen is frozen under all its names.")
    def test_tied_and_frozen(self, student: Student, device: torch.device) -> None:
        """A tied table that is frozen counts once in the total and not among the trainable ones."""
        exactly(student.count_parameters(student.run(tied_model, device, True)), (11, 55))

    @check(hint="A block that is used three times has its parameters once.")
    def test_repeated_block(self, student: Student, device: torch.device) -> None:
        """A block that stands in three places counts once."""
        # 62 when counted by place
        exactly(student.count_parameters(student.run(repeated_model, device)), (26, 26))

    @check(
        hint="Is everything in the state_dict a parameter? And what of parameters that belong to no layer?", weight=2
    )
    def test_buffers(self, student: Student, device: torch.device) -> None:
        """Buffers do not count; parameters outside of layers do, single numbers included."""
        # state_dict: 55; modules' weight and bias only: 12
        exactly(student.count_parameters(student.run(model_with_buffers, device)), (27, 33))

    @check(hint="Counting needs no numbers from the parameters: ask for sizes only.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """A model on another device is counted like any other."""
        exactly(student.count_parameters(student.run(half_frozen_model, elsewhere)), (4, 43))
        exactly(student.count_parameters(student.run(tied_model, elsewhere, True)), (11, 55))

    @check(hint="Two numbers come back, also where there is nothing to count.")
    def test_no_parameters(self, student: Student, device: torch.device) -> None:
        """A module without parameters has none, and one with a single layer has those of the layer."""
        exactly(student.count_parameters(student.run(bare_model, device)), (0, 0))
        layer = student.run(linear_layer, whole(2, 3, seed=1).to(device), None)
        exactly(student.count_parameters(layer), (6, 6))


# --- LoRALinear --------------------------------------------------------------------------------------------------


def lora_layer(
    student: Student,
    device: torch.device,
    state: dict[str, Tensor],
    alpha: float,
    dropout: float = 0.0,
) -> Remote:
    """The student's layer with the weights of a state_dict."""
    state = {name: value.to(device) for name, value in state.items()}
    base = student.run(linear_layer, state["base.weight"], state.get("base.bias"))
    layer = student.LoRALinear(base, r=len(state["lora_A"]), alpha=alpha, dropout=dropout)
    layer.load_state_dict(state)
    return layer


def lora_state(rows: int, columns: int, r: int, seed: int, bias: bool = True) -> dict[str, Tensor]:
    """Weights for a layer."""
    state = {
        "base.weight": whole(rows, columns, seed=seed),
        "lora_A": whole(r, columns, seed=seed + 1),
        "lora_B": whole(rows, r, seed=seed + 2),
    }
    return {**state, "base.bias": whole(rows, seed=seed + 3)} if bias else state


def lora_output(state: dict[str, Tensor], scaling: float, x: Tensor) -> Tensor:
    """What the layer computes with these weights."""
    weight = state["base.weight"] + scaling * torch.einsum("or,ri->oi", state["lora_B"], state["lora_A"])
    return torch.einsum("oi,...i->...o", weight, x) + state.get("base.bias", torch.zeros(len(weight)).double())


@probe
def mark_as_merged(ns, layer):
    layer.merged = True


@probe
def change_base(ns, base, weight):
    base.load_state_dict({"weight": weight})


@task("LoRALinear")
class TestLoRALinear:
    @check(hint="Before training the change must be zero: which of A and B starts at zero?", weight=2)
    def test_start(self, student: Student, device: torch.device) -> None:
        """Before training, the adapted layer computes exactly what the layer did."""
        # B random; bias forgotten
        weight, bias, x = whole(3, 5, seed=1), whole(3, seed=2), whole(7, 5, seed=3)
        base = student.run(linear_layer, weight.to(device), bias.to(device))
        layer = student.LoRALinear(base, r=2, alpha=6.0)
        exactly(layer(x.to(device)), x @ weight.T + bias)

    @check(hint="The change is alpha / r times B times A, and acts on the same input as the base.", weight=2)
    def test_output(self, student: Student, device: torch.device) -> None:
        """With given weights the layer adds alpha / r times B A x to the output of the base."""
        # alpha / r is 3/2: without it 1, inverted 2/3, alpha alone 3, alpha / sqrt(r) 2.12; transposed factors fail
        state, x = lora_state(3, 5, 2, seed=10), whole(7, 5, seed=14)
        layer = lora_layer(student, device, state, alpha=3.0)
        exactly(layer(x.to(device)), lora_output(state, 1.5, x))

    @check(hint="Is alpha divided by the rank, and by the rank only?")
    def test_scaling(self, student: Student, device: torch.device) -> None:
        """With the rank 4 and alpha 1, a quarter of B A x is added."""
        state, x = lora_state(6, 2, 4, seed=20, bias=False), whole(3, 2, seed=24)
        layer = lora_layer(student, device, state, alpha=1.0)
        exactly(layer(x.to(device)), lora_output(state, 0.25, x))

    @check(hint="Names and shapes are those of the docstring: A reads the input, B writes the output.")
    def test_names(self, student: Student, device: torch.device) -> None:
        """The state_dict holds base, A and B under the names asked for, B zero, the base as it was."""
        for bias in (whole(3, seed=32), None):
            weight = whole(3, 5, seed=31)
            base = student.run(linear_layer, weight.to(device), None if bias is None else bias.to(device))
            state = student.LoRALinear(base, r=2, alpha=6.0).state_dict()
            expected = {"base.weight": weight, "lora_B": torch.zeros(3, 2).double(), "lora_A": state.get("lora_A")}
            assert_shape(state.get("lora_A"), (2, 5))
            same_state(state, expected if bias is None else {**expected, "base.bias": bias})

    @check(hint="A starts at random, of a size that depends on the number of inputs. Zero would never move.", weight=2)
    def test_random_start(self, student: Student, device: torch.device) -> None:
        """A starts with independent entries of mean zero and of the size asked for."""
        # For n = 64 * 256 entries of standard deviation s <= 1.5/16: the mean has s/128, 7 of them are .0052. The
        # sample deviation of a normal (uniform: less) has s/sqrt(2n) = s * .0055, and 7 of them are 3.9%. Entry by
        # entry products of neighbouring rows have mean 0 and deviation s^2; over 63 * 256 of them 7 s^2/127.
        # A zero; standard deviation 1, 1/r or .02; all entries alike; one random row repeated; A in the shape of B
        first, second = (
            student.LoRALinear(
                student.run(linear_layer, whole(3, 256, seed=41).to(device), None), r=64, alpha=1.0
            ).state_dict()["lora_A"]
            for _ in range(2)
        )
        assert_shape(first, (64, 256))
        deviation = float(first.double().std())
        assert_close(float(first.double().mean()), 0.0, rtol=0.0, atol=0.0052)
        assert_close(16 * deviation, 1.0, rtol=0.0, atol=0.54)
        products = (first[1:] * first[:-1]).double().mean() / deviation**2
        assert_close(float(products), 0.0, rtol=0.0, atol=7 / 126)
        # two layers: the same argument, over 64 * 256 products
        assert_close(float((first * second).double().mean()) / deviation**2, 0.0, rtol=0.0, atol=7 / 126)

    @check(hint="Which parameters may move in training? Only A and B: freeze the weight and the bias.", weight=3)
    def test_only_the_change_is_trained(self, student: Student, device: torch.device) -> None:
        """A step of training moves A and B along their gradients, and leaves weight and bias of the base alone."""
        # base not frozen, bias trained, a factor detached or no parameter
        state, x, pull = lora_state(3, 5, 2, seed=50), whole(7, 5, seed=54), whole(7, 3, seed=55)
        layer = lora_layer(student, device, state, alpha=3.0)
        student.run(one_step, layer, x.to(device), pull.to(device), 0.25)
        expected = {
            **state,
            "lora_A": state["lora_A"] - 0.25 * 1.5 * state["lora_B"].T @ pull.T @ x,
            "lora_B": state["lora_B"] - 0.25 * 1.5 * pull.T @ x @ state["lora_A"].T,
        }
        same_state(layer.state_dict(), expected)

    @check(hint="The first step from the start must get somewhere: it moves B, by what A reads from the input.")
    def test_first_step(self, student: Student, device: torch.device) -> None:
        """The first step of training moves B and cannot move A yet."""
        weight, x, pull = whole(3, 5, seed=61), whole(7, 5, seed=62), whole(7, 3, seed=63)
        layer = student.LoRALinear(student.run(linear_layer, weight.to(device), None), r=2, alpha=3.0)
        start = layer.state_dict()
        student.run(one_step, layer, x.to(device), pull.to(device), 0.25)
        moved = layer.state_dict()
        assert_shape(start["lora_A"], (2, 5))
        exactly(moved["lora_A"], start["lora_A"])
        expected = -0.25 * 1.5 * pull.T @ x @ start["lora_A"].T
        assert float(expected.abs().min()) > 0, "the first step moves nothing"
        assert_close(moved["lora_B"], expected)

    @check(hint="Dropout acts on what the adapter reads, entry by entry, and the base never sees it.", weight=2)
    def test_dropout(self, student: Student, device: torch.device) -> None:
        """In training, entries of the adapter's input are dropped at the given rate, the others grow in proportion."""
        # B A is the identity in rows 1 to 6, zero in row 7 and one in all of row 8, so that the output minus that of
        # the base shows the input of the adapter, the base alone, and the sum of the input. Dropped are 2400 * .25 with
        # a deviation of sqrt(2400 * 3/16): 7 of them are 6.2% of 2400. Two rows of six entries are alike with
        # probability .625^6 = .06.
        # Dropout on the base too, on the output, after A, keep for drop (75%), no growth, one mask for all rows
        factor = torch.eye(6).double() + torch.diag(torch.ones(5).double(), 1)
        product = torch.cat([torch.eye(6), torch.zeros(1, 6), torch.ones(1, 6)]).double()
        state = {
            "base.weight": whole(8, 6, seed=71),
            "base.bias": whole(8, seed=72),
            "lora_A": factor,
            "lora_B": product @ torch.linalg.inv(factor),
        }
        layer = lora_layer(student, device, state, alpha=6.0, dropout=0.25)
        x = 3 * whole(400, 6, seed=73)
        seen = layer(x.to(device))
        assert_shape(seen, (400, 8))
        seen = seen.double() - (x @ state["base.weight"].T + state["base.bias"])
        assert_close(seen[:, 6], torch.zeros(400).double())
        assert_close(seen[:, 7], seen[:, :6].sum(1))
        kept = (seen[:, :6] - x / 0.75).abs() < 1e-9
        assert_close(seen[:, :6], torch.where(kept, x / 0.75, 0.0))
        assert_close(float(kept.double().mean()), 0.75, rtol=0.0, atol=0.062)
        alike = (kept[1:] == kept[:-1]).all(1).double().mean(), (kept[:, 1:] == kept[:, :-1]).all(0).double().mean()
        assert max(map(float, alike)) < 0.5, "one mask serves many entries"

    @check(hint="In evaluation mode nothing is dropped.")
    def test_evaluation(self, student: Student, device: torch.device) -> None:
        """In evaluation mode nothing is dropped, and in training mode nothing with a dropout of zero."""
        # F.dropout without training=self.training
        state, x = lora_state(4, 5, 2, seed=80), whole(9, 5, seed=84)
        layer = lora_layer(student, device, state, alpha=4.0, dropout=0.5)
        layer.eval()
        exactly(layer(x.to(device)), lora_output(state, 2.0, x))
        exactly(lora_layer(student, device, state, alpha=4.0)(x.to(device)), lora_output(state, 2.0, x))

    @check(hint="What does `merged` say about the weight of the base?")
    def test_merged(self, student: Student, device: torch.device) -> None:
        """A layer that is marked as merged answers with its base alone."""
        state, x = lora_state(3, 5, 2, seed=90), whole(7, 5, seed=94)
        layer = lora_layer(student, device, state, alpha=3.0)
        exactly(fetch(attribute(layer, "merged")), False)
        exactly(layer(x.to(device)), lora_output(state, 1.5, x))
        student.run(mark_as_merged, layer)
        exactly(layer(x.to(device)), lora_output(state, 0.0, x))

    @check(hint="Features are on the last axis; there may be any number of axes in front, or none.")
    def test_leading_axes(self, student: Student, device: torch.device) -> None:
        """Inputs may have any number of axes in front of the features, and batches may be empty."""
        state = lora_state(3, 5, 4, seed=100, bias=False)
        layer = lora_layer(student, device, state, alpha=2.0)
        for shape in ((5,), (2, 4, 5), (0, 5)):
            x = whole(*shape, seed=104)
            exactly(layer(x.to(device)), lora_output(state, 0.5, x))

    @check(hint="Keep the layer that was given; a copy doubles the memory and falls behind.")
    def test_base_is_kept(self, student: Student, device: torch.device) -> None:
        """The base is the layer that was given, so that new weights in it are new weights in the adapted layer."""
        old, new, x = whole(3, 5, seed=111), whole(3, 5, seed=112), whole(7, 5, seed=113)
        base = student.run(linear_layer, old.to(device), None)
        layer = student.LoRALinear(base, r=2, alpha=3.0)
        exactly(layer(x.to(device)), x @ old.T)
        student.run(change_base, base, new.to(device))
        exactly(layer(x.to(device)), x @ new.T)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @check(hint="New parameters take the dtype of the weight that they belong to.")
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """New parameters and outputs have the dtype of the base, and the outputs are right."""
        state = {name: value.to(dtype) for name, value in lora_state(3, 5, 2, seed=120).items()}
        x = whole(7, 5, seed=124)
        base = student.run(linear_layer, state["base.weight"].to(device), state["base.bias"].to(device))
        layer = student.LoRALinear(base, r=2, alpha=3.0)
        fresh = layer.state_dict()
        for name in ("lora_A", "lora_B"):
            assert_dtype(fresh[name], dtype)
        layer.load_state_dict({name: value.to(device) for name, value in state.items()})
        output = layer(x.to(device, dtype))
        assert_dtype(output, dtype)
        exactly(output, lora_output({name: value.double() for name, value in state.items()}, 1.5, x))

    @check(hint="Make A and B on the device of the weight of the base, wherever that is.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """New parameters and outputs are on the device of the base."""
        state, x = lora_state(3, 5, 2, seed=125), whole(7, 5, seed=129)
        base = student.run(linear_layer, state["base.weight"].to(elsewhere), state["base.bias"].to(elsewhere))
        layer = student.LoRALinear(base, r=2, alpha=3.0, dropout=0.5)
        for value in layer.state_dict().values():
            assert_device(value, elsewhere)
        assert_device(layer(x.to(elsewhere)), elsewhere)
        layer.eval()
        layer.load_state_dict(state)
        output = layer(x.to(elsewhere))
        assert_device(output, elsewhere)
        exactly(output, lora_output(state, 1.5, x))

    @check(hint="Raise ValueError for a rank below 1 and for a dropout that is no probability below 1, and only then.")
    def test_refuses_bad_arguments(self, student: Student, device: torch.device) -> None:
        """A rank below one and an impossible dropout are refused, a rank of one is not."""
        weight, x = whole(3, 5, seed=131).to(device), whole(2, 5, seed=132)
        layer = student.LoRALinear(student.run(linear_layer, weight, None), r=1, alpha=1.0, dropout=0.9)
        exactly(layer(x.to(device)), x @ weight.cpu().T)
        for r, dropout in ((0, 0.0), (-2, 0.0), (2, 1.0), (2, -0.1), (2, 1.5)):
            with student_raises(ValueError):
                student.LoRALinear(student.run(linear_layer, weight, None), r=r, alpha=1.0, dropout=dropout)


# --- merge and unmerge -------------------------------------------------------------------------------------------


@probe
def layer_of_our_own(ns, state, scaling):
    # A layer as task 2 asks for, so that a mistake there costs nothing here.
    class Layer(ns.LoRALinear):
        scaling, merged = None, False  # even if these are properties over there

        def __init__(self):
            kinds = Layer.mro()
            super(kinds[kinds.index(torch.nn.Module) - 1], self).__init__()  # that of nn.Module alone
            weight, bias = state["base.weight"], state.get("base.bias")
            self.base = torch.nn.Linear(
                weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype, device=weight.device
            )
            self.base.requires_grad_(False)
            self.lora_A = torch.nn.Parameter(torch.zeros_like(state["lora_A"]))
            self.lora_B = torch.nn.Parameter(torch.zeros_like(state["lora_B"]))
            self.scaling = scaling
            self.merged = False
            self.load_state_dict(state)

        def forward(self, x):
            output = self.base(x)
            return output if self.merged else output + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)

    return Layer()


@probe
def weight_seen_from_outside(ns, layer):
    weight = layer.base.weight
    ns.merge(layer)
    merged = weight.detach().clone()
    ns.unmerge(layer)
    return merged, weight.detach().clone()


@probe
def gradients_when_merged(ns, layer, x, pull):
    ns.merge(layer)
    x = x.clone().requires_grad_()
    for _ in range(2):
        (layer(x) * pull).sum().backward()
    return x.grad, layer.lora_A.grad, layer.lora_B.grad, layer.base.weight.grad


def merge_layer(student: Student, device: torch.device, state: dict[str, Tensor], scaling: float) -> Remote:
    return student.run(layer_of_our_own, {name: value.to(device) for name, value in state.items()}, scaling)


def merged_weight(state: dict[str, Tensor], scaling: float) -> Tensor:
    return state["base.weight"] + scaling * torch.einsum("or,ri->oi", state["lora_B"], state["lora_A"])


@task("merge", needs="LoRALinear")
class TestMerge:
    @check(hint="The change is scaling times B times A, in the shape of the weight.", weight=2)
    def test_weight(self, student: Student, device: torch.device) -> None:
        """Merging adds the scaled product of B and A to the weight, and touches nothing else."""
        # scaling forgotten or inverted, subtracted, transposed, A or B consumed, bias touched, other keys
        state = lora_state(3, 5, 2, seed=200)
        layer = merge_layer(student, device, state, 1.5)
        student.merge(layer)
        same_state(layer.state_dict(), {**state, "base.weight": merged_weight(state, 1.5)})

    @check(hint="A square matrix can be added in two ways; only one of them is B times A.")
    def test_square(self, student: Student, device: torch.device) -> None:
        """In a square layer, too, the change is added as it is, not transposed."""
        state = lora_state(4, 4, 4, seed=210, bias=False)
        layer = merge_layer(student, device, state, 0.5)
        student.merge(layer)
        same_state(layer.state_dict(), {**state, "base.weight": merged_weight(state, 0.5)})

    @check(hint="Once the weight holds the change, who tells the layer not to add it again?", weight=2)
    def test_output(self, student: Student, device: torch.device) -> None:
        """Merged or not, and unmerged again, the layer computes the same."""
        # flag never set: the change counts twice; flag not taken back: it is lost
        state, x = lora_state(3, 5, 2, seed=220), whole(7, 5, seed=224)
        expected = lora_output(state, 1.5, x)
        layer = merge_layer(student, device, state, 1.5)
        exactly(layer(x.to(device)), expected)
        student.merge(layer)
        exactly(fetch(attribute(layer, "merged")), True)
        exactly(layer(x.to(device)), expected)
        student.unmerge(layer)
        exactly(fetch(attribute(layer, "merged")), False)
        exactly(layer(x.to(device)), expected)

    @check(hint="A layer that is merged already is left as it is.", weight=2)
    def test_merged_twice(self, student: Student, device: torch.device) -> None:
        """Merging twice adds the change once."""
        state = lora_state(3, 5, 2, seed=230)
        layer = merge_layer(student, device, state, 0.5)
        student.merge(layer)
        student.merge(layer)
        same_state(layer.state_dict(), {**state, "base.weight": merged_weight(state, 0.5)})

    @check(hint="A layer that is not merged has nothing to take out.", weight=2)
    def test_unmerged_twice(self, student: Student, device: torch.device) -> None:
        """Unmerging twice, or without having merged, takes nothing out that was not put in."""
        state = lora_state(3, 5, 2, seed=240)
        layer = merge_layer(student, device, state, 0.5)
        student.unmerge(layer)
        same_state(layer.state_dict(), state)
        student.merge(layer)
        same_state(layer.state_dict(), {**state, "base.weight": merged_weight(state, 0.5)})
        student.unmerge(layer)
        student.unmerge(layer)
        same_state(layer.state_dict(), state)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @check(hint="The weight comes back up to a few units in the last place: compute and subtract the same change.")
    def test_round_trip(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Merged and unmerged, the weight is what it was, up to four units in the last place."""
        # The bound is that of the docstring. Each of the two sums rounds once, by at most half a unit of the larger.
        generator = torch.Generator().manual_seed(250)
        for size in (0.05, 1.0, 30.0):
            state = {
                "base.weight": torch.randn(6, 9, generator=generator, dtype=torch.float64),
                "lora_A": torch.randn(3, 9, generator=generator, dtype=torch.float64),
                "lora_B": size * torch.randn(6, 3, generator=generator, dtype=torch.float64),
            }
            state = {name: value.to(dtype) for name, value in state.items()}
            layer = merge_layer(student, device, state, 0.75)
            student.merge(layer)
            merged = layer.state_dict()["base.weight"]
            assert_dtype(merged, dtype)
            # the product is taken in the dtype or a wider one: 3 products and the scaling, each rounded
            wide = {name: value.double() for name, value in state.items()}
            assert_close(merged.double(), merged_weight(wide, 0.75), atol=60 * size * torch.finfo(dtype).eps, rtol=0.0)
            student.unmerge(layer)
            after = layer.state_dict()["base.weight"]
            assert_dtype(after, dtype)
            scale = float(torch.maximum(merged.abs(), state["base.weight"].abs()).max())
            assert_close(after.double(), wide["base.weight"], rtol=0.0, atol=4 * torch.finfo(dtype).eps * scale)

    @check(hint="Compute the change anew each time: A, B and the weight may be others by then.")
    def test_another_adapter(self, student: Student, device: torch.device) -> None:
        """After another adapter, or another base weight, has been loaded, that one is merged."""
        # a product or a copy of the weight that is kept from the first time
        first, second = lora_state(3, 5, 2, seed=260), lora_state(3, 5, 2, seed=270)
        layer = merge_layer(student, device, first, 0.5)
        student.merge(layer)
        student.unmerge(layer)
        same_state(layer.state_dict(), first)
        layer.load_state_dict({name: value.to(device) for name, value in second.items()})
        student.merge(layer)
        same_state(layer.state_dict(), {**second, "base.weight": merged_weight(second, 0.5)})
        student.unmerge(layer)
        same_state(layer.state_dict(), second)

    @check(hint="Change the numbers in the parameter that is there; others may hold on to it.")
    def test_same_parameter(self, student: Student, device: torch.device) -> None:
        """Whoever holds the base weight sees it change: it stays the same parameter."""
        state = lora_state(3, 5, 2, seed=280)
        layer = merge_layer(student, device, state, 0.5)
        merged, after = student.run(weight_seen_from_outside, layer)
        exactly(merged, merged_weight(state, 0.5))
        exactly(after, state["base.weight"])

    @check(hint="Merging is bookkeeping, not training: no gradient may find its way through it.")
    def test_no_gradient_through_merging(self, student: Student, device: torch.device) -> None:
        """A merged layer passes gradients to its input as a plain frozen layer does, and to no parameter."""
        # in place without no_grad: the second backward fails, or A and B get gradients
        state, x, pull = lora_state(3, 5, 2, seed=290), whole(7, 5, seed=294), whole(7, 3, seed=295)
        layer = merge_layer(student, device, state, 0.5)
        of_x, *of_parameters = student.run(gradients_when_merged, layer, x.to(device), pull.to(device))
        exactly(of_x, 2 * pull @ merged_weight(state, 0.5))
        assert of_parameters == [None, None, None], "a parameter got a gradient"

    @check(hint="After unmerging, training goes on as before: A and B move, the base is frozen.")
    def test_training_goes_on(self, student: Student, device: torch.device) -> None:
        """After merging and unmerging, a step of training moves A and B and nothing else."""
        # a new nn.Parameter for the weight is trainable
        state, x, pull = lora_state(3, 5, 2, seed=300), whole(7, 5, seed=304), whole(7, 3, seed=305)
        layer = merge_layer(student, device, state, 0.5)
        student.merge(layer)
        student.unmerge(layer)
        student.run(one_step, layer, x.to(device), pull.to(device), 0.25)
        expected = {
            **state,
            "lora_A": state["lora_A"] - 0.125 * state["lora_B"].T @ pull.T @ x,
            "lora_B": state["lora_B"] - 0.125 * pull.T @ x @ state["lora_A"].T,
        }
        same_state(layer.state_dict(), expected)

    @check(hint="All that merging needs lies on the device of the layer, and stays there.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """A layer on another device is merged and unmerged there."""
        state = lora_state(3, 5, 2, seed=305)
        layer = merge_layer(student, elsewhere, state, 0.5)
        student.merge(layer)
        assert_device(layer.state_dict()["base.weight"], elsewhere)
        same_state(layer.state_dict(), {**state, "base.weight": merged_weight(state, 0.5)})
        student.unmerge(layer)
        assert_device(layer.state_dict()["base.weight"], elsewhere)
        same_state(layer.state_dict(), state)

    @check(hint="Try it on a layer of your own: the same output before and after, in training and evaluation mode.")
    def test_own_layer(self, student: Student, device: torch.device) -> None:
        """The layer of task 2, merged, computes what it computed before."""
        # rank and alpha 1, so that a wrong scaling in task 2 costs nothing here
        state, x = lora_state(4, 5, 1, seed=310), whole(7, 5, seed=314)
        layer = lora_layer(student, device, state, alpha=1.0, dropout=0.5)
        student.merge(layer)
        exactly(layer(x.to(device)), lora_output(state, 1.0, x))
        layer.eval()
        student.unmerge(layer)
        exactly(layer(x.to(device)), lora_output(state, 1.0, x))


# --- inject_adapters ---------------------------------------------------------------------------------------------


@probe
def house(ns, device):
    # `q` is a linear layer in both blocks and a normalization in the tail; `seq` and `q_norm` only look like it, and
    # `head_norm` only looks like the head
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q = torch.nn.Linear(4, 4)
            self.seq = torch.nn.Linear(4, 4)
            self.v = torch.nn.Linear(4, 4, bias=False)
            self.q_norm = torch.nn.LayerNorm(4)

        def forward(self, x):
            return x + self.v(self.q(x)) - self.seq(self.q_norm(x))

    class House(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Linear(3, 4)
            self.blocks = torch.nn.ModuleList([Block(), Block()])
            self.tail = torch.nn.ModuleDict({"q": torch.nn.LayerNorm(4), "wide": torch.nn.Linear(4, 5)})
            self.head_norm = torch.nn.LayerNorm(5)
            self.head = torch.nn.Linear(5, 2)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return self.head(self.head_norm(torch.relu(self.tail["wide"](self.tail["q"](x)))))

    model = House().double()
    generator = torch.Generator().manual_seed(400)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.to(device)


@probe
def full_rank_adapter(layer):
    class Adapter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base = layer
            self.delta = torch.nn.Parameter(torch.zeros_like(layer.weight))
            self.constant = torch.nn.Parameter(torch.ones_like(layer.weight), requires_grad=False)
            self.inside = torch.nn.Identity()
            # whoever injects must set the mode
            self.training = self.inside.training = not layer.training

        def forward(self, x):
            # in training mode the adapter shows itself
            return self.base(x) + x @ (self.delta * self.constant).T + (1.0 if self.inside.training else 0.0)

    return Adapter()


@probe
def frozen_house(ns, device, make):
    model = make(ns, device)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


X_HOUSE = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75], [-0.5, 1.0, 1.0], [2.0, -2.0, 0.5], [0.0, 1.0, -1.0]])
PULL_HOUSE = torch.tensor([[1.0, -2.0], [0.5, 1.5], [-1.0, 1.0], [2.0, 0.25], [-0.5, -1.0]])
HOUSE_INPUT, HOUSE_PULL = X_HOUSE.double(), PULL_HOUSE.double()


def rebuilt_house(names: tuple[str, ...], train: tuple[str, ...] = (), training: bool = True) -> nn.Module:
    """The house as it must be afterwards, built from full names."""
    model = house(None, torch.device("cpu")).train(training)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name.startswith(f"{module}.") for module in train))
    for name in names:
        parent, _, child = name.rpartition(".")
        layer = model.get_submodule(name)
        setattr(model.get_submodule(parent), child, full_rank_adapter(layer).train(training))
    return model


Q_LAYERS = ("blocks.0.q", "blocks.1.q")


@task("inject_adapters")
class TestInjectAdapters:
    @check(hint="A target is a whole last part of a name: `q` is neither `seq` nor `q_norm`.", weight=2)
    def test_names(self, student: Student, device: torch.device) -> None:
        """A target names the layers whose last part it is, and no others."""
        # substring: seq and q_norm too; endswith without the dot: seq too
        model = student.run(house, device)
        same_names(student.inject_adapters(model, ["q"], full_rank_adapter), list(Q_LAYERS))
        same_state(model.state_dict(), rebuilt_house(Q_LAYERS).state_dict())

    @check(hint="A target may have several parts, or be the full name.")
    def test_longer_targets(self, student: Student, device: torch.device) -> None:
        """Targets of several parts and full names find exactly their layers, at whatever depth."""
        # the last part alone compared; only children of the model seen; a name without a dot
        names = ("stem", "blocks.1.q", "tail.wide")
        model = student.run(house, device)
        same_names(student.inject_adapters(model, ["1.q", "tail.wide", "stem"], full_rank_adapter), list(names))
        same_state(model.state_dict(), rebuilt_house(names).state_dict())

    @check(hint="The order is that of the model, whatever the order of the targets; nothing is named twice.")
    def test_order(self, student: Student, device: torch.device) -> None:
        """Layers are named in the order of the model, and one that two targets match is adapted once."""
        names = ("blocks.0.q", "blocks.0.v", "blocks.1.q", "blocks.1.v")
        model = student.run(house, device)
        same_names(student.inject_adapters(model, ["v", "q", "blocks.0.q"], full_rank_adapter), list(names))
        same_state(model.state_dict(), rebuilt_house(names).state_dict())

    @check(hint="Do the adapters stand in the place of the layers, with the weights of the layers inside?", weight=2)
    def test_adapters_work(self, student: Student, device: torch.device) -> None:
        """Before training the model computes what it did; with weights in its adapters, what these add."""
        model = student.run(house, device)
        model.eval()
        before = house(None, torch.device("cpu")).eval()(HOUSE_INPUT)
        student.inject_adapters(model, ["q", "wide"], full_rank_adapter)
        assert_close(model(HOUSE_INPUT.to(device)), before.detach())
        expected = rebuilt_house((*Q_LAYERS, "tail.wide"), training=False)
        state = {
            name: whole(*value.shape, seed=410 + place) / 8 if name.endswith("delta") else value
            for place, (name, value) in enumerate(expected.state_dict().items())
        }
        expected.load_state_dict(state)
        model.load_state_dict({name: value.to(device) for name, value in state.items()})
        assert_close(model(HOUSE_INPUT.to(device)), expected(HOUSE_INPUT).detach())

    @check(hint="Freeze everything that was there before: weights, biases, normalizations, the head.", weight=3)
    def test_only_adapters_are_trained(self, student: Student, device: torch.device) -> None:
        """A step of training moves the adapters and nothing that was in the model before."""
        # base not frozen, biases or normalizations trained, head trained unasked, adapters frozen with the rest, and
        # what make_adapter froze is trained
        model, expected = student.run(house, device), rebuilt_house(Q_LAYERS)
        student.inject_adapters(model, ["q"], full_rank_adapter)
        student.run(one_step, model, HOUSE_INPUT.to(device), HOUSE_PULL.to(device), 0.5)
        one_step(None, expected, HOUSE_INPUT, HOUSE_PULL, 0.5)
        self.compare(model.state_dict(), expected.state_dict(), moved={"blocks.0.q.delta", "blocks.1.q.delta"})

    @check(hint="What `also_train` names is trained, weight and bias, even if it was frozen before.", weight=2)
    def test_also_train(self, student: Student, device: torch.device) -> None:
        """The modules named beside the adapters are trained as well, and were they frozen before."""
        # head frozen; only unfrozen if it was never frozen; all names that begin like "head", as head_norm does
        names = ("blocks.0.v",)
        moved = {"blocks.0.v.delta", "head.weight", "head.bias", "blocks.1.seq.weight", "blocks.1.seq.bias"}
        for make in (student.run(house, device), student.run(frozen_house, device, house)):
            expected = rebuilt_house(names, train=("head", "blocks.1.seq"))
            student.inject_adapters(make, ["0.v"], full_rank_adapter, ["head", "blocks.1.seq"])
            student.run(one_step, make, HOUSE_INPUT.to(device), HOUSE_PULL.to(device), 0.5)
            one_step(None, expected, HOUSE_INPUT, HOUSE_PULL, 0.5)
            self.compare(make.state_dict(), expected.state_dict(), moved)

    @check(hint="Without targets no layer is replaced, and everything is frozen but what `also_train` names.")
    def test_no_targets(self, student: Student, device: torch.device) -> None:
        """Without targets, only what is named beside them is trained."""
        model, expected = student.run(house, device), rebuilt_house((), train=("head",))
        same_names(student.inject_adapters(model, [], full_rank_adapter, ["head"]), [])
        student.run(one_step, model, HOUSE_INPUT.to(device), HOUSE_PULL.to(device), 0.5)
        one_step(None, expected, HOUSE_INPUT, HOUSE_PULL, 0.5)
        self.compare(model.state_dict(), expected.state_dict(), moved={"head.weight", "head.bias"})

    @check(hint="New modules start in training mode, whatever the mode of the model they come into.")
    def test_mode(self, student: Student, device: torch.device) -> None:
        """An adapter is in the mode of the layer that it replaces."""
        for training in (False, True):
            model = student.run(house, device)
            model.train(training)
            student.inject_adapters(model, ["v"], full_rank_adapter)
            expected = rebuilt_house(("blocks.0.v", "blocks.1.v"), training=training)
            assert_close(model(HOUSE_INPUT.to(device)), expected(HOUSE_INPUT).detach())
        model = student.run(house, device)
        model.stem.eval()
        student.inject_adapters(model, ["v", "stem"], full_rank_adapter)
        expected = rebuilt_house(("stem", "blocks.0.v", "blocks.1.v"))
        expected.stem.eval()
        assert_close(model(HOUSE_INPUT.to(device)), expected(HOUSE_INPUT).detach())

    @check(hint="Replacing layers moves no weight from one device to another.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """A model on another device is adapted there."""
        model = student.run(house, elsewhere)
        same_names(student.inject_adapters(model, ["v"], full_rank_adapter), ["blocks.0.v", "blocks.1.v"])
        expected = rebuilt_house(("blocks.0.v", "blocks.1.v"))
        same_state(model.state_dict(), expected.state_dict())
        output = model(HOUSE_INPUT.to(elsewhere))
        assert_device(output, elsewhere)
        assert_close(output, expected(HOUSE_INPUT).detach())

    @pytest.mark.parametrize("missing", ["w", "q_norm", "blocks.0", "k.q"])
    @check(hint="Look for all targets before you change anything. Only linear layers can be found.")
    def test_refuses_unknown_targets(self, student: Student, device: torch.device, missing: str) -> None:
        """A target that matches no linear layer is refused, and the model is left as it was."""
        model = student.run(house, device)
        for targets in ([missing], ["q", missing]):
            with student_raises(ValueError):
                student.inject_adapters(model, targets, full_rank_adapter, ["head"])
        untouched = house(None, torch.device("cpu"))
        same_state(model.state_dict(), untouched.state_dict())
        student.run(one_step, model, HOUSE_INPUT.to(device), HOUSE_PULL.to(device), 0.5)
        one_step(None, untouched, HOUSE_INPUT, HOUSE_PULL, 0.5)
        stepped = model.state_dict()
        for name, value in untouched.state_dict().items():
            assert_close(stepped[name], value)

    @staticmethod
    def compare(actual: dict[str, Tensor], expected: dict[str, Tensor], moved: set[str]) -> None:
        """Demand that exactly the named tensors moved, along their gradients."""
        assert isinstance(actual, dict) and sorted(actual) == sorted(expected), "other names in the state_dict"
        start = house(None, torch.device("cpu")).state_dict()
        for name, value in expected.items():
            if name in moved:
                assert name.endswith("delta") or not torch.equal(value, start[name])
                assert_close(actual[name], value)
            else:
                exactly(actual[name], value)


# --- lora_parameter_count and adapter_parameter_count ------------------------------------------------------------

GPT3 = (12_288, 12_288)


@task("lora_parameter_count")
class TestLoraParameterCount:
    @check(hint="Each matrix gets an A and a B. How many entries has each of them?", weight=2)
    def test_gpt3(self, student: Student) -> None:
        """The counts of LoRA for GPT-3 are those of the paper's table 15, for two matrices and for four."""
        # A alone half, r squared, layers forgotten, one matrix for two
        for matrices, r, count in (
            (2, 1, 4_718_592),
            (2, 2, 9_437_184),
            (4, 1, 9_437_184),
            (2, 8, 37_748_736),
            (4, 4, 37_748_736),
            (2, 64, 301_989_888),
            (4, 64, 603_979_776),
        ):
            exactly(student.lora_parameter_count([GPT3] * matrices, r=r, layers=96), count)

    @check(hint="The rank multiplies the rows and the columns of each adapted matrix.")
    def test_encoders(self, student: Student) -> None:
        """RoBERTa base with rank 8 and DeBERTa XXL with rank 16 have the published counts."""
        # 12 * 2 * 8 * (768 + 768) and 48 * 2 * 16 * (1536 + 1536)
        exactly(student.lora_parameter_count([(768, 768), (768, 768)], r=8, layers=12), 294_912)
        exactly(student.lora_parameter_count([(1536, 1536), (1536, 1536)], r=16, layers=48), 4_718_592)

    def test_llama(self, student: Student) -> None:
        """Llama-7B with rank 8 on two matrices trains 4,194,304 parameters, 0.0622% of all."""
        count = student.lora_parameter_count([(4096, 4096), (4096, 4096)], r=8, layers=32)
        exactly(count, 4_194_304)
        assert_close(100 * count / (6_738_415_616 + count), 0.06220594176090199)

    @check(hint="A matrix need not be square: rows and columns both count.", weight=2)
    def test_rectangles(self, student: Student) -> None:
        """Matrices that are not square count with their rows and their columns."""
        # Llama-3-8B, q and v, and all seven matrices of Llama-2-7B, as peft prints them; twice the rows, twice the
        # columns, rows times columns, or one shape for all differ
        exactly(student.lora_parameter_count([(4096, 4096), (1024, 4096)], r=8, layers=32), 3_407_872)
        block = [(4096, 4096)] * 4 + [(11_008, 4096)] * 2 + [(4096, 11_008)]
        exactly(student.lora_parameter_count(block, r=8, layers=32), 19_988_480)

    @check(hint="Write A and B for a small case down and count their entries. Without `layers`, there is one.")
    def test_against_tensors(self, student: Student) -> None:
        """The count is that of the entries of all A and B, laid out one by one."""
        for shapes, r in (([(3, 5)], 2), ([(2, 9), (7, 1), (4, 4)], 3), ([], 5), (((6, 2),), 7)):
            factors = [(torch.empty(rows, r), torch.empty(r, columns)) for rows, columns in shapes]
            expected = sum(factor.numel() for factor in itertools.chain.from_iterable(factors))
            exactly(student.lora_parameter_count(shapes, r), expected)
            exactly(student.lora_parameter_count(shapes, r, 5), 5 * expected)

    @check(hint="Two matrices and two biases, of which widths?", weight=2)
    def test_adapters_of_gpt3(self, student: Student) -> None:
        """The counts of bottleneck adapters for GPT-3 are those of the paper's table 15."""
        # millions, printed with one decimal; without biases r = 1 is 4.7, with one bias too few 4.7 or 7.08
        for r, count, printed in (
            (1, 7_078_080, 7.1),
            (4, 21_234_432, 21.2),
            (8, 40_109_568, 40.1),
            (16, 77_859_840, 77.9),
            (64, 304_361_472, 304.4),
        ):
            assert round(count / 1e6, 1) == printed
            exactly(student.adapter_parameter_count(12_288, r=r, adapters=192), count)

    @check(hint="Count the weights and biases of two linear layers. Without `adapters`, there is one.")
    def test_adapters_against_layers(self, student: Student) -> None:
        """The count is that of two linear layers with biases, down and up again."""
        for width, r in ((5, 2), (3, 4), (1, 1), (64, 8)):
            layers = nn.Sequential(nn.Linear(width, r), nn.Linear(r, width))
            expected = sum(parameter.numel() for parameter in layers.parameters())
            exactly(student.adapter_parameter_count(width, r), expected)
            exactly(student.adapter_parameter_count(width, r, 3), 3 * expected)

    @check(hint="Raise ValueError for anything below 1, and only then.")
    def test_refuses_bad_arguments(self, student: Student) -> None:
        """Ranks, widths and numbers of layers below one are refused, one is not."""
        exactly(student.lora_parameter_count([(3, 5)], r=1, layers=1), 8)
        exactly(student.adapter_parameter_count(1, r=1, adapters=1), 4)
        for r, layers in ((0, 2), (-1, 2), (2, 0), (2, -3)):
            with student_raises(ValueError):
                student.lora_parameter_count([(3, 5)], r=r, layers=layers)
        for width, r, adapters in ((0, 2, 2), (4, 0, 2), (4, 2, 0), (-4, 2, 2), (4, -2, 2), (4, 2, -1)):
            with student_raises(ValueError):
                student.adapter_parameter_count(width, r=r, adapters=adapters)


# --- instruction_loss --------------------------------------------------------------------------------------------


def token_losses(logits: Tensor, tokens: Tensor, is_response: Tensor) -> list[list[float]]:
    """The losses of the response tokens of each sequence, token by token."""
    log_p = scipy.special.log_softmax(logits.double().numpy(), axis=-1)
    return [
        [-float(log_p[i, t - 1, tokens[i, t]]) for t in range(1, tokens.shape[1]) if is_response[i, t]]
        for i in range(len(tokens))
    ]


def expected_loss(logits: Tensor, tokens: Tensor, is_response: Tensor) -> float:
    return float(np.mean(list(itertools.chain.from_iterable(token_losses(logits, tokens, is_response)))))


def dialogues(*rows: str, seed: int, vocabulary: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits and tokens, and a mask from rows such as "..RR..": R for a token of a response."""
    generator = torch.Generator().manual_seed(seed)
    is_response = torch.tensor([[letter == "R" for letter in row] for row in rows])
    tokens = torch.randint(vocabulary, is_response.shape, generator=generator)
    logits = 2 * torch.randn(*is_response.shape, vocabulary, generator=generator, dtype=torch.float64)
    return logits, tokens, is_response


@probe
def loss_and_arguments(ns, logits, tokens, is_response):
    loss = ns.instruction_loss(logits, tokens, is_response)
    return loss, logits, tokens, is_response


@probe
def loss_gradient(ns, logits, tokens, is_response):
    logits = logits.clone().requires_grad_()
    ns.instruction_loss(logits, tokens, is_response).backward()
    return logits.grad


def on(device: torch.device, *tensors: Tensor) -> list[Tensor]:
    return [tensor.to(device) for tensor in tensors]


@task("instruction_loss")
class TestInstructionLoss:
    @check(hint="Which scores predict which token? Those at position t are for the token at t + 1.", weight=3)
    def test_value(self, student: Student, device: torch.device) -> None:
        """The loss of a batch is the mean over its response tokens, each predicted one position earlier."""
        # all tokens, labels not shifted, shifted the other way, mask not shifted, sum, log2: all differ
        batch = dialogues("..RRR..", "....RR.", ".RRRRRR", seed=501)
        assert_close(student.instruction_loss(*on(device, *batch)), expected_loss(*batch))

    @check(hint="The first token of a response is predicted at the last position of the prompt.", weight=2)
    def test_one_token(self, student: Student, device: torch.device) -> None:
        """A response of one token costs what the scores right before it say."""
        for row in ("...R...", "......R", ".R....."):
            batch = dialogues(row, seed=502)
            assert_close(student.instruction_loss(*on(device, *batch)), token_losses(*batch)[0][0])

    @check(hint="Tokens are averaged, not sequences: a long response weighs more than a short one.", weight=2)
    def test_tokens_weigh_alike(self, student: Student, device: torch.device) -> None:
        """Every response token of the batch weighs the same, whatever the length of its response."""
        batch = dialogues(".R......", ".RRRRRRR", "........", seed=503)
        assert_close(student.instruction_loss(*on(device, *batch)), expected_loss(*batch))

    @check(hint="A conversation has several turns: look at the mask token by token.")
    def test_several_turns(self, student: Student, device: torch.device) -> None:
        """A sequence with several responses counts the tokens of all of them."""
        # everything from the first response token to the end
        batch = dialogues("..RR..R.", ".R...RRR", seed=504)
        assert_close(student.instruction_loss(*on(device, *batch)), expected_loss(*batch))

    @check(hint="Nothing comes before the first token, so nothing predicts it.")
    def test_first_token(self, student: Student, device: torch.device) -> None:
        """The first token never counts, even where it belongs to a response."""
        # rolled tokens let the last scores predict the first token
        batch = dialogues("RR...", "R..R.", seed=505)
        assert_close(student.instruction_loss(*on(device, *batch)), expected_loss(*batch))

    @check(hint="What does not count must be left out, not multiplied by zero.", weight=2)
    def test_forbidden_prompt(self, student: Student, device: torch.device) -> None:
        """A forbidden token costs nothing in a prompt or in the padding, and neither does one that did not come."""
        logits, tokens, is_response = batch = dialogues("...RR..", "..RRR..", seed=506)
        expected = expected_loss(*batch)
        logits = logits.clone()
        for i, t in ((0, 1), (0, 6), (1, 6), (1, 1)):
            logits[i, t - 1, tokens[i, t]] = -math.inf
        assert_close(student.instruction_loss(*on(device, logits, tokens, is_response)), expected)
        other = (int(tokens[0, 3]) + 1) % 5
        logits[0, 2, other] = -math.inf
        expected = expected_loss(logits, tokens, is_response)
        assert_close(student.instruction_loss(*on(device, logits, tokens, is_response)), expected)

    @check(hint="A response that the model calls impossible has no finite loss.")
    def test_forbidden_response(self, student: Student, device: torch.device) -> None:
        """A forbidden token in a response makes the loss infinite."""
        logits, tokens, is_response = batch = dialogues("...RR..", "..RRR..", seed=507)
        assert_close(student.instruction_loss(*on(device, *batch)), expected_loss(*batch))
        logits[1, 3, tokens[1, 4]] = -math.inf
        assert_close(student.instruction_loss(*on(device, logits, tokens, is_response)), math.inf)

    @check(hint="Never take the exponential of a score by itself: it overflows, and its logarithm underflows.")
    def test_large_scores(self, student: Student, device: torch.device) -> None:
        """Scores of any size give the right loss."""
        # softmax, then log: infinite
        logits, tokens, is_response = dialogues("..RRR", ".RR..", seed=508)
        for factor, shift in ((2000.0, 0.0), (1.0, 1e5), (1.0, -1e5)):
            large = factor * logits + shift
            loss = student.instruction_loss(*on(device, large, tokens, is_response))
            assert_close(loss, expected_loss(large, tokens, is_response), rtol=1e-7, atol=1e-7)

    @check(
        hint="The loss must stay inside torch, and scores that predict no response token must get no gradient.",
        weight=2,
    )
    def test_gradient(self, student: Student, device: torch.device) -> None:
        """The gradient is probability minus one-hot over the number of tokens, and zero where nothing is predicted."""
        logits, tokens, is_response = dialogues("..RRR.", "....R.", seed=509)
        logits[0, 0, tokens[0, 1]] = -math.inf  # a forbidden token in a prompt
        expected = torch.zeros_like(logits)
        for i, t in ((0, 2), (0, 3), (0, 4), (1, 4)):
            one_hot = F.one_hot(tokens[i, t], 5)
            expected[i, t - 1] = (torch.softmax(logits[i, t - 1], -1) - one_hot) / 4
        assert_close(student.run(loss_gradient, *on(device, logits, tokens, is_response)), expected)

    @check(hint="Work on new tensors: the tokens are needed once more by whoever called you.")
    def test_arguments_are_left_alone(self, student: Student, device: torch.device) -> None:
        """Scores, tokens and mask are the same after the call as before."""
        # labels = tokens; labels[~mask] = -100
        batch = dialogues("..RR.", "R...R", seed=510)
        loss, *after = student.run(loss_and_arguments, *on(device, *(tensor.clone() for tensor in batch)))
        assert_close(loss, expected_loss(*batch))
        for value, before in zip(after, batch, strict=True):
            exactly(value, before)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @check(hint="A single number, in the dtype of the scores.")
    def test_dtype_and_shape(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The loss is a single right number in the dtype of the scores."""
        logits, tokens, is_response = dialogues("..RR", ".RRR", ".R..", seed=511)
        loss = student.instruction_loss(*on(device, logits.to(dtype), tokens, is_response))
        assert_shape(loss, ())
        assert_dtype(loss, dtype)
        expected = expected_loss(logits.to(dtype), tokens, is_response)
        assert_close(loss, torch.tensor(expected, dtype=dtype))

    @check(hint="Whatever you make beside the arguments must be made on their device.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """The loss is computed on the device of the arguments."""
        batch = dialogues("..RR.", ".R...", "....R", seed=514)
        loss = student.instruction_loss(*on(elsewhere, *batch))
        assert_device(loss, elsewhere)
        assert_close(loss, expected_loss(*batch))

    @check(hint="Raise ValueError where there is nothing to average over, and only then.")
    def test_refuses_prompts_alone(self, student: Student, device: torch.device) -> None:
        """A batch without a response token that can be predicted is refused, one such token is enough."""
        batch = dialogues("....", ".R..", seed=512)
        assert_close(student.instruction_loss(*on(device, *batch)), expected_loss(*batch))
        for rows in (("....", "...."), ("R...", "...."), ("R",)):
            with student_raises(ValueError):
                student.instruction_loss(*on(device, *dialogues(*rows, seed=513)))


# --- BottleneckAdapter -------------------------------------------------------------------------------------------


def adapter_state(rows: int, columns: int, r: int, seed: int, bias: bool = True) -> dict[str, Tensor]:
    """Weights for an adapted layer."""
    state = {
        "base.weight": whole(rows, columns, seed=seed),
        "down.weight": whole(r, rows, seed=seed + 1),
        "down.bias": whole(r, seed=seed + 2),
        "up.weight": whole(rows, r, seed=seed + 3),
        "up.bias": whole(rows, seed=seed + 4),
    }
    return {**state, "base.bias": whole(rows, seed=seed + 5)} if bias else state


def adapter_output(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """What the adapted layer computes with these weights."""
    y = F.linear(x, state["base.weight"], state.get("base.bias"))
    hidden = F.linear(y, state["down.weight"], state["down.bias"])
    return y + F.linear(hidden.clamp(min=0), state["up.weight"], state["up.bias"])


def adapted_layer(student: Student, device: torch.device, state: dict[str, Tensor]) -> Remote:
    """The student's layer with the weights of a state_dict."""
    state = {name: value.to(device) for name, value in state.items()}
    base = student.run(linear_layer, state["base.weight"], state.get("base.bias"))
    layer = student.BottleneckAdapter(base, len(state["down.weight"]))
    layer.load_state_dict(state)
    return layer


@task("BottleneckAdapter")
class TestBottleneckAdapter:
    @check(hint="With `up` at zero, weight and bias, and a skip connection, the start is the layer itself.", weight=2)
    def test_start(self, student: Student, device: torch.device) -> None:
        """Before training, the adapted layer computes exactly what the layer did."""
        # up random; bias of up random; no skip connection: zero
        weight, bias, x = whole(3, 5, seed=601), whole(3, seed=602), whole(7, 5, seed=603)
        layer = student.BottleneckAdapter(student.run(linear_layer, weight.to(device), bias.to(device)), r=2)
        exactly(layer(x.to(device)), x @ weight.T + bias)

    @check(hint="Down, ReLU, up, and the output of the base is added. What does the bottleneck read?", weight=3)
    def test_output(self, student: Student, device: torch.device) -> None:
        """With given weights the bottleneck reads the output of the base and adds to it."""
        # no ReLU, ReLU after up or before down, another bend, no skip, the input added or read (square layer)
        for rows, columns in ((3, 5), (4, 4)):
            state, x = adapter_state(rows, columns, 2, seed=610), whole(7, columns, seed=616)
            hidden = F.linear(x @ state["base.weight"].T + state["base.bias"], state["down.weight"], state["down.bias"])
            assert bool((hidden < 0).any()) and bool((hidden > 0).any())
            exactly(adapted_layer(student, device, state)(x.to(device)), adapter_output(state, x))

    @check(hint="Names are those of the docstring. `up` starts at zero, `down` must not.")
    def test_names(self, student: Student, device: torch.device) -> None:
        """The state_dict holds base, down and up, up at zero, down at random, the base as it was."""
        # nn.Linear draws uniformly from +-1/sqrt(256): deviation .0361; for 64 * 256 entries 7 of the mean's are .002,
        # and the deviation is right to 7/sqrt(2n) = 3.9%
        weight = whole(256, 3, seed=620)
        layer = student.BottleneckAdapter(student.run(linear_layer, weight.to(device), None), r=64)
        state = layer.state_dict()
        expected = {
            "base.weight": weight,
            "down.weight": state.get("down.weight"),
            "down.bias": state.get("down.bias"),
            "up.weight": torch.zeros(256, 64).double(),
            "up.bias": torch.zeros(256).double(),
        }
        assert_shape(expected["down.weight"], (64, 256))
        assert_shape(expected["down.bias"], (64,))
        same_state(state, expected)
        assert_close(float(expected["down.weight"].double().mean()), 0.0, rtol=0.0, atol=0.002)
        assert_close(float(expected["down.weight"].double().std()), 3**-0.5 / 16, rtol=0.04, atol=0.0)

    @check(hint="Which parameters may move in training? Those of the bottleneck: freeze the base.", weight=3)
    def test_only_the_bottleneck_is_trained(self, student: Student, device: torch.device) -> None:
        """A step of training moves down and up, weights and biases, and leaves the base alone."""
        state, x, pull = adapter_state(3, 5, 4, seed=630), whole(7, 5, seed=636), whole(7, 3, seed=637)
        layer = adapted_layer(student, device, state)
        student.run(one_step, layer, x.to(device), pull.to(device), 0.25)
        leaves = {name: value.clone().requires_grad_() for name, value in state.items()}
        (adapter_output(leaves, x) * pull).sum().backward()
        expected = {
            name: value - 0.25 * leaves[name].grad if not name.startswith("base") else value
            for name, value in state.items()
        }
        same_state(layer.state_dict(), expected)

    @check(hint="Features are on the last axis; there may be any number of axes in front, or none.")
    def test_leading_axes(self, student: Student, device: torch.device) -> None:
        """Inputs may have any number of axes in front of the features, and the base need not have a bias."""
        state = adapter_state(3, 5, 2, seed=640, bias=False)
        layer = adapted_layer(student, device, state)
        for shape in ((5,), (2, 4, 5), (0, 5)):
            x = whole(*shape, seed=646)
            exactly(layer(x.to(device)), adapter_output(state, x))

    @check(hint="Keep the layer that was given; a copy doubles the memory and falls behind.")
    def test_base_is_kept(self, student: Student, device: torch.device) -> None:
        """The base is the layer that was given, so that new weights in it are new weights in the adapted layer."""
        old, new, x = whole(3, 5, seed=651), whole(3, 5, seed=652), whole(7, 5, seed=653)
        base = student.run(linear_layer, old.to(device), None)
        layer = student.BottleneckAdapter(base, r=2)
        exactly(layer(x.to(device)), x @ old.T)
        student.run(change_base, base, new.to(device))
        exactly(layer(x.to(device)), x @ new.T)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @check(hint="New parameters take the dtype of the weight that they belong to.")
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """New parameters and outputs have the dtype of the base, and the outputs are right."""
        state = {name: value.to(dtype) for name, value in adapter_state(3, 5, 2, seed=660).items()}
        x = whole(7, 5, seed=666)
        base = student.run(linear_layer, state["base.weight"].to(device), state["base.bias"].to(device))
        layer = student.BottleneckAdapter(base, r=2)
        for value in layer.state_dict().values():
            assert_dtype(value, dtype)
        layer.load_state_dict({name: value.to(device) for name, value in state.items()})
        output = layer(x.to(device, dtype))
        assert_dtype(output, dtype)
        exactly(output, adapter_output({name: value.double() for name, value in state.items()}, x))

    @check(hint="Make the new layers on the device of the weight of the base, wherever that is.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """New parameters and outputs are on the device of the base."""
        state, x = adapter_state(3, 5, 2, seed=667), whole(7, 5, seed=673)
        base = student.run(linear_layer, state["base.weight"].to(elsewhere), state["base.bias"].to(elsewhere))
        layer = student.BottleneckAdapter(base, r=2)
        for value in layer.state_dict().values():
            assert_device(value, elsewhere)
        layer.load_state_dict(state)
        output = layer(x.to(elsewhere))
        assert_device(output, elsewhere)
        exactly(output, adapter_output(state, x))

    @check(hint="Raise ValueError for a bottleneck of less than 1, and only then.")
    def test_refuses_no_width(self, student: Student, device: torch.device) -> None:
        """A bottleneck of no width is refused, one of width one is not."""
        weight, x = whole(3, 5, seed=671).to(device), whole(2, 5, seed=672)
        exactly(
            student.BottleneckAdapter(student.run(linear_layer, weight, None), r=1)(x.to(device)), x @ weight.cpu().T
        )
        for r in (0, -1):
            with student_raises(ValueError):
                student.BottleneckAdapter(student.run(linear_layer, weight, None), r=r)


# --- prepare and score -------------------------------------------------------------------------------------------


@probe
def classifier(ns, device, frozen):
    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(3, 4)
            self.inner = torch.nn.ModuleDict(
                {"first": torch.nn.Linear(4, 4, bias=False), "second": torch.nn.Linear(4, 5)}
            )
            self.head = torch.nn.Linear(5, 2)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.head(self.inner["second"](torch.relu(self.inner["first"](x) + x)))

    model = Classifier().double()
    generator = torch.Generator().manual_seed(700)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-3, 4, parameter.shape, generator=generator) + 0.5)
    model.requires_grad_(not frozen)
    return model.to(device)


@probe
def silenced(ns, weight, training):
    # in training mode nothing gets through
    model = torch.nn.Sequential(
        torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype, device=weight.device),
        torch.nn.Dropout(1.0),
    )
    model.load_state_dict({"0.weight": weight})
    return model.train(training)


CPU = torch.device("cpu")
CLASSIFIER_INPUT = torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.5, 2.0], [3.0, 0.0, 1.0], [-1.0, 2.5, 0.5]]).double()
CLASSIFIER_PULL = torch.tensor([[1.0, -1.0], [0.5, 2.0], [-2.0, 1.0], [1.5, -0.5]]).double()


def after_a_step(trained: tuple[str, ...]) -> dict[str, Tensor]:
    """The classifier's state_dict after a step in which the parameters with these beginnings are trained."""
    model = classifier(None, CPU, False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    one_step(None, model, CLASSIFIER_INPUT, CLASSIFIER_PULL, 0.25)
    return model.state_dict()


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    log_p = scipy.special.log_softmax(logits.numpy(), axis=-1)
    right = logits.numpy().argmax(-1) == labels.numpy()
    return float(-log_p[np.arange(len(labels)), labels.numpy()].mean()), float(right.mean())


@task("prepare")
class TestPrepare:
    @pytest.mark.parametrize("frozen", [False, True])
    @check(hint="Full fine-tuning trains everything, also what somebody froze before.", weight=2)
    def test_full(self, student: Student, device: torch.device, frozen: bool) -> None:
        """Full fine-tuning trains every parameter of the copy, whether it was frozen before or not."""
        copy = student.prepare(student.run(classifier, device, frozen), "full")
        student.run(one_step, copy, CLASSIFIER_INPUT.to(device), CLASSIFIER_PULL.to(device), 0.25)
        expected = after_a_step(("",))
        start = classifier(None, CPU, False).state_dict()
        assert not any(torch.equal(expected[name], start[name]) for name in start)
        same_state(copy.state_dict(), expected)

    @pytest.mark.parametrize("frozen", [False, True])
    @check(hint="The head alone: its weight and its bias are trained, everything under it is frozen.", weight=2)
    def test_head(self, student: Student, device: torch.device, frozen: bool) -> None:
        """Fine-tuning the head alone trains the weight and the bias of the head and nothing else."""
        copy = student.prepare(student.run(classifier, device, frozen), "head")
        student.run(one_step, copy, CLASSIFIER_INPUT.to(device), CLASSIFIER_PULL.to(device), 0.25)
        same_state(copy.state_dict(), after_a_step(("head.",)))

    @check(hint="Four runs from one model: what happens to the model itself while a copy is trained?", weight=2)
    def test_copy(self, student: Student, device: torch.device) -> None:
        """Training the copy leaves the model as it was, values and trainability."""
        # no copy, a shallow copy
        for method, trained in (("full", ("",)), ("head", ("head.",))):
            model = student.run(classifier, device, False)
            copy = student.prepare(model, method)
            student.run(one_step, copy, CLASSIFIER_INPUT.to(device), CLASSIFIER_PULL.to(device), 0.25)
            same_state(model.state_dict(), classifier(None, CPU, False).state_dict())
            same_state(copy.state_dict(), after_a_step(trained))
            student.run(one_step, model, CLASSIFIER_INPUT.to(device), CLASSIFIER_PULL.to(device), 0.25)
            same_state(model.state_dict(), after_a_step(("",)))

    @check(
        hint="LoRA of the given rank and alpha on the targets, the head trained, the rest frozen.",
        weight=2,
        needs=("LoRALinear", "inject_adapters"),
    )
    def test_lora(self, student: Student, device: torch.device) -> None:
        """LoRA stands in the place of each target, with the rank and alpha given, and the head is trained with it."""
        # head frozen, rank and alpha swapped or not passed on, base trained, other layers adapted
        model = student.run(classifier, device, False)
        copy = student.prepare(model, "lora", ["inner.first"], r=3, alpha=6.0)
        start = classifier(None, CPU, False).state_dict()
        exactly(copy(CLASSIFIER_INPUT.to(device)), classifier(None, CPU, False)(CLASSIFIER_INPUT).detach())
        weight = start.pop("inner.first.weight")
        factors = {"inner.first.lora_A": whole(3, 4, seed=711), "inner.first.lora_B": whole(4, 3, seed=712)}
        state = {**start, "inner.first.base.weight": weight, **factors}
        copy.load_state_dict({name: value.to(device) for name, value in state.items()})
        trusted = classifier(None, CPU, False)
        factor_a, factor_b = (factor.clone().requires_grad_() for factor in factors.values())
        names = {**dict(trusted.named_parameters()), "inner.first.weight": weight + 2.0 * factor_b @ factor_a}
        output = torch.func.functional_call(trusted, names, (CLASSIFIER_INPUT,))
        assert_close(copy(CLASSIFIER_INPUT.to(device)), output.detach())
        (output * CLASSIFIER_PULL).sum().backward()
        student.run(one_step, copy, CLASSIFIER_INPUT.to(device), CLASSIFIER_PULL.to(device), 0.25)
        moved = copy.state_dict()
        expected = {**state, "inner.first.lora_A": factor_a - 0.25 * factor_a.grad}
        expected["inner.first.lora_B"] = factor_b - 0.25 * factor_b.grad
        for name in ("head.weight", "head.bias"):
            expected[name] = start[name] - 0.25 * trusted.get_parameter(name).grad
        assert sorted(moved) == sorted(expected), "other names in the state_dict"
        for name, value in expected.items():
            assert_close(moved[name], value.detach(), rtol=1e-9, atol=1e-9)
        same_state(model.state_dict(), classifier(None, CPU, False).state_dict())
        # unless they are given, the rank is 4 and alpha 8
        copy = student.prepare(model, "lora", ["inner.first"])
        factors = {"inner.first.lora_A": whole(4, 4, seed=713), "inner.first.lora_B": whole(4, 4, seed=714)}
        state = {**start, "inner.first.base.weight": weight, **factors}
        copy.load_state_dict({name: value.to(device) for name, value in state.items()})
        factor_a, factor_b = factors.values()
        names["inner.first.weight"] = weight + 2.0 * factor_b @ factor_a
        output = torch.func.functional_call(classifier(None, CPU, False), names, (CLASSIFIER_INPUT,))
        assert_close(copy(CLASSIFIER_INPUT.to(device)), output.detach())

    @check(
        hint="A bottleneck of the given width behind each target, the head trained, the rest frozen.",
        weight=2,
        needs=("BottleneckAdapter", "inject_adapters"),
    )
    def test_adapter(self, student: Student, device: torch.device) -> None:
        """Bottleneck adapters of the given width stand behind each target, and the head is trained with them."""
        model = student.run(classifier, device, True)
        copy = student.prepare(model, "adapter", ["first"], r=2)
        trusted = classifier(None, CPU, False)
        exactly(copy(CLASSIFIER_INPUT.to(device)), trusted(CLASSIFIER_INPUT).detach())
        start = copy.state_dict()
        names = {"first": ("weight", "bias"), "inner.first": ("weight",), "inner.second": ("weight", "bias")}
        expected = {"head.weight", "head.bias", "inner.second.weight", "inner.second.bias"}
        for layer in ("first", "inner.first"):
            expected |= {f"{layer}.base.{name}" for name in names[layer]}
            expected |= {f"{layer}.{part}.{name}" for part in ("down", "up") for name in ("weight", "bias")}
            assert_shape(start.get(f"{layer}.down.weight"), (2, 4))
        assert sorted(start) == sorted(expected), "other names in the state_dict"
        student.run(one_step, copy, CLASSIFIER_INPUT.to(device), CLASSIFIER_PULL.to(device), 0.25)
        moved, head = copy.state_dict(), after_a_step(("head.",))
        for name, value in classifier(None, CPU, False).state_dict().items():
            layer, _, kind = name.rpartition(".")
            place = f"{layer}.base.{kind}" if layer in ("first", "inner.first") else name
            exactly(moved[place], head[name] if layer == "head" else value)
        for layer in ("first", "inner.first"):
            assert not torch.equal(moved[f"{layer}.up.bias"], start[f"{layer}.up.bias"]), "the adapter is frozen"

    @check(hint="Raise ValueError for a method that is none of the four, and only then.")
    def test_refuses_other_methods(self, student: Student, device: torch.device) -> None:
        """A method that is none of the four is refused."""
        copy = student.prepare(student.run(classifier, device, False), "full")
        exactly(copy(CLASSIFIER_INPUT.to(device)), classifier(None, CPU, False)(CLASSIFIER_INPUT).detach())
        for method in ("prefix", "Full", "", "head_only"):
            with student_raises(ValueError):
                student.prepare(student.run(classifier, device, False), method)

    @check(hint="Copy where the model is: nothing moves from one device to another.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """A model on another device is copied there."""
        # `score` is not asked: torch.inference_mode, a good way to measure, is beyond the stand-in for a GPU
        for method in ("full", "head"):
            copy = student.prepare(student.run(classifier, elsewhere, False), method)
            trusted = classifier(None, CPU, False)
            for value in copy.state_dict().values():
                assert_device(value, elsewhere)
            same_state(copy.state_dict(), trusted.state_dict())
            output = copy(CLASSIFIER_INPUT.to(elsewhere))
            assert_device(output, elsewhere)
            exactly(output, trusted(CLASSIFIER_INPUT).detach())

    @check(hint="The mean cross-entropy in nats, and the share of right answers from 0 to 1.", weight=2)
    def test_score(self, student: Student, device: torch.device) -> None:
        """Loss and accuracy of a classifier are right."""
        # sum for mean, percent or count for share, softmax twice, log2, the two swapped
        weight, x = whole(4, 3, seed=721) / 4, whole(11, 3, seed=722)
        labels = torch.randint(4, (11,), generator=torch.Generator().manual_seed(723))
        expected = loss_and_accuracy(x @ weight.T, labels)
        assert 0 < expected[1] < 1
        model = student.run(linear_layer, weight.to(device), None)
        result = student.score(model, x.to(device), labels.to(device))
        assert_close(result, expected, rtol=1e-6, atol=1e-6)

    @check(hint="Dropout must be off while you measure.", weight=2)
    def test_score_in_evaluation_mode(self, student: Student, device: torch.device) -> None:
        """A model in training mode is measured without its dropout, and then drops again."""
        # not in evaluation mode: ln 4 and the first class everywhere; mode not restored: logits come through
        weight, x = whole(4, 3, seed=731) / 4, whole(9, 3, seed=732)
        labels = torch.randint(4, (9,), generator=torch.Generator().manual_seed(733))
        model = student.run(silenced, weight.to(device), True)
        result = student.score(model, x.to(device), labels.to(device))
        assert_close(result, loss_and_accuracy(x @ weight.T, labels), rtol=1e-6, atol=1e-6)
        exactly(model(x.to(device)), torch.zeros(9, 4).double())

    @check(hint="A model that came in evaluation mode must still be in it.")
    def test_score_leaves_evaluation_mode(self, student: Student, device: torch.device) -> None:
        """A model in evaluation mode is measured, and stays in it."""
        # model.train() at the end, whatever was before
        weight, x = whole(4, 3, seed=741) / 4, whole(9, 3, seed=742)
        labels = torch.randint(4, (9,), generator=torch.Generator().manual_seed(743))
        model = student.run(silenced, weight.to(device), False)
        result = student.score(model, x.to(device), labels.to(device))
        assert_close(result, loss_and_accuracy(x @ weight.T, labels), rtol=1e-6, atol=1e-6)
        exactly(model(x.to(device)), x @ weight.T)
