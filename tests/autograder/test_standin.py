"""The stand-in for a GPU: what is right there passes with the values of the CPU, what is wrong there is refused."""

import functools
import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from rooms import SECONDS, run_cell

from autograder.checks import (
    CheckFailure,
    StudentError,
    assert_close,
    assert_device,
    assert_shape,
    fetch,
    probe,
)
from autograder.equivalence import ROUNDS, compare
from autograder.remote import standin, wire
from autograder.remote.client import Student, loopback

X = torch.tensor([[0.3, 1.7, 2.9, 0.4], [1.1, 0.2, 0.6, 2.3], [0.9, 1.4, 3.1, 0.7]])
FROM = "import math, copy\nimport numpy as np\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\n"


def student_of(source):
    """A student object in front of what a notebook cell defines."""
    namespace = {}
    exec(compile(FROM + textwrap.dedent(source), "<cell abc>", "exec"), namespace)
    return loopback(namespace)


def function_of(body):
    """The source of `f(x)`: an expression, or statements that end in one on a line of its own."""
    *statements, value = textwrap.dedent(body).strip().split("\n")
    return "def f(x):\n" + textwrap.indent("\n".join([*statements, f"return {value}"]), "    ")


RIGHT = [
    # numbers, and tensors without dimensions, from the CPU
    "2 * x + 1 - math.pi",
    "x * torch.tensor(0.5)",
    "torch.tensor(0.5, dtype=torch.float64) - x",
    "torch.where(x > 1, x, torch.tensor(0.0))",
    "torch.where(x > 1, x, 0.0)",
    "torch.maximum(x, torch.tensor(1.0))",
    "torch.special.xlogy(torch.tensor(2.0), x)",
    "x.masked_fill(x > 1, torch.tensor(-1.0))",
    "x.pow(torch.tensor(2.0))",
    "sum(row * torch.tensor(2.0) for row in x)",
    # views without gradients, of tensors that came from outside
    "with torch.no_grad():\n    y = torch.cat([x[:, :1], x[:, 1][:, None]], 1)\ny",
    "with torch.inference_mode():\n    y = torch.cat([x[:, :1], x[:, 1][:, None]], 1)\ny",
    # complex numbers, whose conjugation torch puts off
    "(torch.fft.rfft(x) * torch.fft.rfft(x).conj()).real",
    "torch.polar(x, x).conj().imag.exp()",
    # numbers out of tensors
    "x * x.max().item()",
    "x * x.sum().tolist()",
    "x * float(x[0, 0]) + int(x[0, 2])",
    "x if bool((x > 0).all()) else None",
    "x if (x < 5).all() else None",
    "x.new_tensor(x.tolist())",
    "x * len([value for row in x for value in row if value > 1])",
    "x * math.log(x[0, 1])",
    "x * float(f'{x[0, 0]:.1f}')",
    "torch.stack([x.max(), x.min()]) if repr(x) and str(x[0]) else None",
    "x * (1.0 if torch.equal(x, x.clone()) and torch.allclose(x, x + 1e-12) else 2.0)",
    # from device to device
    "x.cpu().to(x.device)",
    "(x.cpu().numpy() ** 2).sum() * x",
    "torch.from_numpy(x.detach().cpu().numpy()).to(x)",
    "torch.as_tensor(np.asarray(x.cpu())).to(x.device)",
    "torch.ones(4, 2).to(x.device).T @ x.T",
    "torch.ones(4, 2, dtype=torch.float64).to(x).T @ x.T",
    "x.to(torch.float64).to('cpu').to(x.device, torch.float32)",
    "x.type_as(x.double()).to(x.dtype)",
    "x.double().float().half().float()",
    # factories
    "x @ torch.zeros(4, 2, device=x.device)",
    "x + torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device)",
    "x + torch.as_tensor([1.0, 2.0, 3.0, 4.0], device=x.device)",
    "x + torch.as_tensor(x) + x.clone().detach()",
    "x * torch.arange(4, device=x.device)",
    "x * torch.linspace(0, 1, 4, device=x.device)",
    "x @ torch.eye(4, device=x.device)",
    "x * torch.full((3, 4), 2.0, device=x.device)",
    "x + torch.full_like(x, 3.0) * torch.ones_like(x) + torch.zeros_like(x)",
    "x + x.new_zeros(4) + x.new_ones(3, 1) + x.new_full((), 2.0)",
    "torch.empty_like(x).fill_(2.0) * x",
    "x.new_empty(2).zero_()",
    "torch.full_like(x, 2.0, dtype=torch.int64)",
    "x[:, torch.randperm(4, device=x.device)].sum(1)",
    "x @ torch.tril(torch.ones(4, 4, device=x.device))",
    "x @ torch.ones(4, 4, device=x.device, dtype=x.dtype).triu(1)",
    "torch.cat(torch.tril_indices(3, 3, device=x.device).unbind()) + torch.zeros(1, device=x.device)",
    "torch.stack(torch.meshgrid(x[0], torch.arange(3.0, device=x.device), indexing='ij'))",
    """
    with torch.device(x.device):
        table = torch.ones(4, 2)
    x @ table
    """,
    """
    torch.set_default_device(x.device)
    table = torch.ones(4, 2)
    torch.set_default_device(None)
    x @ table
    """,
    # indices and masks
    "x[torch.tensor([2, 0])]",
    "x[[2, 0], [1, 3]]",
    "x[torch.tensor([2, 0], device=x.device), 1]",
    "x[torch.tensor([True, False, True])]",
    "x[x > 1]",
    "x[:, None, ::2, ...]",
    "x[..., -1:]",
    "x.gather(1, x.argsort(1))",
    "x.take_along_dim(x.argmax(1, keepdim=True), 1)",
    "x.index_select(0, torch.tensor([2, 0], device=x.device))",
    "F.one_hot(x.argmax(1), 4)",
    "x.masked_select(x > 1)",
    "torch.cat([x[i : i + 1] for i in torch.randperm(3)]).sum(0)",
    """
    y = x.clone()
    y[y > 1] = 0
    y[0] = 5.0
    y[:, 1] += torch.tensor(2.0)
    y[torch.tensor([1]), 2] = torch.tensor(7.0)
    y
    """,
    """
    y = torch.zeros(5, device=x.device)
    y.index_add_(0, torch.tensor([0, 4, 4], device=x.device), x[:, 0])
    y.scatter_add_(0, torch.tensor([1, 1, 2], device=x.device), x[:, 1])
    """,
    # in place, views, out=
    """
    y = x.clone()
    view = y.view(2, 6).T
    view[0] = 1
    y.mul_(2).add_(torch.tensor(1.0)).sqrt_()
    y.t()[0].copy_(torch.tensor([1.0, 2.0, 3.0]))
    y
    """,
    "x.clone().unsqueeze_(0).transpose_(1, 2).squeeze_(0)",
    "torch.add(x, x, out=torch.empty(0, device=x.device))",
    "torch.sort(x, 1)[0] + torch.topk(x, 4).values",
    "x.max(1).values + x.min(1)[0]",
    "x.flatten().unflatten(0, (2, 6)).permute(1, 0).contiguous().reshape(3, 4)",
    "torch.cat([x, x.new_ones(1, 4)]).chunk(2)[1]",
    "torch.stack([row.sum() for row in x])",
    "torch.nn.functional.pad(x, (1, 2))",
    "x.expand(2, 3, 4).cumsum(-1).logsumexp(0)",
    "torch.special.xlogy(x, x) + torch.special.erf(x) + torch.special.entr(x)",
    "x.histc(3)",
    # linear algebra
    "torch.linalg.det(x[:, :3]) * torch.linalg.slogdet(x[:, :3] @ x[:, :3].T)[1] * torch.logdet(x @ x.T)",
    "torch.linalg.cholesky(x @ x.T)",
    "torch.linalg.solve(x[:, :3], x[:, 3])",
    "torch.linalg.inv(x @ x.T) @ torch.linalg.eigvalsh(x @ x.T)",
    "torch.linalg.solve_triangular((x @ x.T).tril(), x, upper=False) + torch.linalg.norm(x)",
    "torch.einsum('ij,kj->ik', x, x) + x.mm(x.T) + torch.bmm(x[None], x.T[None])[0] + x @ x.mT",
    "torch.cdist(x, x) + torch.cov(x)",
    "torch.trapezoid(x, torch.arange(4, device=x.device)) + torch.fft.rfft(x).abs().sum()",
    # networks
    "F.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None], is_causal=True)",
    """
    mask = torch.ones(3, 3, dtype=torch.bool, device=x.device).tril()
    F.scaled_dot_product_attention(x[None], x[None], x[None], attn_mask=mask)
    """,
    "F.cross_entropy(x, x.argmax(1)) + F.mse_loss(x, x + 1) + F.binary_cross_entropy_with_logits(x, x.sigmoid())",
    "F.layer_norm(x, (4,)).softmax(-1) + F.gelu(x) + F.silu(x) + F.dropout(x, 0.0)",
    "F.conv1d(x[None], x.new_ones(2, 3, 2)) + F.max_pool1d(x[None], 2).mean()",
    "F.embedding(torch.tensor([1, 2], device=x.device), x)",
    "nn.MultiheadAttention(4, 2, batch_first=True).to(x.device).eval()(x, x, x)[0]",
    "nn.MultiheadAttention(4, 2).to(x.device)(x, x, x, need_weights=False)[0]",
    "nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).to(x.device)(x[None])",
    "nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).to(x.device).eval()(x[None])",
    "nn.GRU(4, 5).to(x.device)(x)[0]",
    "nn.LSTM(4, 5, batch_first=True).to(x.device)(x[None])[1][0]",
    "nn.Sequential(nn.Conv1d(3, 6, 2), nn.GroupNorm(2, 6), nn.Flatten()).to(x.device)(x[None])",
    """
    norm = nn.BatchNorm1d(4).to(x.device)
    norm(x) + norm.running_mean + norm.num_batches_tracked + norm.eval()(x)
    """,
    """
    net = nn.Linear(4, 2).to(x.device).double()
    net.to(torch.float32)(x)
    """,
    """
    net = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)).to(x.device)
    net(x)
    """,
    """
    net = nn.ParameterList([nn.Parameter(torch.ones(4))]).to(x.device)
    other = nn.Parameter(torch.full_like(x, 2.0))
    x * net[0] * other
    """,
    # gradients
    """
    y = x.clone().requires_grad_()
    (y.square().sum() + torch.tensor(2.0) * y.exp().mean()).backward()
    y.grad
    """,
    """
    y = x.clone().requires_grad_()
    (first,) = torch.autograd.grad((y**3).sum(), y, create_graph=True)
    torch.autograd.grad(first.sum(), y)[0]
    """,
    """
    scale = torch.tensor(2.0, requires_grad=True)
    (scale * x).sum().backward()
    scale.grad.to(x.device)
    """,
    """
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return 2 * x
        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient * ctx.saved_tensors[0]
    y = x.clone().requires_grad_()
    Double.apply(y).sum().backward()
    y.grad
    """,
    """
    y = x.clone().requires_grad_()
    with torch.no_grad():
        y.sub_(0.1 * y)
    y.data = y.data * 2
    y.data.add_(1)
    y.detach()
    """,
    "torch.autograd.functional.jacobian(lambda y: y.square().sum(1), x)",
    "torch.autograd.functional.hessian(lambda y: (y**3).sum(), x)",
    "torch.func.jacrev(lambda y: y.square().sum(1))(x)",
    "torch.func.jacfwd(lambda y: y.square().sum(1))(x)",
    "torch.func.hessian(lambda y: (y**3).sum())(x[0])",
    "torch.func.grad(lambda y: (y.exp() * torch.tensor(2.0)).sum())(x)",
    "torch.func.vmap(lambda row: row @ row.T + row.norm())(x[None].expand(2, 3, 4))",
    "torch.vmap(torch.func.grad(lambda row: (row**2).sum()))(x)",
    "torch.func.vmap(lambda row: torch.linalg.det(row[:, :3]))(x[None])",
    "torch.func.jvp(torch.sin, (x,), (torch.ones_like(x),))[1]",
    # distributions
    "torch.distributions.Normal(x, 2.0).log_prob(x + 1)",
    "torch.distributions.Normal(0.0, 1.0).log_prob(x)",
    "torch.distributions.Categorical(logits=x).entropy() + torch.distributions.Categorical(x).log_prob(x.argmax(1))",
    "torch.distributions.Bernoulli(logits=x).log_prob((x > 1).float())",
    "torch.distributions.Uniform(x, x + 1).log_prob(x + 0.5)",
    "torch.distributions.Independent(torch.distributions.Normal(x, x), 1).log_prob(x)",
    "torch.distributions.MultivariateNormal(x[0], torch.eye(4, device=x.device)).log_prob(x)",
    "torch.distributions.kl_divergence(torch.distributions.Normal(x, x), torch.distributions.Normal(0.0, 1.0))",
    "torch.distributions.Dirichlet(x).log_prob(x / x.sum(1, keepdim=True))",
]


@pytest.mark.parametrize("body", RIGHT)
def test_code_that_honours_the_device_gives_there_what_it_gives_on_the_cpu(body, elsewhere):
    student = student_of(function_of(body))
    torch.manual_seed(0)
    expected = student.f(X)
    torch.manual_seed(0)
    result = student.f(X.to(elsewhere))
    assert_device(result, elsewhere)
    assert_close(result, expected)


RANDOM = [
    "torch.rand(3, 4, device=x.device)",
    "torch.rand(3, 4, device=x.device, generator=g)",
    "torch.randn(3, 4, generator=g, device=x.device, dtype=torch.float64)",
    "torch.randn_like(x) + torch.rand_like(x)",
    "torch.randint(0, 5, (3, 4), device=x.device, generator=g)",
    "torch.randint_like(x, 5)",
    "torch.bernoulli(x / 4) + torch.bernoulli(x / 4, generator=g)",
    "torch.multinomial(x, 4) + torch.multinomial(x, 4, replacement=True, generator=g)",
    "torch.normal(x, 1.0, generator=g) + torch.normal(x, x)",
    "torch.normal(0.0, 1.0, (3, 4), device=x.device, generator=g)",
    "torch.empty_like(x).normal_(generator=g) + x.clone().uniform_() + x.clone().exponential_(generator=g)",
    "x[torch.randperm(3, generator=g, device=x.device)]",
    "torch.rand(3, 4, generator=torch.Generator(device=x.device).manual_seed(1), device=x.device)",
    "torch.rand(3, 4, generator=torch.Generator(x.device), device=x.device)",
    "torch.rand(3, 4, generator=torch.Generator().manual_seed(1)).to(x.device)",
    "torch.distributions.Normal(x, x).rsample()",
    "torch.distributions.Normal(x, x).sample((2,))[0]",
    "torch.distributions.Uniform(x, x + 1).sample()",
    "torch.distributions.Bernoulli(logits=x).sample()",
    "torch.distributions.Categorical(logits=x).sample((4,)).T",
    "torch.distributions.Gumbel(x, x).sample() + torch.distributions.Exponential(x).sample()",
    "torch.distributions.MultivariateNormal(x[0], torch.eye(4, device=x.device)).rsample((3,))",
    "F.dropout(x, 0.5)",
    "F.gumbel_softmax(x)",
    "nn.init.normal_(x.clone(), generator=g)",
    "torch.vmap(lambda row: row + torch.randn_like(row), randomness='different')(x)",
]


@pytest.mark.parametrize("body", RANDOM)
def test_random_numbers_are_drawn_there(body, elsewhere):
    student = student_of(f"def f(x, g): return {body}")
    result = student.f(X.to(elsewhere), torch.Generator(device=elsewhere).manual_seed(3))
    assert_device(result, elsewhere)
    assert_shape(result, (3, 4))


def test_a_generator_goes_over_with_its_state_and_its_device(elsewhere):
    student = student_of("def f(g): return torch.rand(3, generator=g, device=g.device), g.device")
    generator = torch.Generator(device=elsewhere).manual_seed(7)
    torch.rand(5, generator=generator, device=elsewhere)
    drawn, device = student.f(generator)
    assert device == elsewhere
    assert_device(drawn, elsewhere)
    assert_close(drawn, torch.rand(3, generator=generator, device=elsewhere))


DEVICES_DIFFER = "RuntimeError: Expected all tensors to be on the same device"
WRONG = [
    # a tensor of one's own on the CPU
    ("x @ torch.zeros(4, 2)", DEVICES_DIFFER),
    ("x * torch.arange(4)", DEVICES_DIFFER),
    ("x + torch.tensor([1.0, 2.0, 3.0, 4.0])", DEVICES_DIFFER),
    ("x * torch.ones(1)", DEVICES_DIFFER),
    ("torch.ones(3, 4) - x", DEVICES_DIFFER),
    ("torch.where(x > 1, x, torch.zeros(4))", DEVICES_DIFFER),
    ("torch.where(torch.tensor([True, False, True, True]), x, 0.0)", DEVICES_DIFFER),
    ("x.masked_fill(torch.ones(3, 4).tril().bool(), 0.0)", DEVICES_DIFFER),
    ("torch.cat([x, torch.zeros(1, 4)])", DEVICES_DIFFER),
    ("torch.stack([x.sum(), torch.tensor(0.0)])", DEVICES_DIFFER),
    ("x.gather(1, torch.tensor([[0], [1], [2]]))", DEVICES_DIFFER),
    ("x.index_select(0, torch.tensor([0]))", DEVICES_DIFFER),
    ("torch.eye(4)[x.argmax(1)]", "RuntimeError"),
    ("torch.einsum('ij,kj->ik', x, torch.ones(2, 4))", DEVICES_DIFFER),
    ("torch.linalg.solve(x[:, :3], torch.ones(3))", DEVICES_DIFFER),
    ("F.cross_entropy(x, torch.tensor([0, 1, 2]))", DEVICES_DIFFER),
    ("F.embedding(torch.tensor([1, 2]), x)", DEVICES_DIFFER),
    ("F.scaled_dot_product_attention(x[None], x[None], x[None], attn_mask=torch.ones(3, 3).bool())", DEVICES_DIFFER),
    ("torch.logaddexp(x, torch.tensor(0.0))", DEVICES_DIFFER),
    ("torch.equal(x, torch.ones(3, 4))", DEVICES_DIFFER),
    ("torch.distributions.Normal(torch.zeros(4), 1.0).log_prob(x)", "RuntimeError"),
    ("torch.distributions.kl_divergence(torch.distributions.Normal(x, x), torch.distributions.Normal(torch.zeros(4),"
     " torch.ones(4)))", DEVICES_DIFFER),
    ("nn.Linear(4, 2)(x)", DEVICES_DIFFER),
    ("torch.func.vmap(lambda row: row * torch.ones(4))(x)", DEVICES_DIFFER),
    ("torch.func.jacrev(lambda y: y @ torch.ones(4))(x)", DEVICES_DIFFER),
    ("x.new_tensor([1.0]) + torch.tensor([1.0])", DEVICES_DIFFER),
    ("x[0].copy_(x[1]).dot(torch.ones(4))", DEVICES_DIFFER),
    # results collected on the CPU
    ("total = torch.tensor(0.0)\ntotal += x.sum()\ntotal", DEVICES_DIFFER),
    ("total = torch.zeros(4)\ntotal += x[0]\ntotal", DEVICES_DIFFER),
    ("torch.add(x, x, out=torch.empty(3, 4))", DEVICES_DIFFER),
    ("y = torch.zeros(3)\ny[x[:, 0] > 1] = 1\ny", "RuntimeError"),
    # numpy
    ("x.numpy()", "TypeError: can't convert lazy:0 device type tensor to numpy. Use Tensor.cpu()"),
    ("np.asarray(x)", "TypeError: can't convert"),
    ("np.sqrt(x)", "TypeError: can't convert"),
    ("x.detach().numpy().sum()", "TypeError: can't convert"),
    ("torch.from_numpy(x.cpu().numpy()) + x", DEVICES_DIFFER),
    # random numbers
    ("x + torch.randn(3, 4)", DEVICES_DIFFER),
    ("x[torch.randperm(3)] * torch.rand(4)", DEVICES_DIFFER),
    ("torch.rand(3, device=x.device, generator=torch.Generator())",
     "RuntimeError: Expected a 'lazy' device type for generator but found 'cpu'"),
    ("torch.bernoulli(x / 4, generator=torch.Generator())", "RuntimeError: Expected a 'lazy' device type"),
    ("torch.rand(3, generator=torch.Generator(device=x.device)).to(x.device)",
     "RuntimeError: Expected a 'cpu' device type for generator but found 'lazy'"),
    ("y = x.clone().requires_grad_()\ny.grad = torch.ones(3, 4)\ny", "RuntimeError"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "error"), WRONG)
def test_code_that_does_not_is_refused_as_on_a_gpu(body, error, elsewhere):
    student = student_of(function_of(body))
    if "device" not in body:  # what is wrong with it is the device and nothing else
        student.f(X)
    with pytest.raises(StudentError) as raised:
        student.f(X.to(elsewhere))
    assert str(raised.value).startswith(error)
    assert raised.value.line > 0


LEFT_BEHIND = [
    "x.cpu()",
    "torch.zeros(3)",
    "torch.tensor(x.tolist())",
    "torch.tensor(x.sum().item())",
    "x.to('cpu') * 2",
]


@pytest.mark.parametrize("body", LEFT_BEHIND)
def test_a_result_that_was_left_on_the_cpu_is_seen(body, elsewhere):
    with pytest.raises(CheckFailure) as raised:
        assert_device(student_of(function_of(body)).f(X.to(elsewhere)), elsewhere)
    assert raised.value.cause == "a tensor on the CPU came; one on the device of the inputs was expected"


@pytest.mark.parametrize(("value", "what"), [(1.5, "a value of type float"), (None, "None"), ([1], "a list of 1")])
def test_what_is_no_tensor_is_on_no_device(value, what, elsewhere):
    with pytest.raises(CheckFailure) as raised:
        assert_device(value, elsewhere)
    assert raised.value.cause == f"{what} came; a tensor on the device of the inputs was expected"
    assert_device(torch.ones(1), torch.device("cpu"))


NETWORK = """
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(5, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.full((width,), 2.0))
        self.late = {late}
    def forward(self, tokens):
        return self.head(self.norm(self.embedding(tokens)) * self.scale * self.late)
"""
TOKENS = torch.tensor([[0, 3, 1], [4, 4, 2]])


@probe
def trained(ns, net, tokens, device):
    net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net(tokens)
    torch.nn.functional.cross_entropy(before.flatten(0, 1), tokens.flatten()).backward()
    optimizer.step()
    kept = net.head.weight is net.embedding.weight and len(list(net.parameters())) == 3
    return before, net(tokens), net.embedding.weight.grad, kept and isinstance(net.head.weight, torch.nn.Parameter)


def test_a_module_moves_there_takes_weights_from_the_cpu_and_trains(elsewhere):
    student = student_of(NETWORK.format(late="torch.tensor(1.5)"))
    weights = {"embedding.weight": torch.randn(5, 4), "norm.weight": torch.rand(4), "norm.bias": torch.rand(4)}
    results = []
    for device in (torch.device("cpu"), elsewhere):
        net = student.Net(4)
        net.load_state_dict({**weights, "head.weight": weights["embedding.weight"], "scale": torch.full((4,), 3.0)})
        net.to(device)
        net.load_state_dict({**net.state_dict(), "scale": torch.full((4,), 2.0)})
        assert_device(fetch(net.head.weight), device)
        assert_device(net(TOKENS.to(device)), device)
        results.append(student.run(trained, net, TOKENS.to(device), device))
    for here, there in zip(*results, strict=True):
        assert_close(there, here)
    assert results[1][-1] is True


def test_a_tensor_that_is_no_buffer_stays_behind_and_is_noticed(elsewhere):
    net = student_of(NETWORK.format(late="torch.ones(width)")).Net(4)
    net.to(elsewhere)
    with pytest.raises(StudentError, match=DEVICES_DIFFER):
        net(TOKENS.to(elsewhere))


def test_a_module_is_copied_and_comes_back(elsewhere):
    student = student_of("""
        def f(x):
            net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1)).to(x.device).eval()
            other = copy.deepcopy(net)
            for parameter in other.parameters():
                parameter.data.mul_(0)
            moved = copy.deepcopy(net).cpu()
            values = torch.func.functional_call(net, dict(net.named_parameters()), (x,))
            return net(x) - values, other(x), net(x), moved(x.cpu())
        """)
    zero, none, there, here = student.f(X.to(elsewhere))
    for result in (zero, none, there):
        assert_device(result, elsewhere)
    assert_device(here, torch.device("cpu"))
    assert_close(zero, torch.zeros(3, 1))
    assert_close(none, torch.zeros(3, 1))
    assert_close(there, here)


def test_training_there_takes_the_steps_that_it_takes_on_the_cpu(elsewhere):
    student = student_of("""
        def f(x, optimizer):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).to(x.device)
            steps = getattr(torch.optim, optimizer)(net.parameters(), lr=0.01)
            for _ in range(3):
                steps.zero_grad()
                loss = (net(x) - 1).square().mean()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                steps.step()
            return nn.utils.parameters_to_vector(net.parameters())
        """)
    for optimizer in ("SGD", "Adam", "AdamW"):
        there = student.f(X.to(elsewhere), optimizer)
        assert_device(there, elsewhere)
        assert_close(there, student.f(X, optimizer))


# what crosses


def test_values_are_compared_on_the_cpu_whatever_device_they_were_on(elsewhere):
    result = student_of("def f(x): return [x, {'a': x.sum()}, x.to('cpu')]").f(X.to(elsewhere))
    there, named, here = result
    assert type(there) is type(here) is torch.Tensor and there.device == named["a"].device == torch.device("cpu")
    assert (wire.device_of(there), wire.device_of(named["a"]), wire.device_of(here)) == (
        elsewhere,
        elsewhere,
        torch.device("cpu"),
    )


def test_what_came_from_there_goes_back_there(elsewhere):
    student = student_of("def f(x): return 2 * x\ndef g(x): return x.device")
    assert student.g(student.f(X.to(elsewhere))) == elsewhere
    assert student.g(student.f(X)) == torch.device("cpu")


def test_distributions_partial_functions_and_modules_take_their_tensors_along(elsewhere):
    student = student_of("def f(d, g, x): return d.log_prob(x) + g(x)")
    normal = torch.distributions.Normal(X.to(elsewhere), 2.0)

    @probe
    def shifted(shift, x):
        return x + shift

    result = student.f(normal, functools.partial(shifted, X.to(elsewhere)), X.to(elsewhere))
    assert_device(result, elsewhere)
    assert_close(result, torch.distributions.Normal(X, 2.0).log_prob(X) + 2 * X)


def test_the_arguments_of_a_check_are_copied(elsewhere):
    mine = X.to(elsewhere)
    student_of("def f(x): x.zero_()").f(mine)
    assert torch.equal(mine.cpu(), X)


def test_two_versions_are_compared_there_too(elsewhere):
    names = {"torch": torch}
    exec("def f(x, g): return x + torch.rand(x.shape, generator=g, device=x.device)", names)
    generator = torch.Generator(device=elsewhere).manual_seed(4)
    question = ("call", {"object": None, "path": ["f"], "args": [X.to(elsewhere), generator], "kwargs": {}})
    other = {"f": lambda x, g: names["f"](x, g) * (1 + 1e-6)}
    assert compare(names, names, [[question]]) == (ROUNDS + 1, "")
    assert compare(names, other, [[question]]) == (0, "call.f")


def test_without_it_nothing_is_different():
    student = student_of("def f(x): return [torch.Generator is g for g in [type(torch.Generator())]], x.device")
    assert student.f(X) == ([True], torch.device("cpu"))
    with standin.in_force():
        assert isinstance(torch.Generator(), torch.Generator)
        assert isinstance(torch.default_generator, torch.Generator)
    assert type(torch.Generator()) is torch.Generator


# the real sandbox

SUBMISSION = """
import torch
from torch import nn
torch.ones(2, requires_grad=True).sum().backward()

def good(x):
    mask = torch.zeros(x.shape[-1], device=x.device)
    mask[0] = 1
    return torch.where(mask > 0, x, 0.0).sum(-1)
def bad(x):
    mask = torch.zeros(x.shape[-1])
    mask[0] = 1
    return torch.where(mask > 0, x, 0.0).sum(-1)
def left(x):
    return torch.tensor(x.sum(-1).tolist())
def draw(n, generator, device):
    return torch.rand(n, generator=generator, device=device)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
    def forward(self, x):
        return self.layer(x)
"""


@probe
def gradient_of_good(ns, x):
    x = x.clone().requires_grad_()
    ns.good(x).square().sum().backward()
    return x.grad


def test_it_works_in_a_real_room_and_in_its_forks(room, elsewhere):
    run_cell(room, SUBMISSION)
    for _ in range(2):
        branch = room.fork()
        student = Student(lambda frame, branch=branch: branch.ask(frame, SECONDS))
        student._begin(1)
        assert_close(student.good(X), X[:, 0])
        result = student.good(X.to(elsewhere))
        assert_device(result, elsewhere)
        assert_close(result, X[:, 0])
        with pytest.raises(StudentError, match=DEVICES_DIFFER):
            student.bad(X.to(elsewhere))
        with pytest.raises(CheckFailure, match="a tensor on the CPU came"):
            assert_device(student.left(X.to(elsewhere)), elsewhere)
        gradient = student.run(gradient_of_good, X.to(elsewhere))
        assert_device(gradient, elsewhere)
        assert_close(gradient, torch.cat([2 * X[:, :1], torch.zeros(3, 3)], 1))
        generator = torch.Generator(device=elsewhere).manual_seed(5)
        assert_device(student.draw(3, generator, elsewhere), elsewhere)
        net = student.Net()
        net.to(elsewhere)
        assert_device(net(X.to(elsewhere)), elsewhere)
        branch.close()


FIRST_USE = """
import os, sys, time
import torch, torch.distributions
from autograder.remote import standin
x = torch.ones(3)
torch.distributions.Normal(x, x).sample()
modules = set(sys.modules)
begin = time.process_time()
x = x.to(standin.DEVICE).requires_grad_()
with standin.in_force():
    torch.distributions.Normal(x, x).sample()
    (x * x).sum().backward()
seconds = time.process_time() - begin
assert len(os.listdir("/proc/self/task")) == 1
assert len(set(sys.modules) - modules) < 20, set(sys.modules) - modules
assert seconds < 0.2, seconds
child = os.fork()
if child == 0:
    (x * x).sum().backward()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_its_first_use_in_a_process_starts_no_thread_and_imports_nothing_large():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_values_of_every_dtype_cross(elsewhere):
    student = student_of("def f(x): return x, x.device")
    for dtype in (torch.bool, torch.int64, torch.float16, torch.bfloat16, torch.float64, torch.complex64):
        value = torch.tensor([0.5, 0.0, math.pi]).to(dtype)
        result, device = student.f(value.to(elsewhere))
        assert result.dtype == dtype and device == elsewhere
        assert np.array_equal(result.to(torch.complex128).numpy(), value.to(torch.complex128).numpy())
