"""Hidden checks of the assignment on KV cache, MQA, GQA and MLA.

Weights and inputs come from here, and so does every expected value: from torch's scaled_dot_product_attention with an
explicit mask, from a rotation written with complex numbers, and from published sizes of models. The caches that layers
get in these checks are stand-ins, so a wrong `KVCache` costs its own task only. Inputs are float64 where nothing else
is said. What a cache is filled with beforehand was computed by no layer: an answer that computes the prefix anew, or
remembers it by itself, finds another value.
"""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autograder.checks import (
    CheckFailure,
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

Pair = tuple[Tensor, Tensor]


def noise(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def on(device: torch.device, *tensors: Tensor) -> list[Tensor]:
    return [tensor.to(device) for tensor in tensors]


# --- what checks put beside the student's code -------------------------------------------------------------------


@probe
def stand_in_cache(ns, window, keys, values, length):
    class StandIn:
        def __init__(self):
            self.capacity, self.window, self.length = 10**6, window, length
            self.keys, self.values, self.received = keys, values, []

        def update(self, keys, values):
            self.received.append((keys.detach().clone(), values.detach().clone()))
            if self.keys is not None:
                keys, values = torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2)
            self.length += self.received[-1][0].shape[2]
            first = 0 if self.window is None else max(0, keys.shape[2] - self.window + 1)
            self.keys, self.values = keys[:, :, first:].clone(), values[:, :, first:].clone()
            return keys, values

        def reset(self):
            self.keys, self.values, self.length = None, None, 0

    return StandIn()


@probe
def layer_with_weights(ns, name, sizes, weights):
    layer = getattr(ns, name)(**sizes)
    some = next(iter(weights.values()))
    layer = layer.to(device=some.device, dtype=some.dtype)
    layer.load_state_dict({f"{key}.weight": weight for key, weight in weights.items()}, strict=False)
    return layer


@probe
def gradients_of_a_layer(ns, layer, names, x, upstream):
    x = x.clone().requires_grad_()
    (layer(x) * upstream).sum().backward()  # a gradient handed to backward would import sympy, which takes seconds
    return [x.grad, *(layer.get_parameter(f"{name}.weight").grad for name in names)]


@probe
def output_and_argument(ns, layer, x):
    output = layer(x)
    return output, x


@probe
def output_and_work(ns, function, *arguments):
    class Counter(torch.overrides.TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.flops = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            name = getattr(function, "__name__", "")
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            if not isinstance(out, torch.Tensor):
                return out
            if name == "linear":
                self.flops += 2 * out.numel() * tensors[1].shape[-1]
            elif name in ("matmul", "mm", "bmm", "__matmul__", "__rmatmul__"):
                self.flops += 2 * out.numel() * tensors[0].shape[-1]
            elif name == "scaled_dot_product_attention":
                query, key, value = tensors[:3]
                self.flops += 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
            elif name == "einsum" and isinstance(args[0], str):
                operands = tensors or list(args[1])
                letters = args[0].replace(" ", "").split("->")[0].split(",")
                sizes = {}
                for part, operand in zip(letters, operands, strict=False):
                    sizes.update(zip(part.replace(".", ""), operand.shape[-len(part) :], strict=False))
                self.flops += 2 * math.prod(sizes.values())
            else:
                self.flops += out.numel()
            return out

    with Counter() as counter:
        output = function(*arguments)
    return output, counter.flops


def make_layer(student: Student, name: str, weights: dict[str, Tensor], device: torch.device, **sizes: Any) -> Remote:
    """A layer of the student's, with given weights, in their dtype."""
    layer = student.run(layer_with_weights, name, sizes, {key: weight.to(device) for key, weight in weights.items()})
    return _object(layer)


def make_cache(
    student: Student, device: torch.device, *, held: Pair | None = None, length: int = 0, window: int | None = None
) -> Remote:
    """A stand-in cache beside the student's code, holding what it is given."""
    keys, values = (None, None) if held is None else on(device, *held)
    return _object(student.run(stand_in_cache, window, keys, values, length))


def _object(remote: Any) -> Remote:
    if not isinstance(remote, Remote):
        raise CheckFailure("a value came where a layer was expected")
    return remote


# --- what they are compared with ---------------------------------------------------------------------------------


def turned(x: Tensor, start: int) -> Tensor:
    """Rotary embedding by complex numbers: feature pairs times exp(i t theta)."""
    positions = torch.arange(start, start + x.shape[-2], dtype=torch.float64)
    theta = 10000.0 ** (-2 * torch.arange(x.shape[-1] // 2, dtype=torch.float64) / x.shape[-1])
    phases = torch.polar(torch.ones(x.shape[-2], len(theta), dtype=torch.float64), positions[:, None] * theta)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * phases).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """torch's attention, heads shared by groups; the queries belong to the last of the keys' positions."""
    distance = torch.arange(k.shape[2] - q.shape[2], k.shape[2])[:, None] - torch.arange(k.shape[2])
    mask = (distance >= 0) & (distance < (window or k.shape[2]))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def split(x: Tensor, weight: Tensor, heads: int) -> Tensor:
    return (x @ weight.T).reshape(*x.shape[:2], heads, -1).permute(0, 2, 1, 3)


def joined(heads: Tensor, weight: Tensor) -> Tensor:
    return heads.permute(0, 2, 1, 3).reshape(heads.shape[0], heads.shape[2], -1) @ weight.T


def new_keys(weights: dict[str, Tensor], x: Tensor, groups: int, start: int = 0) -> Pair:
    """What a layer puts into its cache for the positions x."""
    return turned(split(x, weights["k_proj"], groups), start), split(x, weights["v_proj"], groups)


def attention(
    weights: dict[str, Tensor],
    x: Tensor,
    heads: int,
    groups: int,
    *,
    held: Pair | None = None,
    start: int = 0,
    window: int | None = None,
) -> Tensor:
    """Multi-head attention with rotary embedding and any number of groups; `held` are earlier keys and values."""
    keys, values = new_keys(weights, x, groups, start)
    if held is not None:
        keys, values = torch.cat([held[0], keys], 2), torch.cat([held[1], values], 2)
    queries = turned(split(x, weights["q_proj"], heads), start)
    return joined(attend(queries, keys, values, window), weights["o_proj"])


def attention_weights(d_model: int, heads: int, groups: int, d_head: int, seed: int) -> dict[str, Tensor]:
    shapes = {
        "q_proj": (heads * d_head, d_model),
        "k_proj": (groups * d_head, d_model),
        "v_proj": (groups * d_head, d_model),
        "o_proj": (d_model, heads * d_head),
    }
    return {name: 0.6 * noise(*shape, seed=seed + i) for i, (name, shape) in enumerate(shapes.items())}


# --- KVCache -----------------------------------------------------------------------------------------------------


def pair(*shape: int, seed: int, key_dim: int = 3, value_dim: int = 5) -> Pair:
    """Keys and values; shape is (batch, heads, positions)."""
    return noise(*shape, key_dim, seed=seed), noise(*shape, value_dim, seed=seed + 500)


def part(both: Pair, first: int, last: int) -> Pair:
    """The positions first to last - 1."""
    return both[0][:, :, first:last], both[1][:, :, first:last]


def feed(cache: Remote, both: Pair, sizes: list[int], device: torch.device) -> list[Any]:
    """Call update with chunks of these sizes: what came back from each."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [cache.update(*on(device, *part(both, end - size, end))) for size, end in zip(sizes, ends, strict=True)]


@probe
def refused_updates(ns, cache, updates):
    kinds = []
    for keys, values in updates:
        try:
            cache.update(keys, values)
            kinds.append("none")
        except ValueError:
            kinds.append("ValueError")
    return kinds


@probe
def update_and_arguments(ns, keys, values, more_keys, more_values):
    cache = ns.KVCache(9)
    cache.update(keys, values)
    seen = cache.update(more_keys, more_values)
    return seen, (keys, values, more_keys, more_values)


@task("KVCache")
class TestKVCache:
    @check(hint="Positions are axis 2: what is new goes behind what was there, keys with keys.", weight=2)
    def test_prompt_and_step(self, student: Student, device: torch.device) -> None:
        """After a prompt, a step gives back the prompt's positions and its own, in order."""
        # another axis, new before old, keys and values swapped, only the new, only what was there before
        both = pair(2, 4, 6, seed=1)
        cache = student.KVCache(8)
        first, second = feed(cache, both, [5, 1], device)
        assert_close(first, part(both, 0, 5))
        assert_close(second, both)

    @check(hint="Every call adds to what all earlier calls have brought.", weight=2)
    def test_many_steps(self, student: Student, device: torch.device) -> None:
        """Step by step, all positions so far come back."""
        # a cache that keeps only the last update
        both = pair(1, 2, 5, seed=2)
        results = feed(student.KVCache(5), both, [1, 1, 1, 1, 1], device)
        for end, result in enumerate(results, 1):
            assert_close(result, part(both, 0, end))

    @check(hint="A window of w is the new position and the w - 1 before it.", weight=2)
    def test_window_step_by_step(self, student: Student, device: torch.device) -> None:
        """With a window of four, a single step gives back four positions as soon as there are so many."""
        # off by one either way: 3 or 5 positions; the oldest kept in place of the latest
        both = pair(2, 3, 9, seed=3)
        results = feed(student.KVCache(20, window=4), both, [1] * 9, device)
        for end, result in enumerate(results, 1):
            assert_close(result, part(both, max(0, end - 4), end))

    @check(hint="The first query of a chunk looks back too: give back first, then forget.", weight=2)
    def test_window_and_chunks(self, student: Student, device: torch.device) -> None:
        """A chunk comes back whole, behind the positions that its first query can see."""
        # dropping before giving back leaves 4 of the chunk; holding w instead of w - 1 gives one more
        both = pair(2, 3, 14, seed=4)
        results = feed(student.KVCache(20, window=4), both, [6, 2, 5, 1], device)
        for (first, last), result in zip([(0, 6), (3, 8), (5, 13), (10, 14)], results, strict=True):
            assert_close(result, part(both, first, last))

    @check(hint="Afterwards the cache holds the window less one: the next query brings its own position.")
    def test_what_is_held(self, student: Student, device: torch.device) -> None:
        """What is held after a call is what the next query can still see."""
        both = pair(2, 3, 7, seed=5)
        for window, first in ((None, 0), (3, 5)):
            cache = student.KVCache(10, window=window)
            feed(cache, both, [5, 2], device)
            keys, values = part(both, first, 7)
            assert_close(fetch(cache.keys), keys)
            assert_close(fetch(attribute(cache, "values")), values)

    @check(hint="A window of one: nothing earlier is seen. What does a slice from -0 give?")
    def test_window_of_one(self, student: Student, device: torch.device) -> None:
        """With a window of one, only the new positions come back."""
        # keys[:, :, -(window - 1):] keeps everything
        both = pair(2, 2, 6, seed=6)
        results = feed(student.KVCache(6, window=1), both, [3, 1, 2], device)
        for (first, last), result in zip([(0, 3), (3, 4), (4, 6)], results, strict=True):
            assert_close(result, part(both, first, last))

    @check(hint="The length counts all positions that have come, also those that were dropped.")
    def test_length(self, student: Student, device: torch.device) -> None:
        """The length is the position of the next token, whatever was dropped."""
        both = pair(1, 3, 9, seed=7)
        for window in (None, 3):
            cache = student.KVCache(9, window=window)
            assert_close(fetch(cache.length), 0)
            feed(cache, both, [4, 1, 1], device)
            assert_close(fetch(cache.length), 6)

    @check(hint="Full is not yet too full, and a call that is refused changes nothing.", weight=2)
    def test_capacity(self, student: Student, device: torch.device) -> None:
        """A cache can be filled to its capacity; what goes beyond is refused and leaves no trace."""
        both = pair(2, 2, 8, seed=8)
        cache = student.KVCache(6)
        feed(cache, both, [4], device)
        with student_raises(ValueError):
            cache.update(*on(device, *part(both, 4, 7)))
        assert_close(fetch(cache.length), 4)
        assert_close(cache.update(*on(device, *part(both, 4, 6))), part(both, 0, 6))
        with student_raises(ValueError):
            cache.update(*on(device, *part(both, 6, 7)))

    @check(hint="What counts against the capacity is what comes back from a call, not all that ever came.")
    def test_capacity_with_a_window(self, student: Student, device: torch.device) -> None:
        """With a window a text of any length goes through a small cache, but no chunk that is too long."""
        both = pair(1, 2, 16, seed=9)
        cache = student.KVCache(5, window=3)
        results = feed(cache, both, [5, 3, 1, 3], device)
        for (first, last), result in zip([(0, 5), (3, 8), (6, 9), (7, 12)], results, strict=True):
            assert_close(result, part(both, first, last))
        with student_raises(ValueError):
            cache.update(*on(device, *part(both, 12, 16)))
        assert_close(cache.update(*on(device, *part(both, 12, 15))), part(both, 10, 15))

    @check(hint="After a reset the cache is like a new one, and may meet another batch.")
    def test_reset(self, student: Student, device: torch.device) -> None:
        """A reset forgets everything, and another text of another batch size may follow."""
        before, after = pair(3, 2, 4, seed=10), pair(2, 2, 5, seed=11)
        cache = student.KVCache(5, window=9)
        feed(cache, before, [3, 1], device)
        cache.reset()
        assert_close(fetch(cache.length), 0)
        assert_close(feed(cache, after, [2, 3], device)[-1], after)

    @check(hint="keys and values are None before the first call, and after a reset.")
    def test_nothing_is_held(self, student: Student, device: torch.device) -> None:
        """An empty cache holds neither keys nor values, and one that was reset is empty."""
        both = pair(2, 2, 3, seed=19)
        cache = student.KVCache(5)
        for _ in range(2):
            for name in ("keys", "values"):
                if fetch(attribute(cache, name)) is not None:
                    raise CheckFailure(f"something came where an empty cache has None in `{name}`")
            assert_close(feed(cache, both, [2, 1], device)[-1], both)
            cache.reset()

    @check(hint="Each cache has keys and values of its own: is something stored in the class, or in a default?")
    def test_two_caches(self, student: Student, device: torch.device) -> None:
        """Two caches, filled in turn, know nothing of each other."""
        one, other = pair(2, 3, 4, seed=12), pair(2, 3, 5, seed=13)
        first, second = student.KVCache(6), student.KVCache(6)
        feed(first, part(one, 0, 2), [2], device)
        feed(second, part(other, 0, 4), [4], device)
        assert_close(first.update(*on(device, *part(one, 2, 4))), one)
        assert_close(second.update(*on(device, *part(other, 4, 5))), other)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Keys and values come back in the dtype in which they came."""
        both = tuple(tensor.to(dtype) for tensor in pair(2, 2, 5, seed=14))
        result = feed(student.KVCache(7, window=4), (both[0], both[1]), [3, 2], device)[-1]
        for came, given in zip(result, both, strict=True):
            assert_dtype(came, dtype)
            assert_close(came, given, rtol=0.0, atol=0.0)

    @check(hint="Keep keys and values where they are; new tensors go to the same device.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Keys and values stay on their device."""
        both = pair(2, 2, 5, seed=18)
        result = feed(student.KVCache(7, window=4), both, [3, 2], elsewhere)[-1]
        for came in result:
            assert_device(came, elsewhere)
        assert_close(result, both)

    @check(hint="Join them into new tensors.")
    def test_arguments_are_left_alone(self, student: Student, device: torch.device) -> None:
        """Keys and values that go in are the same after the call as before."""
        both = pair(1, 2, 5, seed=15)
        given = [*part(both, 0, 3), *part(both, 3, 5)]
        seen, after = student.run(update_and_arguments, *on(device, *(tensor.clone() for tensor in given)))
        assert_close(seen, both)
        assert_close(after, tuple(given), rtol=0.0, atol=0.0)

    @check(hint="Compare the numbers of positions before anything is stored.")
    def test_refuses_keys_without_values(self, student: Student, device: torch.device) -> None:
        """Keys and values of different numbers of positions are refused and leave no trace."""
        both = pair(2, 2, 5, seed=16)
        cache = student.KVCache(9)
        feed(cache, part(both, 0, 3), [3], device)
        keys, values = on(device, *both)
        bad = [(keys[:, :, 3:5], values[:, :, 3:4]), (keys[:, :, 3:4], values[:, :, 3:5])]
        assert_close([int(kind == "ValueError") for kind in student.run(refused_updates, cache, bad)], [1, 1])
        assert_close(cache.update(keys[:, :, 3:5], values[:, :, 3:5]), both)

    @check(hint="Raise ValueError for a capacity or a window below one, and only then.")
    def test_refuses_no_room(self, student: Student, device: torch.device) -> None:
        """A cache needs room for one position, and a window shows at least one."""
        both = pair(1, 1, 1, seed=17)
        assert_close(feed(student.KVCache(1, window=1), both, [1], device)[0], both)
        for capacity, window in ((0, None), (-2, None), (3, 0), (3, -1)):
            with student_raises(ValueError):
                student.KVCache(capacity, window=window)


# --- CausalSelfAttention -----------------------------------------------------------------------------------------

MHA = {"d_model": 10, "n_heads": 3, "d_head": 4}
MHA_WEIGHTS = attention_weights(10, 3, 3, 4, seed=20)


def through_chunks(layer: Remote, cache: Remote, x: Tensor, sizes: list[int], device: torch.device) -> list[Any]:
    return [layer(chunk.to(device), cache) for chunk in x.split(sizes, dim=1)]


@task("CausalSelfAttention")
class TestCausalSelfAttention:
    def layer(self, student: Student, device: torch.device, window: int | None = None) -> Remote:
        return make_layer(student, "CausalSelfAttention", MHA_WEIGHTS, device, **MHA, window=window)

    @check(hint="Turn queries and keys, mask, softmax over the keys divided by the root of d_head, join.", weight=2)
    def test_whole_text(self, student: Student, device: torch.device) -> None:
        """Without a cache, the outputs are those of causal attention with rotary positions."""
        # no mask, no root or root of d_model, values turned, nothing turned, heads read as (d_head, n_heads)
        x = noise(2, 7, 10, seed=30)
        assert_close(self.layer(student, device)(x.to(device)), attention(MHA_WEIGHTS, x, 3, 3))

    @check(hint="One new query sees all that the cache holds. Where does is_causal put its triangle?", weight=2)
    def test_one_step(self, student: Student, device: torch.device) -> None:
        """A single new position attends to everything in the cache and to itself."""
        # is_causal=True shows key 0 only; the cache left aside; the position taken for 0
        x, held = noise(2, 1, 10, seed=31), pair(2, 3, 6, seed=32, key_dim=4, value_dim=4)
        cache = make_cache(student, device, held=held, length=6)
        expected = attention(MHA_WEIGHTS, x, 3, 3, held=held, start=6)
        assert_close(self.layer(student, device)(x.to(device), cache), expected)

    @check(hint="With n queries and m keys, the last query belongs to the last key.", weight=2)
    def test_chunk(self, student: Student, device: torch.device) -> None:
        """A chunk after a prefix attends to the prefix, and causally within itself."""
        # the triangle in the upper left corner, or none at all in the chunk
        x, held = noise(2, 3, 10, seed=33), pair(2, 3, 4, seed=34, key_dim=4, value_dim=4)
        cache = make_cache(student, device, held=held, length=4)
        expected = attention(MHA_WEIGHTS, x, 3, 3, held=held, start=4)
        assert_close(self.layer(student, device)(x.to(device), cache), expected)

    @check(hint="A key is turned by its own position, once, before it is kept; a value is not turned.", weight=2)
    def test_what_is_cached(self, student: Student, device: torch.device) -> None:
        """The cache gets the turned keys and the plain values of the new positions."""
        # keys kept unturned, turned from position 0 on, queries kept, all heads flattened
        x = noise(2, 3, 10, seed=35)
        cache = make_cache(student, device, held=pair(2, 3, 5, seed=36, key_dim=4, value_dim=4), length=5)
        self.layer(student, device)(x.to(device), cache)
        received = fetch(cache.received)
        assert_close(len(received), 1)
        assert_close(received[0], new_keys(MHA_WEIGHTS, x, 3, start=5))

    @check(hint="Compare with the whole text at once: which is the first position that differs?", weight=2)
    def test_chunks_equal_the_whole(self, student: Student, device: torch.device) -> None:
        """In uneven chunks through a cache, every position gets the output that it gets in the whole text."""
        x = noise(2, 9, 10, seed=37)
        parts = through_chunks(self.layer(student, device), make_cache(student, device), x, [3, 1, 4, 1], device)
        for result, expected in zip(parts, attention(MHA_WEIGHTS, x, 3, 3).split([3, 1, 4, 1], dim=1), strict=True):
            assert_close(result, expected)

    @check(hint="A query sees itself and window - 1 positions before it: two diagonals bound the mask.", weight=2)
    def test_window(self, student: Student, device: torch.device) -> None:
        """With a window, the outputs of a whole text come from the latest positions only."""
        # one diagonal too many or too few; the window left out without a cache
        x = noise(2, 8, 10, seed=38)
        for window in (1, 3, 20):
            expected = attention(MHA_WEIGHTS, x, 3, 3, window=window)
            assert_close(self.layer(student, device, window=window)(x.to(device)), expected)

    @check(hint="Within a chunk, early and late queries do not see the same part of what comes back.")
    def test_window_and_chunks(self, student: Student, device: torch.device) -> None:
        """With a window and a cache, in uneven chunks, nothing differs from the whole text."""
        x, sizes = noise(2, 11, 10, seed=39), [5, 1, 1, 3, 1]
        layer, cache = self.layer(student, device, window=4), make_cache(student, device, window=4)
        whole = attention(MHA_WEIGHTS, x, 3, 3, window=4).split(sizes, dim=1)
        for result, expected in zip(through_chunks(layer, cache, x, sizes, device), whole, strict=True):
            assert_close(result, expected)

    @check(hint="The position of a token is the length of the cache, not the number of keys that it holds.")
    def test_position_after_dropping(self, student: Student, device: torch.device) -> None:
        """A token far out in a text has its true position, although most of the text has been dropped."""
        x, held = noise(2, 2, 10, seed=40), pair(2, 3, 3, seed=41, key_dim=4, value_dim=4)
        cache = make_cache(student, device, held=held, length=50, window=4)
        expected = attention(MHA_WEIGHTS, x, 3, 3, held=held, start=50, window=4)
        assert_close(self.layer(student, device, window=4)(x.to(device), cache), expected)

    @check(hint="Work with whole tensors: no row of the batch may see another.")
    def test_rows(self, student: Student, device: torch.device) -> None:
        """Each row of a batch gets what it would get alone, and so does a text of one position."""
        x, held = noise(3, 1, 10, seed=42), pair(3, 3, 2, seed=43, key_dim=4, value_dim=4)
        layer = self.layer(student, device)
        together = layer(x.to(device), make_cache(student, device, held=held, length=2))
        assert_close(together, attention(MHA_WEIGHTS, x, 3, 3, held=held, start=2))
        assert_close(layer(x.to(device)), attention(MHA_WEIGHTS, x, 3, 3))

    @check(hint="Large scores are no trouble for a softmax that subtracts the largest one first.")
    def test_large_scores(self, student: Student, device: torch.device) -> None:
        """Scores in the thousands leave the outputs finite and right."""
        x = 40 * noise(2, 5, 10, seed=44)
        assert_close(self.layer(student, device)(x.to(device)), attention(MHA_WEIGHTS, x, 3, 3), rtol=1e-6)

    @check(hint="Projecting one position and comparing one query: nothing else may depend on the prefix.")
    def test_work_of_a_step(self, student: Student, device: torch.device) -> None:
        """The work of a step grows with the prefix by its attention alone, and its value is right."""
        # Per earlier position, two products with 2 heads of 4 cost 32 FLOPs. Masks, copies and a softmax are counted
        # by elements and add some 8 for each pass over the keys; 25 passes are allowed. Projecting the prefix anew
        # costs 2 * 96 * 8 * 2 = 3,072.
        weights = attention_weights(96, 2, 2, 4, seed=45)
        layer = make_layer(student, "CausalSelfAttention", weights, device, d_model=96, n_heads=2, d_head=4)
        x, flops = noise(1, 1, 96, seed=46), []
        for prefix in (20, 220):
            held = pair(1, 2, prefix, seed=47, key_dim=4, value_dim=4)
            cache = make_cache(student, device, held=held, length=prefix)
            output, work = student.run(output_and_work, layer, x.to(device), cache)
            assert_close(output, attention(weights, x, 2, 2, held=held, start=prefix))
            flops.append(_count(work))
        if not 0 < flops[1] - flops[0] < 200 * (32 + 200):
            raise CheckFailure("a step after a long prefix does more work than attention needs", str(flops))

    @check(hint="A layer must stay inside torch: no numpy, no .item(), no .detach(), no torch.no_grad().")
    def test_gradient(self, student: Student, device: torch.device) -> None:
        """The layer can be trained: gradients reach the input and all four matrices."""
        x, upstream = noise(2, 4, 10, seed=48), noise(2, 4, 10, seed=49)
        found = student.run(
            gradients_of_a_layer, self.layer(student, device), list(MHA_WEIGHTS), *on(device, x, upstream)
        )
        leaves = {name: weight.clone().requires_grad_() for name, weight in MHA_WEIGHTS.items()}
        x.requires_grad_()
        expected = torch.autograd.grad((attention(leaves, x, 3, 3) * upstream).sum(), [x, *leaves.values()])
        assert_close(found, list(expected))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The outputs are right and have the dtype of the input."""
        weights = {name: weight.to(dtype) for name, weight in MHA_WEIGHTS.items()}
        layer = make_layer(student, "CausalSelfAttention", weights, device, **MHA)
        x = noise(2, 5, 10, seed=50)
        result = layer(x.to(device, dtype))
        assert_dtype(result, dtype)
        assert_close(result, attention(MHA_WEIGHTS, x, 3, 3).to(dtype), atol=2e-5 if dtype == torch.float32 else None)

    @check(hint="Make new tensors on the device of the arguments: device=x.device, or x.new_zeros(...).")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """On another device the outputs are right and stay there, without a cache, and with a window and a cache."""
        x, held = noise(2, 3, 10, seed=52), pair(2, 3, 3, seed=53, key_dim=4, value_dim=4)
        whole = self.layer(student, elsewhere)(x.to(elsewhere))
        assert_device(whole, elsewhere)
        assert_close(whole, attention(MHA_WEIGHTS, x, 3, 3))
        cache = make_cache(student, elsewhere, held=held, length=5, window=4)
        later = self.layer(student, elsewhere, window=4)(x.to(elsewhere), cache)
        assert_device(later, elsewhere)
        assert_close(later, attention(MHA_WEIGHTS, x, 3, 3, held=held, start=5, window=4))

    @check(hint="Work on new tensors.")
    def test_argument_is_left_alone(self, student: Student, device: torch.device) -> None:
        """The input is the same after the call as before."""
        x = noise(2, 4, 10, seed=51)
        output, after = student.run(output_and_argument, self.layer(student, device), x.clone().to(device))
        assert_close(output, attention(MHA_WEIGHTS, x, 3, 3))
        assert_close(after, x, rtol=0.0, atol=0.0)


def _count(work: Any) -> int:
    if type(work) is not int:
        raise CheckFailure("no count of the work came")
    return work


# --- generate ----------------------------------------------------------------------------------------------------


@probe
def running_sum_model(ns, embedding, mixing, rolls):
    class RunningSums:
        def __init__(self):
            self.n_layers, self.computed = len(mixing), 0

        def __call__(self, tokens, caches):
            new = tokens.shape[1]
            self.computed += new
            x = embedding[tokens]
            for matrix, cache in zip(mixing, caches, strict=False):
                messages, _ = cache.update((x @ matrix)[:, None], x[:, None])
                x = torch.tanh(x + messages.cumsum(2)[:, 0, -new:] / 2)
            return torch.roll(x @ embedding.T - 5, self.computed * rolls, dims=2)

    return RunningSums()


VOCABULARY = 11
EMBEDDING = noise(VOCABULARY, 6, seed=60)
MIXING = noise(3, 6, 6, seed=61)
NEW_CACHE = partial(stand_in_cache, None, None, None, None, 0)


def continued(tokens: Tensor, n: int, layers: int, rolls: int = 0) -> Tensor:
    """What the model writes, computed from scratch for each token; `rolls` shifts the logits for each position done."""
    for _ in range(n):
        x = EMBEDDING[tokens]
        for matrix in MIXING[:layers]:
            x = torch.tanh(x + (x @ matrix).cumsum(1) / 2)
        best = (x[:, -1] @ EMBEDDING.T).argmax(1)
        tokens = torch.cat([tokens, ((best + rolls * tokens.shape[1]) % VOCABULARY)[:, None]], dim=1)
    return tokens


def prompts(rows: int, positions: int, seed: int) -> Tensor:
    return torch.randint(VOCABULARY, (rows, positions), generator=torch.Generator().manual_seed(seed))


@probe
def generated_and_argument(ns, model, tokens, n, new_cache):
    result = ns.generate(model, tokens, n, new_cache)
    return result, tokens


@task("generate")
class TestGenerate:
    def model(self, student: Student, device: torch.device, layers: int = 2, rolls: int = 0) -> Remote:
        embedding, mixing = on(device, EMBEDDING, MIXING[:layers])
        return _object(student.run(running_sum_model, embedding, mixing, rolls))

    @check(hint="The logits of the last position, the largest of them, and that token alone goes in next.", weight=2)
    def test_one_text(self, student: Student, device: torch.device) -> None:
        """A text goes on with the most likely token, again and again."""
        # logits of position 0, the smallest logit, the prompt put through the caches twice
        tokens = prompts(1, 5, seed=62)
        result = student.generate(self.model(student, device), tokens.to(device), 12, NEW_CACHE)
        assert_close(result, continued(tokens, 12, 2))

    @check(hint="All rows go together, and each gets the best token of its own logits.", weight=2)
    def test_several_texts(self, student: Student, device: torch.device) -> None:
        """Several texts at once are continued as each of them would be alone."""
        # argmax over the whole batch, or over the rows
        tokens = prompts(4, 3, seed=63)
        result = student.generate(self.model(student, device), tokens.to(device), 8, NEW_CACHE)
        assert_close(result, continued(tokens, 8, 2))

    @check(hint="How many positions go through the model in all? Each of them once, each new token alone.", weight=3)
    def test_every_position_once(self, student: Student, device: torch.device) -> None:
        """Every position goes through the model once, so that a model that counts them says the expected."""
        # The model shifts its logits by the number of positions it has computed, in whatever chunks: who gives it the
        # whole text again at each step, with new caches, gets other tokens.
        tokens = prompts(2, 4, seed=64)
        result = student.generate(self.model(student, device, rolls=1), tokens.to(device), 7, NEW_CACHE)
        assert_close(result, continued(tokens, 7, 2, rolls=1))

    @check(hint="One cache for each layer, each one made anew: multiplying a list repeats the same object.", weight=2)
    def test_layers(self, student: Student, device: torch.device) -> None:
        """Models of one and of three layers get as many caches, none of them shared."""
        for layers in (1, 3):
            tokens = prompts(2, 3, seed=65 + layers)
            model = self.model(student, device, layers=layers)
            result = student.generate(model, tokens.to(device), 9, NEW_CACHE)
            assert_close(result, continued(tokens, 9, layers))

    @check(hint="Every call starts with empty caches.")
    def test_two_calls(self, student: Student, device: torch.device) -> None:
        """A second text starts afresh, and the same text gives the same again."""
        model = self.model(student, device)
        for seed in (70, 71, 70):
            tokens = prompts(1, 4, seed=seed)
            assert_close(student.generate(model, tokens.to(device), 6, NEW_CACHE), continued(tokens, 6, 2))

    @check(hint="n tokens are added to the prompt, which stays in front.")
    def test_few_tokens(self, student: Student, device: torch.device) -> None:
        """Nought and one token more, after prompts of one position and of several."""
        for positions, n in ((1, 0), (1, 1), (1, 5), (6, 0), (6, 1)):
            tokens = prompts(3, positions, seed=72)
            result = student.generate(self.model(student, device), tokens.to(device), n, NEW_CACHE)
            assert_close(result, continued(tokens, n, 2))

    @check(hint="Tokens are int64, prompts and new ones in one tensor of shape (batch, positions + n).")
    def test_dtype_and_shape(self, student: Student, device: torch.device) -> None:
        """The texts come as one tensor of whole numbers."""
        tokens = prompts(5, 2, seed=73)
        result = student.generate(self.model(student, device), tokens.to(device), 3, NEW_CACHE)
        assert_shape(result, (5, 5))
        assert_dtype(result, torch.int64)
        assert_close(result, continued(tokens, 3, 2))

    @check(hint="Make new tensors on the device of the arguments: device=x.device, or x.new_zeros(...).")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """The texts stay on the device of the prompts."""
        tokens = prompts(2, 3, seed=76)
        result = student.generate(self.model(student, elsewhere), tokens.to(elsewhere), 4, NEW_CACHE)
        assert_device(result, elsewhere)
        assert_close(result, continued(tokens, 4, 2))

    @check(hint="Join into a new tensor.")
    def test_argument_is_left_alone(self, student: Student, device: torch.device) -> None:
        """The prompts are the same after the call as before."""
        tokens = prompts(2, 4, seed=74)
        model = self.model(student, device)
        result, after = student.run(generated_and_argument, model, tokens.clone().to(device), 3, NEW_CACHE)
        assert_close(result, continued(tokens, 3, 2))
        assert_close(after, tokens)

    @check(hint="Raise ValueError for a negative n and for prompts without a position, and only then.")
    def test_refuses_nothing_to_do(self, student: Student, device: torch.device) -> None:
        """A negative number of tokens and an empty prompt are refused, no tokens at all are not."""
        model, tokens = self.model(student, device), prompts(2, 3, seed=75)
        assert_close(student.generate(model, tokens.to(device), 0, NEW_CACHE), tokens)
        with student_raises(ValueError):
            student.generate(model, tokens.to(device), -1, NEW_CACHE)
        for n in (2, 0):
            with student_raises(ValueError):
                student.generate(model, tokens[:, :0].to(device), n, NEW_CACHE)


# --- repeat_kv and GroupedQueryAttention -------------------------------------------------------------------------

GQA = {"d_model": 10, "n_heads": 6, "n_groups": 2, "d_head": 4}
GQA_WEIGHTS = attention_weights(10, 6, 2, 4, seed=80)


@task("GroupedQueryAttention")
class TestGroupedQueryAttention:
    def layer(self, student: Student, device: torch.device) -> Remote:
        return make_layer(student, "GroupedQueryAttention", GQA_WEIGHTS, device, **GQA)

    @check(hint="Neighbouring query heads read the same head: 0, 0, 0, 1, 1, 1 and not 0, 1, 0, 1, 0, 1.", weight=2)
    def test_repeat(self, student: Student, device: torch.device) -> None:
        """Each head of keys stands in a row as often as it is read."""
        # Tensor.repeat gives heads 0 1 0 1 0 1; another axis another shape
        x = noise(3, 2, 5, 4, seed=90)
        expected = torch.stack([x[:, 0], x[:, 0], x[:, 0], x[:, 1], x[:, 1], x[:, 1]], dim=1)
        assert_close(student.repeat_kv(x.to(device), 3), expected)

    @check(hint="Any number of groups, any number of times, once included; the dtype stays.")
    def test_repeat_other_sizes(self, student: Student, device: torch.device) -> None:
        """Heads that are read once stay as they are, and a single head can be read by many."""
        x = noise(2, 3, 1, 7, seed=91).to(torch.float32)
        for times, order in ((1, [0, 1, 2]), (2, [0, 0, 1, 1, 2, 2])):
            result = student.repeat_kv(x.to(device), times)
            assert_dtype(result, torch.float32)
            assert_close(result, x[:, order])
        assert_close(student.repeat_kv(x[:, :1].to(device), 5), x[:, [0] * 5])

    @check(hint="Which query heads read which head of keys, and how many are in a group?", weight=2)
    def test_whole_text(self, student: Student, device: torch.device) -> None:
        """Six query heads in two groups give what torch's grouped attention gives."""
        # heads in the order 0 1 0 1 0 1; two heads in three groups; no mask; no root; nothing turned
        x = noise(2, 7, 10, seed=92)
        assert_close(self.layer(student, device)(x.to(device)), attention(GQA_WEIGHTS, x, 6, 2))

    @check(hint="As many groups as heads is MHA, one group is MQA.", weight=2)
    def test_both_ends(self, student: Student, device: torch.device) -> None:
        """With a group for each head the layer is multi-head attention, with one group multi-query attention."""
        x = noise(2, 5, 9, seed=93)
        for groups in (4, 1):
            weights = attention_weights(9, 4, groups, 6, seed=94)
            sizes = {"d_model": 9, "n_heads": 4, "n_groups": groups, "d_head": 6}
            layer = make_layer(student, "GroupedQueryAttention", weights, device, **sizes)
            assert_close(layer(x.to(device)), attention(weights, x, 4, groups))

    @check(hint="What is cached are the heads of the groups, before they are repeated.", weight=2)
    def test_what_is_cached(self, student: Student, device: torch.device) -> None:
        """The cache gets one turned key and one value for each group and new position."""
        # repeated first, cached then: six heads; keys kept unturned
        x = noise(2, 3, 10, seed=95)
        cache = make_cache(student, device, held=pair(2, 2, 4, seed=96, key_dim=4, value_dim=4), length=4)
        self.layer(student, device)(x.to(device), cache)
        received = fetch(cache.received)
        assert_close(len(received), 1)
        assert_close(received[0], new_keys(GQA_WEIGHTS, x, 2, start=4))

    @check(hint="As in task 2: the position goes on from the cache, and the last query belongs to the last key.")
    def test_step_and_chunk(self, student: Student, device: torch.device) -> None:
        """New positions attend to all that the cache holds, and causally to each other."""
        # is_causal with one row, triangle in the wrong corner, positions from 0
        for new, before, seed in ((1, 5, 97), (3, 4, 98)):
            x, held = noise(2, new, 10, seed=seed), pair(2, 2, before, seed=seed + 10, key_dim=4, value_dim=4)
            cache = make_cache(student, device, held=held, length=before)
            expected = attention(GQA_WEIGHTS, x, 6, 2, held=held, start=before)
            assert_close(self.layer(student, device)(x.to(device), cache), expected)

    @check(hint="Compare with the whole text at once: which is the first position that differs?")
    def test_chunks_equal_the_whole(self, student: Student, device: torch.device) -> None:
        """In uneven chunks through a cache, every position gets the output that it gets in the whole text."""
        x, sizes = noise(3, 8, 10, seed=99), [2, 1, 4, 1]
        whole = attention(GQA_WEIGHTS, x, 6, 2).split(sizes, dim=1)
        parts = through_chunks(self.layer(student, device), make_cache(student, device), x, sizes, device)
        for result, expected in zip(parts, whole, strict=True):
            assert_close(result, expected)

    @check(hint="A layer must stay inside torch: no numpy, no .item(), no .detach(), no torch.no_grad().")
    def test_gradient(self, student: Student, device: torch.device) -> None:
        """The layer can be trained: a shared key collects the gradients of all heads that read it."""
        x, upstream = noise(2, 4, 10, seed=100), noise(2, 4, 10, seed=101)
        found = student.run(
            gradients_of_a_layer, self.layer(student, device), list(GQA_WEIGHTS), *on(device, x, upstream)
        )
        leaves = {name: weight.clone().requires_grad_() for name, weight in GQA_WEIGHTS.items()}
        x.requires_grad_()
        expected = torch.autograd.grad((attention(leaves, x, 6, 2) * upstream).sum(), [x, *leaves.values()])
        assert_close(found, list(expected))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The outputs are right and have the dtype of the input."""
        weights = {name: weight.to(dtype) for name, weight in GQA_WEIGHTS.items()}
        layer = make_layer(student, "GroupedQueryAttention", weights, device, **GQA)
        x = noise(2, 5, 10, seed=102)
        result = layer(x.to(device, dtype))
        assert_dtype(result, dtype)
        assert_close(result, attention(GQA_WEIGHTS, x, 6, 2).to(dtype), atol=2e-5 if dtype == torch.float32 else None)

    @check(hint="Make new tensors on the device of the arguments: device=x.device, or x.new_zeros(...).")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """On another device the outputs are right and stay there, with a cache too."""
        x, held = noise(2, 3, 10, seed=103), pair(2, 2, 4, seed=104, key_dim=4, value_dim=4)
        whole = self.layer(student, elsewhere)(x.to(elsewhere))
        later = self.layer(student, elsewhere)(x.to(elsewhere), make_cache(student, elsewhere, held=held, length=4))
        for result, expected in (
            (whole, attention(GQA_WEIGHTS, x, 6, 2)),
            (later, attention(GQA_WEIGHTS, x, 6, 2, held=held, start=4)),
        ):
            assert_device(result, elsewhere)
            assert_close(result, expected)

    @check(hint="Leave the constructor as it is: it refuses heads that do not form groups of one size.")
    def test_refuses_uneven_groups(self, student: Student, device: torch.device) -> None:
        """Heads that do not form groups of one size are refused, others give the right outputs."""
        x = noise(1, 3, 10, seed=105)
        assert_close(self.layer(student, device)(x.to(device)), attention(GQA_WEIGHTS, x, 6, 2))
        for groups in (4, 0, -2):
            with student_raises(ValueError):
                student.GroupedQueryAttention(**(GQA | {"n_groups": groups}))


# --- pool_heads --------------------------------------------------------------------------------------------------


def pooled(weight: Tensor, n_heads: int, n_groups: int) -> Tensor:
    """The mean over neighbouring heads, head by head."""
    heads = weight.chunk(n_heads)
    size = n_heads // n_groups
    return torch.cat([sum(heads[g * size : (g + 1) * size]) / size for g in range(n_groups)])


@probe
def pooled_and_argument(ns, weight, n_heads, n_groups):
    result = ns.pool_heads(weight, n_heads, n_groups)
    return result, weight


@task("pool_heads")
class TestPoolHeads:
    @check(hint="Neighbouring heads form a group, and their mean takes their place.", weight=2)
    def test_two_groups_of_three(self, student: Student, device: torch.device) -> None:
        """Six heads become two, each the mean of three neighbours."""
        # the sum, every second head, groups of two, single rows pooled
        weight = noise(6 * 4, 5, seed=110)
        assert_close(student.pool_heads(weight.to(device), 6, 2), pooled(weight, 6, 2))

    @check(hint="The number of groups is not their size.", weight=2)
    def test_four_groups_of_two(self, student: Student, device: torch.device) -> None:
        """Eight heads in four groups leave four heads, whatever the size of a head."""
        for d_head in (1, 3):
            weight = noise(8 * d_head, 7, seed=111)
            assert_close(student.pool_heads(weight.to(device), 8, 4), pooled(weight, 8, 4))

    @check(hint="If the heads of a group agree, their mean is each of them.", weight=2)
    def test_heads_that_agree(self, student: Student, device: torch.device) -> None:
        """Where the heads of each group agree, pooling gives one of them, and nothing is lost."""
        # the sum is three times as much; features of a head mixed
        heads = noise(2, 4, 5, seed=112)
        weight = torch.cat([heads[0], heads[0], heads[0], heads[1], heads[1], heads[1]])
        assert_close(student.pool_heads(weight.to(device), 6, 2), heads.flatten(0, 1))

    @check(hint="One group takes the mean of all heads, as many groups as heads change nothing.")
    def test_both_ends(self, student: Student, device: torch.device) -> None:
        """One group pools all heads, and a group for each head leaves the matrix as it is."""
        weight = noise(3 * 5, 4, seed=113)
        assert_close(student.pool_heads(weight.to(device), 3, 1), weight.reshape(3, 5, 4).mean(0))
        assert_close(student.pool_heads(weight.to(device), 3, 3), weight)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The matrix is right and has the dtype of the one that was given."""
        weight = noise(4 * 3, 6, seed=114)
        result = student.pool_heads(weight.to(device, dtype), 4, 2)
        assert_dtype(result, dtype)
        assert_close(result, pooled(weight, 4, 2).to(dtype))

    @check(hint="Make new tensors on the device of the arguments: device=x.device, or x.new_zeros(...).")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """The pooled matrix stays on the device of the one that was given."""
        weight = noise(6 * 2, 5, seed=117)
        result = student.pool_heads(weight.to(elsewhere), 6, 2)
        assert_device(result, elsewhere)
        assert_close(result, pooled(weight, 6, 2))

    @check(hint="Work on a copy, or on new tensors.")
    def test_argument_is_left_alone(self, student: Student, device: torch.device) -> None:
        """The matrix that was given is the same after the call as before."""
        weight = noise(4 * 3, 5, seed=115)
        result, after = student.run(pooled_and_argument, weight.clone().to(device), 4, 2)
        assert_close(result, pooled(weight, 4, 2))
        assert_close(after, weight, rtol=0.0, atol=0.0)

    @check(hint="Raise ValueError if rows do not split into heads, or heads into groups, and only then.")
    def test_refuses_what_does_not_divide(self, student: Student, device: torch.device) -> None:
        """Rows that do not split into heads, and heads that do not split into groups, are refused."""
        weight = noise(12, 5, seed=116)
        assert_close(student.pool_heads(weight.to(device), 6, 3), pooled(weight, 6, 3))
        # 12 rows: 5 heads; 6 heads in 4 groups, in 12, in none; 8 heads in 4 groups, which 12 / 4 rows might hide
        for n_heads, n_groups in ((5, 1), (6, 4), (6, 12), (6, 0), (8, 4)):
            with student_raises(ValueError):
                student.pool_heads(weight.to(device), n_heads, n_groups)


# --- MultiHeadLatentAttention ------------------------------------------------------------------------------------

MLA = {"d_model": 10, "n_heads": 3, "d_head": 4, "d_latent": 5, "d_rotary": 6}


def latent_weights(seed: int, d_model: int, n_heads: int, d_head: int, d_latent: int, d_rotary: int) -> dict[str, Any]:
    shapes = {
        "q_proj": (n_heads * d_head, d_model),
        "q_rotary": (n_heads * d_rotary, d_model),
        "kv_down": (d_latent, d_model),
        "k_up": (n_heads * d_head, d_latent),
        "v_up": (n_heads * d_head, d_latent),
        "k_rotary": (d_rotary, d_model),
        "o_proj": (d_model, n_heads * d_head),
    }
    return {name: 0.6 * noise(*shape, seed=seed + i) for i, (name, shape) in enumerate(shapes.items())}


MLA_WEIGHTS = latent_weights(120, **MLA)


def new_latents(weights: dict[str, Tensor], x: Tensor, start: int = 0) -> Pair:
    """What a latent layer puts into its cache for the positions x."""
    return (x @ weights["kv_down"].T)[:, None], turned(x @ weights["k_rotary"].T, start)[:, None]


def latent_attention(
    weights: dict[str, Tensor], x: Tensor, n_heads: int, *, held: Pair | None = None, start: int = 0
) -> Tensor:
    """Multi-head latent attention, one head after the other, keys and values unpacked."""
    latent, rotary = new_latents(weights, x, start)
    if held is not None:
        latent, rotary = torch.cat([held[0], latent], 2), torch.cat([held[1], rotary], 2)
    found = []
    for i in range(n_heads):
        content, own, up_k, up_v = (weights[name].chunk(n_heads)[i] for name in ("q_proj", "q_rotary", "k_up", "v_up"))
        q = torch.cat([x @ content.T, turned(x @ own.T, start)], dim=-1)[:, None]
        k = torch.cat([latent @ up_k.T, rotary], dim=-1)
        found.append(attend(q, k, latent @ up_v.T)[:, 0])
    return torch.cat(found, dim=-1) @ weights["o_proj"].T


def latents(rows: int, positions: int, seed: int) -> Pair:
    return noise(rows, 1, positions, 5, seed=seed), noise(rows, 1, positions, 6, seed=seed + 500)


@task("MultiHeadLatentAttention")
class TestMultiHeadLatentAttention:
    def layer(self, student: Student, device: torch.device) -> Remote:
        return make_layer(student, "MultiHeadLatentAttention", MLA_WEIGHTS, device, **MLA)

    @check(hint="Content part and rotary part together make the score, over the root of both lengths.", weight=2)
    def test_whole_text(self, student: Student, device: torch.device) -> None:
        """Without a cache, the outputs are those of latent attention with a decoupled rotary key."""
        # rotary part forgotten; root of d_head, of d_latent or none; content turned too; rotary part not turned
        x = noise(2, 7, 10, seed=130)
        assert_close(self.layer(student, device)(x.to(device)), latent_attention(MLA_WEIGHTS, x, 3))

    @check(hint="In the place of keys the latents, in the place of values the turned rotary key, no more.", weight=3)
    def test_what_is_cached(self, student: Student, device: torch.device) -> None:
        """The cache gets the latent and the turned rotary key of each new position, and nothing else."""
        # unpacked keys and values cached; the rotary key unturned, turned from 0 on, or once for each head
        x = noise(2, 3, 10, seed=131)
        cache = make_cache(student, device, held=latents(2, 4, seed=132), length=4)
        self.layer(student, device)(x.to(device), cache)
        received = fetch(cache.received)
        assert_close(len(received), 1)
        assert_close(received[0], new_latents(MLA_WEIGHTS, x, start=4))

    @check(hint="Keys and values of earlier positions come from the latents that the cache gives back.", weight=2)
    def test_one_step(self, student: Student, device: torch.device) -> None:
        """A single new position attends to what the latents in the cache stand for."""
        # the cache left aside; is_causal with one row; the position taken for 0
        x, held = noise(2, 1, 10, seed=133), latents(2, 6, seed=134)
        cache = make_cache(student, device, held=held, length=6)
        expected = latent_attention(MLA_WEIGHTS, x, 3, held=held, start=6)
        assert_close(self.layer(student, device)(x.to(device), cache), expected)

    @check(hint="With n queries and m keys, the last query belongs to the last key.", weight=2)
    def test_chunk(self, student: Student, device: torch.device) -> None:
        """A chunk after a prefix attends to the prefix, and causally within itself."""
        x, held = noise(3, 4, 10, seed=135), latents(3, 2, seed=136)
        cache = make_cache(student, device, held=held, length=2)
        expected = latent_attention(MLA_WEIGHTS, x, 3, held=held, start=2)
        assert_close(self.layer(student, device)(x.to(device), cache), expected)

    @check(hint="The position of a token is the length of the cache, not the number of latents that it holds.")
    def test_position_after_dropping(self, student: Student, device: torch.device) -> None:
        """A token far out in a text has its true position, whatever the cache still holds."""
        x, held = noise(2, 2, 10, seed=137), latents(2, 3, seed=138)
        cache = make_cache(student, device, held=held, length=70)
        expected = latent_attention(MLA_WEIGHTS, x, 3, held=held, start=70)
        assert_close(self.layer(student, device)(x.to(device), cache), expected)

    @check(hint="Compare with the whole text at once: which is the first position that differs?", weight=2)
    def test_chunks_equal_the_whole(self, student: Student, device: torch.device) -> None:
        """In uneven chunks through a cache, every position gets the output that it gets in the whole text."""
        x, sizes = noise(2, 8, 10, seed=139), [3, 1, 3, 1]
        whole = latent_attention(MLA_WEIGHTS, x, 3).split(sizes, dim=1)
        parts = through_chunks(self.layer(student, device), make_cache(student, device), x, sizes, device)
        for result, expected in zip(parts, whole, strict=True):
            assert_close(result, expected)

    @check(hint="Sizes are independent of each other: the latent may be wider than all heads together.")
    def test_wide_latent(self, student: Student, device: torch.device) -> None:
        """A latent wider than all heads together, and two heads with a long rotary part, change nothing."""
        sizes = {"d_model": 7, "n_heads": 2, "d_head": 3, "d_latent": 9, "d_rotary": 8}
        weights = latent_weights(140, **sizes)
        x = noise(3, 5, 7, seed=150)
        layer = make_layer(student, "MultiHeadLatentAttention", weights, device, **sizes)
        assert_close(layer(x.to(device)), latent_attention(weights, x, 2))

    @check(hint="A layer must stay inside torch: no numpy, no .item(), no .detach(), no torch.no_grad().")
    def test_gradient(self, student: Student, device: torch.device) -> None:
        """The layer can be trained: gradients reach the input and all seven matrices."""
        x, upstream = noise(2, 4, 10, seed=151), noise(2, 4, 10, seed=152)
        found = student.run(
            gradients_of_a_layer, self.layer(student, device), list(MLA_WEIGHTS), *on(device, x, upstream)
        )
        leaves = {name: weight.clone().requires_grad_() for name, weight in MLA_WEIGHTS.items()}
        x.requires_grad_()
        expected = torch.autograd.grad((latent_attention(leaves, x, 3) * upstream).sum(), [x, *leaves.values()])
        assert_close(found, list(expected))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The outputs are right and have the dtype of the input."""
        weights = {name: weight.to(dtype) for name, weight in MLA_WEIGHTS.items()}
        layer = make_layer(student, "MultiHeadLatentAttention", weights, device, **MLA)
        x = noise(2, 5, 10, seed=153)
        result = layer(x.to(device, dtype))
        assert_dtype(result, dtype)
        assert_close(
            result, latent_attention(MLA_WEIGHTS, x, 3).to(dtype), atol=2e-5 if dtype == torch.float32 else None
        )

    @check(hint="Make new tensors on the device of the arguments: device=x.device, or x.new_zeros(...).")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """On another device the outputs are right and stay there, with a cache too."""
        x, held = noise(2, 3, 10, seed=154), latents(2, 4, seed=155)
        whole = self.layer(student, elsewhere)(x.to(elsewhere))
        later = self.layer(student, elsewhere)(x.to(elsewhere), make_cache(student, elsewhere, held=held, length=4))
        for result, expected in (
            (whole, latent_attention(MLA_WEIGHTS, x, 3)),
            (later, latent_attention(MLA_WEIGHTS, x, 3, held=held, start=4)),
        ):
            assert_device(result, elsewhere)
            assert_close(result, expected)


# --- absorbed_attention ------------------------------------------------------------------------------------------


def unpacked(
    q_content: Tensor, q_rotary: Tensor, latent: Tensor, rotary_key: Tensor, k_up: Tensor, v_up: Tensor
) -> Tensor:
    """The naive form, one head after the other."""
    found = []
    for i in range(q_content.shape[1]):
        up_k, up_v = k_up.chunk(q_content.shape[1])[i], v_up.chunk(q_content.shape[1])[i]
        q = torch.cat([q_content[:, i], q_rotary[:, i]], dim=-1)[:, None]
        k = torch.cat([latent @ up_k.T, rotary_key], dim=-1)[:, None]
        found.append(attend(q, k, (latent @ up_v.T)[:, None])[:, 0])
    return torch.stack(found, dim=1)


def absorbed_inputs(
    rows: int,
    new: int,
    positions: int,
    seed: int,
    *,
    heads: int = 3,
    d_head: int = 4,
    d_latent: int = 5,
    d_rotary: int = 6,
) -> list[Tensor]:
    shapes = (
        (rows, heads, new, d_head),
        (rows, heads, new, d_rotary),
        (rows, positions, d_latent),
        (rows, positions, d_rotary),
        (heads * d_head, d_latent),
        (heads * d_head, d_latent),
    )
    return [noise(*shape, seed=seed + i) for i, shape in enumerate(shapes)]


@probe
def absorbed_and_arguments(ns, *arguments):
    result = ns.absorbed_attention(*arguments)
    return result, list(arguments)


@probe
def absorbed_and_work(ns, count, *arguments):
    return count(ns, ns.absorbed_attention, *arguments)


@task("absorbed_attention")
class TestAbsorbedAttention:
    @check(hint="Each head takes its own rows of W^UK to its query, and of W^UV to its weighted latent.", weight=2)
    def test_one_step(self, student: Student, device: torch.device) -> None:
        """A single query per head finds what the naive form finds."""
        # root of d_latent + d_rotary, of d_head, of d_latent, or none; rotary part forgotten; k_up and v_up swapped
        arguments = absorbed_inputs(2, 1, 7, seed=160)
        assert_close(student.absorbed_attention(*on(device, *arguments)), unpacked(*arguments))

    @check(hint="The queries are the last of the positions: the triangle sits in the lower right corner.", weight=2)
    def test_chunk(self, student: Student, device: torch.device) -> None:
        """Several queries after a prefix see the prefix, and each other causally, as in the naive form."""
        # no mask, or the triangle in the upper left corner
        arguments = absorbed_inputs(2, 3, 8, seed=170)
        assert_close(student.absorbed_attention(*on(device, *arguments)), unpacked(*arguments))

    @check(hint="As many queries as positions: the whole text at once.")
    def test_whole_text(self, student: Student, device: torch.device) -> None:
        """A whole text at once gives what the naive form gives, and so does a single position."""
        for positions, seed in ((6, 180), (1, 190)):
            arguments = absorbed_inputs(3, positions, positions, seed=seed)
            assert_close(student.absorbed_attention(*on(device, *arguments)), unpacked(*arguments))

    @check(
        hint="Does your code multiply a matrix with the latents before the query does? Bracket the other way.", weight=3
    )
    def test_keys_are_never_formed(self, student: Student, device: torch.device) -> None:
        """A feature of the latent that no query reads may be as large as it likes."""
        # In feature 0 the latents are 2^600 large, and two rows of W^UK in each head are +-2^500 there: a key would be
        # 2^1100, beyond float64, and the score inf - inf. The content of each query is the same along the two rows,
        # so absorbed it reads exactly 0 there. W^UV does not read the feature either.
        q_content, q_rotary, latent, rotary_key, k_up, v_up = absorbed_inputs(2, 2, 40, seed=200)
        q_content[..., 1] = q_content[..., 0]
        for matrix in (k_up, v_up):
            matrix[:, 0] = 0.0
        small = latent.clone()
        small[..., 0] = 0.0
        expected = unpacked(q_content, q_rotary, small, rotary_key, k_up, v_up)
        latent[..., 0] = 2.0**600
        k_up[0::4, 0], k_up[1::4, 0] = 2.0**500, -(2.0**500)
        found = student.absorbed_attention(*on(device, q_content, q_rotary, latent, rotary_key, k_up, v_up))
        assert_close(found, expected)

    @check(hint="First the weighted sum of the latents, then one matrix for each head.", weight=2)
    def test_values_are_never_formed(self, student: Student, device: torch.device) -> None:
        """A latent that stands for infinite values counts by its tiny weight."""
        # Position 0 has a rotary score 600 below the others, so its weight is near e^-600 = 2.7e-261. Its latent is
        # 1e250 in feature 0, and W^UV is 1e60 there in the first row of each head: a value would be 1e310, infinite.
        # Weight times latent is some 1e-11 and the result some 1e49, in that row alone.
        q_content, q_rotary, latent, rotary_key, k_up, v_up = absorbed_inputs(2, 1, 40, seed=210)
        q_rotary[...] = torch.tensor([1.0, 0, 0, 0, 0, 0])
        rotary_key[:, 0] = torch.tensor([-600.0 * math.sqrt(10), 0, 0, 0, 0, 0])
        k_up[:, 0] = v_up[:, 0] = 0.0
        latent[..., 0] = 0.0
        plain = unpacked(q_content, q_rotary, latent, rotary_key, k_up, v_up)
        scores = torch.einsum("bhd,hdc,bkc->bhk", q_content[:, :, 0], k_up.reshape(3, 4, 5), latent)
        scores = (scores + torch.einsum("bhr,bkr->bhk", q_rotary[:, :, 0], rotary_key)) / math.sqrt(10)
        weight = torch.exp(scores[..., 0] - scores.logsumexp(2))
        latent[:, 0, 0], v_up[0::4, 0] = 1e250, 1e60
        found = student.absorbed_attention(*on(device, q_content, q_rotary, latent, rotary_key, k_up, v_up))
        assert_shape(found, (2, 3, 1, 4))
        assert_close(found[..., 1:], plain[..., 1:])
        assert_close(found[:, :, 0, 0] / 1e49, weight * 1e250 * 1e11, rtol=1e-6, atol=0.0)

    @check(hint="Content and rotary part add up before the softmax, over one root.")
    def test_other_sizes(self, student: Student, device: torch.device) -> None:
        """Wide latents, short heads and long rotary parts change nothing."""
        for seed, sizes in ((220, (2, 3, 9, 8)), (230, (4, 5, 2, 2))):
            heads, d_head, d_latent, d_rotary = sizes
            arguments = absorbed_inputs(
                3, 2, 5, seed=seed, heads=heads, d_head=d_head, d_latent=d_latent, d_rotary=d_rotary
            )
            assert_close(student.absorbed_attention(*on(device, *arguments)), unpacked(*arguments))

    @check(hint="What is computed for each cached position? One product with its latent for a score, one for the sum.")
    def test_work_of_a_step(self, student: Student, device: torch.device) -> None:
        """The work for one more cached position is that of reading its latent, and the value is right."""
        # Absorbed, 4 heads cost 4 * 2 * (2 * 32 + 4) = 544 FLOPs for a position; as much again twice is allowed, for
        # masks, copies and the softmax, which are counted by elements. Unpacking costs 4 * 4 * 32 * 32 = 16,384 more.
        sizes, flops = {"heads": 4, "d_head": 32, "d_latent": 32, "d_rotary": 4}, []
        for positions in (20, 120):
            arguments = absorbed_inputs(1, 1, positions, seed=240, **sizes)
            found, work = student.run(absorbed_and_work, output_and_work, *on(device, *arguments))
            assert_close(found, unpacked(*arguments))
            flops.append(_count(work))
        if not 0 < flops[1] - flops[0] < 100 * 3 * 544:
            raise CheckFailure("one more cached position costs more than reading its latent", str(flops))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The result is right and has the dtype of the arguments."""
        arguments = absorbed_inputs(2, 2, 5, seed=250)
        found = student.absorbed_attention(*(argument.to(device, dtype) for argument in arguments))
        assert_dtype(found, dtype)
        assert_close(found, unpacked(*arguments).to(dtype), atol=5e-5 if dtype == torch.float32 else None)

    @check(hint="Make new tensors on the device of the arguments: device=x.device, or x.new_zeros(...).")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """On another device the result is right and stays there."""
        arguments = absorbed_inputs(2, 3, 5, seed=270)
        found = student.absorbed_attention(*on(elsewhere, *arguments))
        assert_device(found, elsewhere)
        assert_close(found, unpacked(*arguments))

    @check(hint="Work on new tensors.")
    def test_arguments_are_left_alone(self, student: Student, device: torch.device) -> None:
        """All six arguments are the same after the call as before."""
        arguments = absorbed_inputs(2, 2, 5, seed=260)
        found, after = student.run(absorbed_and_arguments, *on(device, *(argument.clone() for argument in arguments)))
        assert_close(found, unpacked(*arguments))
        assert_close(after, arguments, rtol=0.0, atol=0.0)


# --- kv_cache_elements -------------------------------------------------------------------------------------------

GPT2_SMALL = {"n_layers": 12, "n_heads": 12, "d_head": 64}  # Radford et al. 2019, table 2, and its released sizes
LLAMA2_7B = {"n_layers": 32, "n_heads": 32, "d_head": 128}  # Touvron et al. 2023, by LLaMA 7B
LLAMA2_70B = {"n_layers": 80, "n_heads": 64, "n_groups": 8, "d_head": 128}
MISTRAL_7B = {"n_layers": 32, "n_heads": 32, "n_groups": 8, "d_head": 128}  # Jiang et al. 2023, table 1
DEEPSEEK_V2 = {"n_layers": 60, "n_heads": 128, "d_head": 128, "d_latent": 512, "d_rotary": 64}  # section 3.1.2


@task("kv_cache_elements")
class TestKvCacheElements:
    @check(hint="A key and a value for each head, in every layer.", weight=2)
    def test_multi_head(self, student: Student) -> None:
        """The caches of GPT-2 small and of Llama 2 7B have the published sizes."""
        # without the 2 half of it; without the layers a twelfth
        assert_close(student.kv_cache_elements("mha", **GPT2_SMALL), 73_728 // 4)
        assert_close(student.kv_cache_elements("mha", **LLAMA2_7B), 524_288 // 2)

    @check(hint="It is the number of groups that counts, not the size of a group.", weight=2)
    def test_grouped(self, student: Student) -> None:
        """The caches of Mistral 7B and of Llama 2 70B have the published sizes."""
        # Mistral: the size of a group, 4, gives half; all 32 heads give four times as much
        assert_close(student.kv_cache_elements("gqa", **MISTRAL_7B), 65_536)
        assert_close(student.kv_cache_elements("gqa", **LLAMA2_70B), 327_680 // 2)
        assert_close(student.kv_cache_elements("gqa", n_layers=95, n_groups=8, d_head=128), 194_560)

    @check(hint="One key and one value for all heads.")
    def test_multi_query(self, student: Student) -> None:
        """Multi-query attention keeps one key and one value in each layer, whatever the number of heads."""
        assert_close(student.kv_cache_elements("mqa", n_layers=5, d_head=48), 480)
        assert_close(student.kv_cache_elements("mqa", **MISTRAL_7B), 8_192)

    @check(hint="The latent and the rotary key: one of each, and neither of them twice.", weight=2)
    def test_latent(self, student: Student) -> None:
        """The cache of DeepSeek-V2 has the published size, and its own MHA would need 57 times as much."""
        # the 2 of keys and values 69,120; the rotary key forgotten 30,720; one for each head 522,240
        assert_close(student.kv_cache_elements("mla", **DEEPSEEK_V2), 34_560)
        assert_close(student.kv_cache_elements("mha", **DEEPSEEK_V2), 1_966_080)
        assert_close(student.kv_cache_elements("mla", n_layers=3, d_latent=7, d_rotary=4), 33)

    @check(hint="The two ends of GQA: a group for each head, and one group for all.")
    def test_ends_of_grouping(self, student: Student) -> None:
        """With a group for each head GQA costs what MHA costs, with one group what MQA costs."""
        sizes = {"n_layers": 7, "n_heads": 12, "d_head": 40}
        assert_close(student.kv_cache_elements("gqa", n_groups=12, **sizes), 6_720)
        assert_close(student.kv_cache_elements("gqa", n_groups=1, **sizes), 560)
        assert_close(student.kv_cache_elements("gqa", n_groups=3, **sizes), 1_680)

    @check(hint="Elements times positions times texts times bits, and eight bits to a byte.", weight=2)
    def test_bytes(self, student: Student) -> None:
        """A full context of Llama 2 takes the memory that is known; so do other texts, batches and precisions."""
        assert_close(student.kv_cache_bytes(262_144, positions=4096), 2 * 2**30)
        assert_close(student.kv_cache_bytes(163_840, positions=4096), 5 * 2**28)
        assert_close(student.kv_cache_bytes(18_432, positions=1, bits=32), 73_728)
        assert_close(student.kv_cache_bytes(34_560, positions=10, batch=3, bits=6), 777_600)

    @check(hint="There is no fraction of a byte: round up.")
    def test_whole_bytes(self, student: Student) -> None:
        """Bits that do not fill a byte take one all the same."""
        # rounding down 3, and 4 for each element apart; rounding each text up gives more
        assert_close(student.kv_cache_bytes(5, positions=1, bits=6), 4)
        assert_close(student.kv_cache_bytes(3, positions=1, batch=7, bits=3), 8)
        assert_close(student.kv_cache_bytes(4, positions=2, bits=6), 6)

    @check(hint="Python's whole numbers are exact however large they are; a division by / is not.")
    def test_exact_integers(self, student: Student) -> None:
        """Results are whole numbers, exact also where a float would not be."""
        for result, expected in (
            (student.kv_cache_elements("mla", **DEEPSEEK_V2), 34_560),
            (student.kv_cache_bytes(10**9 + 1, positions=10**7 + 1, bits=24), 3 * (10**9 + 1) * (10**7 + 1)),
        ):
            if type(result) is not int:
                raise CheckFailure(f"a value of type {type(result).__name__} came; a whole number was expected")
            if result != expected:  # not assert_close, which compares in float64
                raise CheckFailure("the value is not the expected one", f"came: {result}, expected: {expected}")

    @check(hint="Raise ValueError for a kind that does not exist and for a size that is missing, and only then.")
    def test_refuses_what_is_missing(self, student: Student) -> None:
        """A kind that there is not, and sizes that are missing, are refused; sizes of no use are not."""
        assert_close(student.kv_cache_elements("mqa", **DEEPSEEK_V2), 15_360)
        for kind, sizes in (
            ("mhla", DEEPSEEK_V2),
            ("mha", {"n_layers": 4, "n_groups": 2, "d_head": 8}),
            ("mha", {"n_layers": 4, "n_heads": 2}),
            ("gqa", GPT2_SMALL),
            ("gqa", {"n_layers": 4, "n_groups": 2}),
            ("mqa", {"n_layers": 4, "n_heads": 2}),
            ("mla", LLAMA2_70B),
            ("mla", {"n_layers": 4, "d_latent": 16}),
            ("mla", {"n_layers": 4, "d_rotary": 16}),
        ):
            with student_raises(ValueError):
                student.kv_cache_elements(kind, **sizes)

    @check(hint="Heads that do not form groups of one size are refused.")
    def test_refuses_uneven_groups(self, student: Student) -> None:
        """Twelve heads do not form five groups, but they form six."""
        sizes = {"n_layers": 2, "n_heads": 12, "d_head": 3}
        assert_close(student.kv_cache_elements("gqa", n_groups=6, **sizes), 72)
        with student_raises(ValueError):
            student.kv_cache_elements("gqa", n_groups=5, **sizes)
