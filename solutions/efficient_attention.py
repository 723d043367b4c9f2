# %% [markdown]
# # KV cache, MQA, GQA and MLA
#
# A language model writes one token at a time, and every new token looks back at all the earlier ones. Written down
# naively, the thousandth token costs more than a thousand times what the first one did, although 999 of the 1,000
# positions have not changed. This notebook takes out the waste, and then pays for it:
#
# - the **KV cache** keeps what earlier positions have already computed, so that a step computes one position;
# - the cache then fills the memory of the machine, so **MQA** and **GQA** let heads share keys and values;
# - **MLA** (DeepSeek-V2) gives every head keys and values of its own but compresses them, and **weight absorption**
#   reads the compressed cache without ever unpacking it.
#
# All of these are *exact* or *architectural*. A cache must not change a single output: *cached equals uncached* is an
# identity you can test to the last digits, and you will. Sharing and compressing do change the model, and there the
# question is what a token costs.
#
# **Conventions.** They hold in all eight tasks.
#
# - Queries, keys and values have the shape (batch, heads, positions, dim). Positions count from 0.
# - An attention layer is a `torch.nn.Module` whose `__init__` is given. Its matrices are `nn.Linear` without bias; the
#   docstring lists their names and shapes, and your `forward` uses these and no others. There is no dropout.
# - Where one row of a weight matrix belongs to one feature of one head, the rows of head 0 come first, then those of
#   head 1, and so on.
# - Attention is causal, and its weights are $\operatorname{softmax}(q^\top k / \sqrt{d})$ with $d$ the length of
#   what is multiplied (Vaswani et al. 2017, "Attention is all you need", eq. 1).
# - Results have the dtype and the device of the arguments, and the arguments are left as they were. The outputs of a
#   layer are differentiable: layers are trained, too.
# - Work is counted in floating-point operations (**FLOPs**), a multiplication and an addition being two, and memory in
#   **elements** (numbers). Neither depends on the machine; seconds do.
# - Any function of `torch` may be used, `F.scaled_dot_product_attention` included.
#
# **How to work.** The tasks take about 3 hours and 35 minutes together. Each has a cell for your answer, a cell of
# checks that you see, and a demo that draws what your code does. The points of a task are shared out among further
# checks, which you do not see. Checks and demos raise an error until their task is solved, and many use earlier tasks
# too, so run the cells one at a time and *Run All* at the end. A notebook with unsolved tasks can be handed in: it is
# graded task by task. Keep `expect.py` beside the notebook.

# %%
import math
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Protocol

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from expect import expect_close

# %% [markdown]
# Three helpers first. One makes the linear maps that all layers are built of, one sets weights by hand, for checks that
# you can follow on paper, and one counts FLOPs with PyTorch's own counter. That counter watches the kernels that run,
# and it knows those of a GPU better than those of a CPU: the fused attention kernel of the CPU is not on its list, and
# it would count **zero** for it. So we tell it: $n_q$ queries against $n_k$ keys cost $2 n_q n_k d_k$ for the scores
# and $2 n_q n_k d_v$ for the weighted sum, in every head. Always try a counter on a case that you can count by hand.


# %%
def with_weights(layer: nn.Module, **weights: list[list[float]]) -> nn.Module:
    """Set the named weight matrices of a layer, and return the layer."""
    with torch.no_grad():
        for name, weight in weights.items():
            getattr(layer, name).weight.copy_(torch.tensor(weight))
    return layer


def matrix(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer without bias: its weight has the shape (outputs, inputs)."""
    return nn.Linear(inputs, outputs, bias=False)


def count_flops(function: Callable, *arguments: object) -> int:
    """FLOPs of the matrix products and of the attention in one call of a function."""

    def of_attention(query: Tensor, key: Tensor, value: Tensor, *_: object, out_val: Tensor, **__: object) -> int:
        return 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])

    of_attention._get_raw = True  # hand over the tensors, not their shapes
    kernels = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        function(*arguments)
    return counter.get_total_flops()


# %% [markdown]
# ## 1 · Keep what does not change
#
# In causal attention, position $t$ sees positions $0, \dots, t$ and nothing later. So nothing that happens later can
# change its key $k_t$ and its value $v_t$: once computed, they can be kept. The query $q_t$ is different. It is used
# once, by position $t$ itself, and never again, which is why there is a KV cache and no Q cache.
#
# A cache serves two phases (Pope et al. 2022, "Efficiently scaling transformer inference"). In the **prefill** the
# prompt goes through, whole or in chunks, and the cache fills with many positions at once. Then, in **decoding**, each
# step brings one. Both are one operation: take the keys and values of the new positions, and give back all that the
# new queries may look at.
#
# Memory is finite, so a cache has a **capacity**. One way to live with that is a **sliding window** (Jiang et al. 2023,
# "Mistral 7B", section 2): a query sees itself and the $w - 1$ positions before it, nothing older. What no later query
# can see need not be kept: between calls $w - 1$ positions are enough for a text of any length, and room for what a
# call brings is needed on top. (That paper counts in two ways: positions "between $i - W$ and $i$" are $W + 1$, while
# the caption of its figure 1 has "at most $W$ tokens". Here a window of $w$ is $w$ positions, the query's own
# included.)
#
# Mind the order of events when a whole chunk arrives. Its *first* query still looks back $w - 1$ positions, its last
# one sees mostly the chunk itself. First give back, then forget.
#
# **Task 1 · `KVCache` · 3 points · 30 minutes**


# %% task="KVCache"
class KVCache:
    """Keys and values of earlier positions, for one attention layer.

    Attributes:
        capacity: How many positions one call of `update` may give back at most.
        window: How many positions a query sees, itself included; None means all.
        length: Number of positions that have come since the start, dropped ones included. It is also the position of
            the next token.
        keys: The keys that are held, shape (batch, heads, held, key dim); None as long as nothing has come.
        values: The values that are held, shape (batch, heads, held, value dim); None as long as nothing has come.
    """

    def __init__(self, capacity: int, window: int | None = None) -> None:
        """Make an empty cache.

        Raises:
            ValueError: capacity or window is less than 1.
        """
        ### BEGIN SOLUTION
        if capacity < 1 or (window is not None and window < 1):
            raise ValueError("a cache needs room for a position, and a query sees at least itself")
        self.capacity, self.window = capacity, window
        self.reset()
        ### END SOLUTION

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take in new positions and give back all that their queries may look at.

        Args:
            keys: Keys of the new positions, shape (batch, heads, new, key dim).
            values: Their values, shape (batch, heads, new, value dim). The two dims may differ.

        Returns:
            Keys and values of the earlier positions that the first of the new queries can see, followed by the new
            ones, in the order of positions. Without a window these are all positions so far; with one, at most
            window - 1 earlier ones come before the new.

            Afterwards the cache holds what the next query can see: without a window all positions, with one the
            latest window - 1 of them, or fewer if fewer have come.

        Raises:
            ValueError: keys and values have different numbers of positions, or more positions would come back than
                the capacity. The cache is then as it was before the call.
        """
        ### BEGIN SOLUTION
        new = keys.shape[2]
        if values.shape[2] != new:
            raise ValueError(f"{new} keys came with {values.shape[2]} values")
        if self.keys is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        if keys.shape[2] > self.capacity:
            raise ValueError(f"{keys.shape[2]} positions do not fit into a capacity of {self.capacity}")
        self.length += new
        self.keys, self.values = keys, values
        if self.window is not None and keys.shape[2] >= self.window:
            first = keys.shape[2] - self.window + 1
            self.keys, self.values = keys[:, :, first:], values[:, :, first:]
        return keys, values
        ### END SOLUTION

    def reset(self) -> None:
        """Forget everything: the next position is position 0 again."""
        ### BEGIN SOLUTION
        self.keys = self.values = None
        self.length = 0
        ### END SOLUTION


# %% checks="KVCache" points=3
def numbered(first: int, last: int) -> tuple[Tensor, Tensor]:
    """Keys and values of the positions first to last, one head: key t and value -t at position t."""
    positions = torch.arange(first, last + 1.0).reshape(1, 1, -1, 1)
    return positions, -positions


cache = KVCache(capacity=6)
cache.update(*numbered(0, 3))
seen_keys, seen_values = cache.update(*numbered(4, 4))
expect_close(seen_keys.flatten(), [0, 1, 2, 3, 4], "After a prompt of four, the fifth query sees five keys, in order.")
expect_close(seen_values.flatten(), [0, -1, -2, -3, -4], "Values stay in step with their keys.")
try:
    cache.update(*numbered(5, 6))
except ValueError:
    print("ok: Two more do not fit into a capacity of six, and a ValueError says so.")
else:
    raise AssertionError("Seven positions came back from a cache with room for six; ValueError was asked for.")
expect_close(cache.length, 5, "What was refused has left no trace: the next position is still 5.")

sliding = KVCache(capacity=6, window=3)
sliding.update(*numbered(0, 3))
seen_keys, seen_values = sliding.update(*numbered(4, 6))
expect_close(seen_keys.flatten(), [2, 3, 4, 5, 6], "With a window of three, query 4 sees 2, 3 and 4; query 6 needs 4.")
expect_close(sliding.keys.flatten(), [5, 6], "The next query, 7, will see 5, 6 and itself.")
expect_close(sliding.length, 7, "Seven positions have come, though two are held.")
sliding.reset()
expect_close(sliding.length, 0, "After a reset the next position is 0 again.")
expect_close(sliding.update(*numbered(0, 1))[0].flatten(), [0, 1], "And nothing is left of the text before.")
alone = KVCache(capacity=2, window=1)
alone.update(*numbered(0, 1))
expect_close(alone.update(*numbered(2, 2))[0].flatten(), [2], "With a window of one, a query sees itself alone.")

# %% [markdown]
# Below, a prompt of ten positions arrives in chunks of four, four and two, then six single tokens follow. Each row is
# one call of your `update`: dark is what came in, light what came back with it from the cache. On the left the rows
# grow forever. On the right the window is five: every query finds its four predecessors, and the light part never
# grows beyond them. The rows of the chunks are longer than five, because a chunk is several queries, each with a window
# of its own.

# %% tags=["demo"]
chunks = [4, 4, 2, 1, 1, 1, 1, 1, 1]

figure, both = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
for axes, window in zip(both, [None, 5], strict=True):
    cache, table, first = KVCache(capacity=16, window=window), torch.zeros(len(chunks), sum(chunks)), 0
    for row, size in enumerate(chunks):
        seen, _ = cache.update(*numbered(first, first + size - 1))
        table[row, seen.flatten().long()] = 0.4
        table[row, first : first + size] = 1.0
        first += size
    axes.pcolormesh(table, cmap="Blues", vmin=0, vmax=1.2, edgecolors="white", linewidth=1)
    axes.set(xlabel="position", title="no window" if window is None else f"window of {window}")
    axes.set_xticks([t + 0.5 for t in range(0, 16, 3)], range(0, 16, 3))
    axes.set_yticks([row + 0.5 for row in range(len(chunks))], range(1, len(chunks) + 1))
both[0].set_ylabel("call of update")
both[0].invert_yaxis()
plt.show()

# %% [markdown]
# ## 2 · Attention that remembers
#
# Attention itself does not know what comes first. Positions enter through the **rotary embedding** (Su et al. 2021,
# "RoFormer", section 3.2.2), which cuts queries and keys into pairs of numbers and turns each pair by an angle that
# grows with the position:
#
# $$R_t \begin{pmatrix} x_{2i} \\ x_{2i+1} \end{pmatrix} =
# \begin{pmatrix} \cos t\theta_i & -\sin t\theta_i \\ \sin t\theta_i & \cos t\theta_i \end{pmatrix}
# \begin{pmatrix} x_{2i} \\ x_{2i+1} \end{pmatrix}, \qquad \theta_i = 10000^{-2i/d}$$
#
# Two rotations undo each other up to their difference, $(R_s q)^\top (R_t k) = q^\top R_{t-s}\, k$, so a score depends
# on how far apart two positions are and not on where they stand. Values are not turned. The function is given.


# %%
def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding of vectors, in pairs of neighbouring features.

    Args:
        x: Vectors, shape (..., positions, dim), dim even.
        positions: The position of each vector, counted from 0, shape (positions,), on the device of x.

    Returns:
        The turned vectors, shape and dtype of x.
    """
    dim = x.shape[-1]
    frequencies = 10000.0 ** (-torch.arange(0, dim, 2, device=x.device, dtype=torch.float64) / dim)
    angles = positions[:, None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


# %% [markdown]
# Layers and caches meet in two things only, `length` and `update`. Your `KVCache` has both, and so may other caches: a
# layer that asks for nothing else works with all of them.


# %%
class Cache(Protocol):
    """What a layer may ask of a cache."""

    length: int

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take in new positions and give back all that their queries may look at."""
        ...


# %% [markdown]
# Put into a layer, the cache brings three questions that an attention without memory never had to ask.
#
# - *Where am I?* The new positions do not start at 0 but where the last call ended.
# - *What is kept, $k_t$ or $R_t k_t$?* A key is turned by its own position, which will not change any more. So it is
#   turned once, and kept turned.
# - *Who may see whom?* With $n$ new queries and $m \ge n$ keys the mask is not square. The *last* query belongs to the
#   last key, so the triangle sits in the lower **right** corner. The option `is_causal=True` of
#   `F.scaled_dot_product_attention` puts it into the upper **left** one, whatever the sizes: a single new query would
#   see key 0 and nothing else.
#
# With a window of $w$, query $s$ sees key $t$ where $0 \le s - t < w$, with a cache or without. Then
#
# $$\text{one call on the whole text} \;=\; \text{any chunks through a cache, one after the other}$$
#
# is an identity, at every position, up to rounding.
#
# **Task 2 · `CausalSelfAttention` · 3 points · 40 minutes**


# %% task="CausalSelfAttention"
class CausalSelfAttention(nn.Module):
    """Multi-head causal self-attention with rotary embedding, with or without a cache.

    Attributes:
        q_proj, k_proj, v_proj: `nn.Linear` with weights of shape (n_heads * d_head, d_model).
        o_proj: `nn.Linear` with a weight of shape (d_model, n_heads * d_head), applied to the joined heads.
        n_heads, d_head: As given.
        window: How many positions a query sees, itself included; None means itself and all earlier ones.
    """

    def __init__(self, d_model: int, n_heads: int, d_head: int, window: int | None = None) -> None:
        super().__init__()
        self.n_heads, self.d_head, self.window = n_heads, d_head, window
        self.q_proj = matrix(d_model, n_heads * d_head)
        self.k_proj = matrix(d_model, n_heads * d_head)
        self.v_proj = matrix(d_model, n_heads * d_head)
        self.o_proj = matrix(n_heads * d_head, d_model)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Attend from new positions to themselves and to what the cache holds.

        Args:
            x: The new positions, shape (batch, new, d_model).
            cache: None, and x starts at position 0. Or a cache, and x goes on at position `cache.length`. Its `update`
                is called once, with the turned keys and the values of the new positions. If the layer has a window, the
                cache has the same.

        Returns:
            Outputs of the new positions, shape (batch, new, d_model).
        """
        ### BEGIN SOLUTION
        new = x.shape[1]
        positions = torch.arange(new, device=x.device)
        if cache is not None:
            positions += cache.length
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (project(x).unflatten(2, (self.n_heads, self.d_head)).permute(0, 2, 1, 3) for project in projections)
        q, k = rotate(q, positions), rotate(k, positions)
        if cache is not None:
            k, v = cache.update(k, v)
        earlier = k.shape[2] - new
        mask = torch.ones(new, earlier + new, dtype=torch.bool, device=x.device).tril(earlier)
        if self.window is not None:
            mask = mask.triu(earlier - self.window + 1)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(heads.permute(0, 2, 1, 3).flatten(2))
        ### END SOLUTION


# %% checks="CausalSelfAttention" points=3
def waves(rows: int, columns: int, start: int) -> list[list[float]]:
    """A matrix of numbers from -1 to 1 without any pattern to rely on."""
    return torch.sin(torch.arange(start, start + rows * columns).double() ** 2).reshape(rows, columns).tolist()


one_way, other_way, nothing = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]
averaging = {"q_proj": nothing, "k_proj": one_way, "v_proj": one_way, "o_proj": one_way}
text = torch.tensor([[[2.0, 1.0], [4.0, 0.0], [9.0, 5.0], [1.0, 6.0]]])

plain = with_weights(CausalSelfAttention(2, 1, 2), **averaging)
means = [[[2.0, 1.0], [3.0, 0.5], [5.0, 2.0], [4.0, 3.0]]]
expect_close(
    plain(text), means, "Queries of zero weigh all keys alike: each output is the mean of what was seen so far."
)
cache = KVCache(capacity=4)
steps = [plain(part, cache) for part in text.split([2, 1, 1], dim=1)]
expect_close(torch.cat(steps, dim=1), means, "Two positions, then one, then one, through a cache: the same means.")

short = with_weights(CausalSelfAttention(2, 1, 2, window=2), **averaging)
means = [[[2.0, 1.0], [3.0, 0.5], [6.5, 2.5], [5.0, 5.5]]]
expect_close(short(text), means, "With a window of two, each output is the mean of two neighbours.")
cache = KVCache(capacity=4, window=2)
steps = [short(part, cache) for part in text.split([2, 1, 1], dim=1)]
expect_close(torch.cat(steps, dim=1), means, "The same means, through a cache with that window.")

matrices = {name: waves(4, 4, 16 * i) for i, name in enumerate(("q_proj", "k_proj", "v_proj", "o_proj"))}
turning = with_weights(CausalSelfAttention(4, 2, 2), **matrices)
steep = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]])
expect_close(
    turning(steep)[0, 1:],
    [[-0.4278, 0.3590, 0.0483, -0.4717], [-0.2499, -0.0135, -0.1203, -0.0039]],
    "Queries that matter: now the scale, the rotation of queries and keys, and the order of the heads count.",
)

torch.manual_seed(0)
layer, text = CausalSelfAttention(12, 3, 4), torch.randn(2, 7, 12)
cache = KVCache(capacity=7)
parts = [layer(part, cache) for part in text.split([3, 2, 1, 1], dim=1)]
expect_close(
    torch.cat(parts, dim=1), layer(text), "Random weights, two rows, chunks of 3, 2, 1 and 1: cached equals uncached."
)

# %% [markdown]
# Feed the layer with unit vectors, make $W^V$ and $W^O$ the identity, and the output *is* the table of attention
# weights. On the left, each row is a query and sums to one; to the right of the diagonal there is nothing. In the
# middle, the same weights with a window of six.
#
# On the right is the reason for it all, counted: the FLOPs of *one more position* after a prefix. Without a cache the
# layer computes the whole prefix again. With a cache it projects one position and compares one query with the keys, and
# only that last part grows: $4 d$ FLOPs in every head for each earlier position, one product for the score and one for
# the sum.

# %% tags=["demo"]
torch.manual_seed(1)
length = 24
maps = []
for window in (None, 6):
    layer = CausalSelfAttention(length, 1, length, window=window)
    with torch.no_grad():
        layer.q_proj.weight.copy_(2 * torch.randn(length, length, generator=torch.Generator().manual_seed(2)))
        layer.k_proj.weight.copy_(torch.randn(length, length, generator=torch.Generator().manual_seed(3)))
        layer.v_proj.weight.copy_(torch.eye(length))
        layer.o_proj.weight.copy_(torch.eye(length))
        maps.append(layer(torch.eye(length)[None])[0])

layer, prefixes = CausalSelfAttention(64, 4, 16), [0, 32, 64, 128, 192, 256, 384, 512]
again, cached = [], []
for prefix in prefixes:
    text = torch.randn(1, prefix + 1, 64)
    cache = KVCache(capacity=prefix + 1)
    if prefix:
        layer(text[:, :-1], cache)
    again.append(count_flops(layer, text))
    cached.append(count_flops(layer, text[:, -1:], cache))

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
for axes, weights, title in ((left, maps[0], "attention weights"), (middle, maps[1], "with a window of 6")):
    picture = axes.imshow(weights, cmap="viridis", vmin=0, vmax=1)
    axes.set(xlabel="key position", ylabel="query position", title=title)
figure.colorbar(picture, ax=middle, label="weight", shrink=0.85)
right.plot(prefixes, again, marker=".", label="without a cache")
right.plot(prefixes, cached, marker=".", label="with a cache")
right.set(yscale="log", xlabel="positions before (prefix)", ylabel="FLOPs for one more position")
right.set_title("4 heads of 16, d_model = 64")
right.legend()
plt.show()

# %% [markdown]
# ## 3 · Writing text, one position per step
#
# A model has many attention layers, and each needs a cache of **its own**: keys of layer 0 mean nothing to layer 1.
# Below is a small language model of the usual kind (Radford et al. 2019, GPT-2: normalise, attend, add; normalise,
# multilayer perceptron, add). It hands the caches to its layers and is otherwise untouched by them.


# %%
class TinyGPT(nn.Module):
    """A small decoder-only transformer.

    Attributes:
        n_layers: Number of attention layers, and so of caches that it wants.
    """

    def __init__(self, vocabulary: int, d_model: int, n_layers: int, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.n_layers = n_layers
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.attentions = nn.ModuleList(attention() for _ in range(n_layers))
        self.before = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(n_layers))
        self.perceptrons = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(d_model), nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model)
            )
            for _ in range(n_layers)
        )
        self.head = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocabulary))

    def forward(self, tokens: Tensor, caches: list[Cache] | None = None) -> Tensor:
        """Logits of the next token after each position, shape (batch, new, vocabulary), for tokens (batch, new)."""
        x = self.embedding(tokens)
        for index, attention in enumerate(self.attentions):
            x = x + attention(self.before[index](x), None if caches is None else caches[index])
            x = x + self.perceptrons[index](x)
        return self.head(x)


# %% [markdown]
# To write, put the prompt through the model once; the logits of its *last* position are about the first new token.
# Choose it, put **it alone** through the model, and so on. Here the most likely token is always chosen, which is
# called *greedy* decoding. With a prompt of $p$ tokens and $n$ new ones, the model computes $p + n - 1$ positions in
# all: about the last token nobody asks any more. Without a cache they would be
# $p + (p + 1) + \dots + (p + n - 1)$.
#
# **Task 3 · `generate` · 2 points · 20 minutes**


# %% task="generate"
def generate(model: Callable, tokens: Tensor, n: int, new_cache: Callable[[], Cache]) -> Tensor:
    """Continue texts greedily, each by n tokens, and compute every position once.

    Args:
        model: Has a number `n_layers`, and is called as `model(tokens, caches)`. That takes the tokens of the next
            positions, shape (batch, new), and a list with one cache for each layer, adds these positions to the
            caches, and returns the logits of the next token after each of them, shape (batch, new, vocabulary).
            The first call of a text goes with empty caches. Every position goes through the model once and all rows go
            together: the prompt at once or in chunks, then one new position with each call. Whether the last new
            token goes through it too is up to you.
        tokens: The prompts, int64, shape (batch, positions), at least one position.
        n: Number of tokens to add, 0 or more.
        new_cache: Called without arguments, gives an empty cache with room enough.

    Returns:
        The prompts and the n new tokens behind each, int64, shape (batch, positions + n). A new token is the one with
        the largest logit.

    Raises:
        ValueError: n is negative, or the prompts have no position.
    """
    ### BEGIN SOLUTION
    if n < 0:
        raise ValueError(f"n is {n}; there is no taking tokens away")
    if tokens.shape[1] == 0:
        raise ValueError("there is no prompt to continue")
    caches = [new_cache() for _ in range(model.n_layers)]
    newest = tokens
    for _ in range(n):
        with torch.no_grad():
            logits = model(newest, caches)
        newest = logits[:, -1:].argmax(dim=-1)
        tokens = torch.cat([tokens, newest], dim=1)
    return tokens
    ### END SOLUTION


# %% checks="generate" points=2
class Fibonacci:
    """A model of one layer that predicts the sum of the last two tokens, modulo ten; it remembers by its cache."""

    n_layers = 1

    def __init__(self) -> None:
        self.positions_computed = 0

    def __call__(self, tokens: Tensor, caches: list[Cache]) -> Tensor:
        new = tokens.shape[1]
        self.positions_computed += new
        seen, _ = caches[0].update(tokens[:, None, :, None], tokens[:, None, :, None])
        seen = seen.flatten(1)
        sums = seen + F.pad(seen, (1, 0))[:, :-1]
        return F.one_hot(sums[:, -new:] % 10, num_classes=10).float()


model = Fibonacci()
written = generate(model, torch.tensor([[1, 1], [2, 1]]), 6, lambda: KVCache(capacity=8))
expect_close(
    written,
    [[1, 1, 2, 3, 5, 8, 3, 1], [2, 1, 3, 4, 7, 1, 8, 9]],
    "Two texts at once: Fibonacci's numbers modulo ten, and those of Lucas.",
)
assert model.positions_computed in (7, 8), (
    f"2 + 6 - 1 = 7 positions need computing, or one more for the last token. Yours came to {model.positions_computed}."
)
again = generate(model, torch.tensor([[5, 8, 3]]), 2, lambda: KVCache(capacity=5))
expect_close(again, [[5, 8, 3, 1, 4]], "A new text starts with empty caches.")

# %% [markdown]
# How much is saved when a small GPT continues a prompt of 64 tokens by 192? On the left is what each new token costs.
# The first one costs the same either way: it is the prefill. From then on the cached line lies some 60 to 250 times
# lower, and it rises only by the attention itself. On the right the totals. The text is the same, token for
# token, which the cell checks before it draws.

# %% tags=["demo"]
torch.manual_seed(0)
gpt = TinyGPT(50, 32, 2, lambda: CausalSelfAttention(32, 4, 8))
prompt, count = torch.randint(50, (1, 64)), 192
with_cache = generate(gpt, prompt, count, lambda: KVCache(capacity=256))
recomputed = prompt
for _ in range(count):
    with torch.no_grad():
        recomputed = torch.cat([recomputed, gpt(recomputed)[:, -1:].argmax(-1)], dim=1)
assert torch.equal(with_cache, recomputed)

numbers = [1, 2, 3, 16, 32, 64, 96, 128, 160, 192]
whole, step = [], []
for number in numbers:
    prefix = with_cache[:, : 63 + number]
    caches = [KVCache(capacity=256) for _ in range(gpt.n_layers)]
    if number > 1:
        gpt(prefix[:, :-1], caches)
    whole.append(count_flops(gpt, prefix))
    step.append(count_flops(gpt, prefix if number == 1 else prefix[:, -1:], caches))
totals = [
    sum(count_flops(gpt, with_cache[:, :end]) for end in range(64, 256)),
    count_flops(generate, gpt, prompt, count, lambda: KVCache(capacity=256)),
]

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.plot(numbers, whole, marker=".", label="without a cache")
left.plot(numbers, step, marker=".", label="with caches")
left.set(yscale="log", xlabel="number of the new token", ylabel="FLOPs for this token", title="Each token")
left.legend()
bars = right.bar(["without a cache", "with caches"], [total / 1e6 for total in totals], color=["C0", "C1"])
right.bar_label(bars, fmt="%.0f")
right.margins(y=0.1)
right.set(ylabel="million FLOPs", title="192 tokens after a prompt of 64, in all")
plt.show()

# %% [markdown]
# ## 4 · Fewer keys than queries
#
# The cache has moved the problem. Every decoding step now reads *all* of it from memory to do very little arithmetic
# with each number, so the step is as slow as the memory. Shazeer (2019, "Fast transformer decoding: one write-head is
# all you need") drew the consequence: keep many *query* heads, but let all of them read one head of keys and values.
# This is **multi-query attention**, MQA. It saves a factor $n_h$ and costs some quality. **Grouped-query attention**,
# GQA, lies between (Ainslie et al. 2023, "GQA", section 2.2): the $n_h$ query heads form $n_g$ groups of neighbours,
# and each group shares one head of keys and values.
#
# $$n_g = n_h: \text{ MHA} \qquad\qquad 1 < n_g < n_h: \text{ GQA} \qquad\qquad n_g = 1: \text{ MQA}$$
#
# With $n_h = 6$ and $n_g = 2$, query heads 0, 1, 2 read key head 0, and 3, 4, 5 read key head 1. So the key heads have
# to be lined up as 0, 0, 0, 1, 1, 1, each one repeated in place. The order 0, 1, 0, 1, 0, 1 has the same shape, raises
# no error, and gives two of the six heads the wrong keys.
#
# The cache holds the $n_g$ heads as they are, and repeating comes after it. Who repeats first and caches then has
# saved nothing.
#
# **Task 4 · `repeat_kv` and `GroupedQueryAttention` · 3 points · 30 minutes**


# %% task="GroupedQueryAttention"
def repeat_kv(x: Tensor, times: int) -> Tensor:
    """Line up heads of keys or values with the query heads that read them.

    Args:
        x: Keys or values, shape (batch, groups, positions, dim).
        times: How many neighbouring query heads read each of them, at least 1.

    Returns:
        Shape (batch, groups * times, positions, dim): each head `times` times in a row.
    """
    ### BEGIN SOLUTION
    return x.repeat_interleave(times, dim=1)
    ### END SOLUTION


class GroupedQueryAttention(nn.Module):
    """Causal self-attention with rotary embedding, in which groups of query heads share keys and values.

    Attributes:
        q_proj: `nn.Linear` with a weight of shape (n_heads * d_head, d_model).
        k_proj, v_proj: `nn.Linear` with weights of shape (n_groups * d_head, d_model).
        o_proj: `nn.Linear` with a weight of shape (d_model, n_heads * d_head), applied to the joined heads.
        n_heads, n_groups, d_head: As given. A ValueError says so if the heads do not form groups of one size.
    """

    def __init__(self, d_model: int, n_heads: int, n_groups: int, d_head: int) -> None:
        super().__init__()
        if n_groups < 1 or n_heads % n_groups:
            raise ValueError(f"{n_heads} query heads cannot form {n_groups} groups of one size")
        self.n_heads, self.n_groups, self.d_head = n_heads, n_groups, d_head
        self.q_proj = matrix(d_model, n_heads * d_head)
        self.k_proj = matrix(d_model, n_groups * d_head)
        self.v_proj = matrix(d_model, n_groups * d_head)
        self.o_proj = matrix(n_heads * d_head, d_model)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Attend from new positions to themselves and to what the cache holds.

        Args:
            x: The new positions, shape (batch, new, d_model).
            cache: None, and x starts at position 0. Or a cache, and x goes on at position `cache.length`. Its `update`
                is called once, with the turned keys and the values of the new positions, n_groups heads of each.

        Returns:
            Outputs of the new positions, shape (batch, new, d_model).
        """
        ### BEGIN SOLUTION
        new = x.shape[1]
        positions = torch.arange(new, device=x.device)
        if cache is not None:
            positions += cache.length
        q, k, v = (
            project(x).unflatten(2, (-1, self.d_head)).permute(0, 2, 1, 3)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, positions), rotate(k, positions)
        if cache is not None:
            k, v = cache.update(k, v)
        times = self.n_heads // self.n_groups
        k, v = repeat_kv(k, times), repeat_kv(v, times)
        mask = torch.ones(new, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - new)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(heads.permute(0, 2, 1, 3).flatten(2))
        ### END SOLUTION


# %% checks="GroupedQueryAttention" points=3
two_heads = torch.tensor([[[[1.0], [2.0]], [[5.0], [6.0]]]])
expect_close(
    repeat_kv(two_heads, 3)[0, :, :, 0],
    [[1, 2], [1, 2], [1, 2], [5, 6], [5, 6], [5, 6]],
    "Two heads for six queries: the first three times in a row, then the second.",
)

torch.manual_seed(0)
text = torch.randn(2, 6, 10)
grouped, multi_head = GroupedQueryAttention(10, 6, 2, 4), CausalSelfAttention(10, 6, 4)
multi_head.load_state_dict(
    grouped.state_dict()
    | {
        name: grouped.state_dict()[name].unflatten(0, (2, 4)).repeat_interleave(3, dim=0).flatten(0, 1)
        for name in ("k_proj.weight", "v_proj.weight")
    }
)
expect_close(
    grouped(text), multi_head(text), "GQA is the MHA (task 2) whose heads have equal keys and values in a group."
)
cache = KVCache(capacity=6)
parts = [grouped(part, cache) for part in text.split([4, 1, 1], dim=1)]
expect_close(torch.cat(parts, dim=1), grouped(text), "Cached equals uncached, after chunks of 4, 1 and 1.")
expect_close(cache.keys.shape, [2, 2, 6, 4], "The cache holds two heads, not six: (batch, groups, positions, d_head).")

# %% [markdown]
# On the left, your `repeat_kv` read as a map: which query head reads which key head, for eight query heads and four
# groups. On the right, eight query heads with more and more sharing, both curves relative to MHA: the elements that are
# in the cache after 256 positions, and the FLOPs of the next step. Memory falls in proportion to the groups. The
# arithmetic falls by 15% at most, and by less after a longer prefix: every query head is still compared with every
# position, and only the projections of new keys and values shrink. GQA is not a way to compute less. It is a way to
# *read* less, which is what a step waits for.

# %% tags=["demo"]
reads = repeat_kv(torch.eye(4)[None, :, None, :], 2)[0, :, 0]
groups, elements, flops = [8, 4, 2, 1], [], []
for n_groups in groups:
    layer, cache = GroupedQueryAttention(64, 8, n_groups, 8), KVCache(capacity=257)
    text = torch.randn(1, 257, 64)
    layer(text[:, :-1], cache)
    elements.append(cache.keys.numel() + cache.values.numel())
    flops.append(count_flops(layer, text[:, -1:], cache))

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.pcolormesh(reads, cmap="Blues", vmin=0, vmax=1.3, edgecolors="white", linewidth=2)
left.set_xticks([g + 0.5 for g in range(4)], range(4))
left.set_yticks([h + 0.5 for h in range(8)], range(8))
left.invert_yaxis()
left.set(xlabel="head of keys and values", ylabel="query head", title="Who reads what: 8 heads, 4 groups")
names = ["8\n(MHA)", "4", "2", "1\n(MQA)"]
right.plot(names, [count / elements[0] for count in elements], marker="o", label="elements in the cache")
right.plot(names, [count / flops[0] for count in flops], marker="s", label="FLOPs of the next step")
right.set(xlabel="groups", ylabel="relative to MHA", ylim=(0, 1.05), title="8 query heads, 256 positions before")
right.legend(loc="lower left")
plt.show()

# %% [markdown]
# ## 5 · From a trained MHA model to GQA
#
# Nobody trains a large model twice if it can be helped. Ainslie et al. (2023, section 2.1 for MQA, 2.2 for GQA) turn a
# trained MHA model into GQA: the key matrix of a group is the **mean** of the key matrices of its heads, the same for
# values, and everything else stays. Then the model is trained a little further, with 5% of the original steps, to get
# used to it. They found the mean better than taking one head of each group, and that better than random new heads
# (section 3.3, where they compare for MQA).
#
# In terms of one weight matrix: its rows come in $n_h$ blocks of $d_h$, one for each head, and neighbouring blocks form
# a group. If the heads of a group happen to agree, nothing is lost, and the GQA model is *exactly* the MHA model.
#
# **Task 5 · `pool_heads` · 1 point · 10 minutes**


# %% task="pool_heads"
def pool_heads(weight: Tensor, n_heads: int, n_groups: int) -> Tensor:
    """Turn the key or value matrix of MHA into that of GQA, by the mean over the heads of each group.

    Args:
        weight: The matrix of `k_proj` or `v_proj`, shape (n_heads * d_head, d_model).
        n_heads: Number of heads in it.
        n_groups: Number of groups; neighbouring heads form a group.

    Returns:
        The matrix of shape (n_groups * d_head, d_model), in the dtype of weight.

    Raises:
        ValueError: The rows cannot be split into n_heads heads of one size, or the heads into n_groups groups.
    """
    ### BEGIN SOLUTION
    if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
        raise ValueError(f"{weight.shape[0]} rows do not make {n_heads} heads in {n_groups} groups")
    d_head = weight.shape[0] // n_heads
    return weight.unflatten(0, (n_groups, n_heads // n_groups, d_head)).mean(dim=1).flatten(0, 1)
    ### END SOLUTION


# %% checks="pool_heads" points=1
four_heads_of_two = torch.tensor([[1.0], [10.0], [3.0], [30.0], [5.0], [50.0], [9.0], [70.0]])
expect_close(
    pool_heads(four_heads_of_two, 4, 2),
    [[2.0], [20.0], [7.0], [60.0]],
    "Heads 0 and 1 become one, heads 2 and 3 the other; the two features of a head are not mixed.",
)
expect_close(pool_heads(four_heads_of_two, 4, 4), four_heads_of_two, "As many groups as heads: nothing changes.")

# %% [markdown]
# The experiment in small. A model of two layers with eight heads learns to continue English letter by letter, on the
# texts of Python's own help pages. Then its eight heads become two groups, in three ways, and all three are trained
# further with a tenth of the steps. What is drawn is the cross-entropy on text that was held out.
#
# None of the three is free: right after the conversion all are far above the dotted line of the MHA model. The mean
# starts lowest, since it keeps something of every head, and ten steps of training win back half of what was lost. The
# first head of each group starts as badly as random heads, but draws level with the mean after a dozen steps; random
# heads are still behind at the end. The paper orders the three as the mean, one head, random, by how much of the
# trained model they preserve; one small model and one seed show it only in part. (Details differ between versions of
# Python, whose help pages differ.)

# %% tags=["demo"]
english = "".join(topics[name] for name in sorted(topics))
letters = {letter: index for index, letter in enumerate(sorted(set(english)))}
corpus = torch.tensor([letters[letter] for letter in english])
training, held_out = corpus[: int(0.9 * len(corpus))], corpus[int(0.9 * len(corpus)) :]


def language_loss(gpt: nn.Module, source: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    starts = torch.randint(len(source) - 48, (rows, 1), generator=generator)
    windows = source[starts + torch.arange(49)]
    return F.cross_entropy(gpt(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def train(gpt: nn.Module, steps: int, rate: float) -> list[float]:
    """Train, and return the loss on held-out text before every second step and at the end."""
    optimizer, generator, curve = torch.optim.AdamW(gpt.parameters(), lr=rate), torch.Generator().manual_seed(1), []
    for step in range(steps + 1):
        if (step % 2 == 0 and steps < 100) or step == steps:
            with torch.no_grad():
                curve.append(language_loss(gpt, held_out, 128, torch.Generator().manual_seed(2)).item())
        if step < steps:
            optimizer.zero_grad()
            language_loss(gpt, training, 24, generator).backward()
            optimizer.step()
    return curve


torch.manual_seed(0)
full = TinyGPT(len(letters), 48, 2, lambda: GroupedQueryAttention(48, 8, 8, 6))
full_loss = train(full, 300, 3e-3)[-1]
ways = {
    "mean of the heads": lambda weight, fresh: pool_heads(weight, 8, 2),
    "first head of each group": lambda weight, fresh: weight.unflatten(0, (2, 4, 6))[:, 0].flatten(0, 1),
    "random": lambda weight, fresh: fresh,
}

figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
for name, way in ways.items():
    converted = TinyGPT(len(letters), 48, 2, lambda: GroupedQueryAttention(48, 8, 2, 6))
    fresh = converted.state_dict()
    shared = {key: way(full.state_dict()[key], fresh[key]) for key in fresh if "k_proj" in key or "v_proj" in key}
    converted.load_state_dict(full.state_dict() | shared)
    axes.plot(range(0, 31, 2), train(converted, 30, 1e-3), marker=".", label=name)
axes.axhline(full_loss, color="grey", linestyle=":", label=f"MHA before the conversion: {full_loss:.2f}")
axes.set(xlabel="steps of further training", ylabel="held-out cross-entropy (nats per letter)")
axes.set_title("Eight heads pooled to two groups (300 steps of training before)")
axes.legend()
plt.show()

# %% [markdown]
# ## 6 · Compress instead of share
#
# **Multi-head latent attention** (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1) keeps a separate key and value for
# every head, but computes all of them from one short vector, the **latent** $c_t$, and caches only that:
#
# $$c_t = W^{DKV} h_t, \qquad k^C_t = W^{UK} c_t, \qquad v_t = W^{UV} c_t$$
#
# (eq. 9 to 11; D for down, U for up). In DeepSeek-V2, 128 heads of 128 numbers come from 512. The keys and
# values of all heads and positions together are then a table of low rank, and that is the price.
#
# The rotary embedding does not fit in: turning $k^C_t$ would put a matrix that depends on the position between $W^{UK}$
# and the query, and spoil what section 7 is about. So a head's vectors get a second part which carries the position and
# nothing else, with *one* rotary key for all heads, computed from $h_t$ directly (eq. 14 to 18, the **decoupled**
# rotary embedding):
#
# $$k^R_t = R_t W^{KR} h_t, \qquad q_{t,i} = \begin{pmatrix} q^C_{t,i} \\ R_t\, q^R_{t,i} \end{pmatrix}, \qquad
# k_{t,i} = \begin{pmatrix} k^C_{t,i} \\ k^R_t \end{pmatrix}, \qquad
# \text{weights} = \operatorname{softmax}\!\left( \frac{q_{t,i}^\top k_{s,i}}{\sqrt{d_h + d_h^R}} \right)$$
#
# The root holds the length of what is multiplied, content and rotary part together. The cache holds $c_t$ and $k^R_t$,
# with $d_c + d^R_h$ numbers: no keys of single heads, and no values at all.
#
# Two things are left out here, for they change nothing about the cache: the paper also computes the queries by way of
# a latent (eq. 12 and 13), to save memory in training, and puts a normalisation behind each latent.
#
# **Task 6 · `MultiHeadLatentAttention` · 3 points · 35 minutes**


# %% task="MultiHeadLatentAttention"
class MultiHeadLatentAttention(nn.Module):
    """Causal multi-head latent attention with a decoupled rotary key, in the naive form that unpacks the cache.

    Attributes:
        q_proj: `nn.Linear` with a weight of shape (n_heads * d_head, d_model), for the content part of the queries.
        q_rotary: `nn.Linear` with a weight of shape (n_heads * d_rotary, d_model), for their rotary part.
        kv_down: `nn.Linear` with a weight of shape (d_latent, d_model).
        k_up, v_up: `nn.Linear` with weights of shape (n_heads * d_head, d_latent).
        k_rotary: `nn.Linear` with a weight of shape (d_rotary, d_model), for the rotary key that all heads share.
        o_proj: `nn.Linear` with a weight of shape (d_model, n_heads * d_head), applied to the joined heads.
        n_heads, d_head, d_latent, d_rotary: As given.
    """

    def __init__(self, d_model: int, n_heads: int, d_head: int, d_latent: int, d_rotary: int) -> None:
        super().__init__()
        self.n_heads, self.d_head, self.d_latent, self.d_rotary = n_heads, d_head, d_latent, d_rotary
        self.q_proj = matrix(d_model, n_heads * d_head)
        self.q_rotary = matrix(d_model, n_heads * d_rotary)
        self.kv_down = matrix(d_model, d_latent)
        self.k_up = matrix(d_latent, n_heads * d_head)
        self.v_up = matrix(d_latent, n_heads * d_head)
        self.k_rotary = matrix(d_model, d_rotary)
        self.o_proj = matrix(n_heads * d_head, d_model)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Attend from new positions to themselves and to what the cache holds.

        Args:
            x: The new positions, shape (batch, new, d_model).
            cache: None, and x starts at position 0. Or a cache, and x goes on at position `cache.length`. Its `update`
                is called once: in the place of keys it gets the latents of the new positions, shape
                (batch, 1, new, d_latent), in the place of values their turned rotary keys, shape
                (batch, 1, new, d_rotary).

        Returns:
            Outputs of the new positions, shape (batch, new, d_model).
        """
        ### BEGIN SOLUTION
        new = x.shape[1]
        positions = torch.arange(new, device=x.device)
        if cache is not None:
            positions += cache.length
        latent = self.kv_down(x).unsqueeze(1)
        rotary_key = rotate(self.k_rotary(x).unsqueeze(1), positions)
        if cache is not None:
            latent, rotary_key = cache.update(latent, rotary_key)

        def heads_of(joined: Tensor) -> Tensor:
            return joined.unflatten(2, (self.n_heads, -1)).permute(0, 2, 1, 3)

        k, v = heads_of(self.k_up(latent.squeeze(1))), heads_of(self.v_up(latent.squeeze(1)))
        k = torch.cat([k, rotary_key.expand(-1, self.n_heads, -1, -1)], dim=3)
        q = torch.cat([heads_of(self.q_proj(x)), rotate(heads_of(self.q_rotary(x)), positions)], dim=3)
        scores = q @ k.mT / math.sqrt(self.d_head + self.d_rotary)
        mask = torch.ones(new, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return self.o_proj((weights @ v).permute(0, 2, 1, 3).flatten(2))
        ### END SOLUTION


# %% checks="MultiHeadLatentAttention" points=3
averaging = {"q_proj": nothing, "q_rotary": nothing, "k_up": one_way, "o_proj": one_way}
latent_layer = with_weights(
    MultiHeadLatentAttention(2, 1, 2, 2, 2),
    kv_down=other_way,
    v_up=[[1.0, 0.0], [0.0, 10.0]],
    k_rotary=one_way,
    **averaging,
)
text = torch.tensor([[[2.0, 1.0], [4.0, 0.0], [9.0, 5.0], [1.0, 6.0]]])
cache = KVCache(capacity=4)
first, rest = latent_layer(text[:, :3], cache), latent_layer(text[:, 3:], cache)
expect_close(
    torch.cat([first, rest], dim=1),
    [[[1.0, 20.0], [0.5, 30.0], [2.0, 50.0], [3.0, 40.0]]],
    "Queries of zero: running means of the values, which are the latents with one feature times ten.",
)
expect_close(cache.keys[0, 0], [[1, 2], [0, 4], [5, 9], [6, 1]], "In the place of keys the cache holds the latents.")
expect_close(
    cache.values[0, 0, :2],
    [[2.0, 1.0], [4 * math.cos(1), 4 * math.sin(1)]],
    "In the place of values it holds the rotary keys: position 0 is not turned, position 1 by an angle of 1.",
)

matrices = {
    "q_proj": waves(4, 4, 0),
    "q_rotary": waves(4, 4, 16),
    "kv_down": waves(3, 4, 32),
    "k_rotary": waves(2, 4, 44),
    "k_up": waves(4, 3, 52),
    "v_up": waves(4, 3, 64),
    "o_proj": waves(4, 4, 76),
}
turning = with_weights(MultiHeadLatentAttention(4, 2, 2, 3, 2), **matrices)
steep = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]])
expect_close(
    turning(steep)[0, 1:],
    [[-1.7947, 1.0403, 0.4055, -0.1685], [-1.1786, 0.3361, -0.0385, -0.3768]],
    "Queries that matter: now the scale, both parts of queries and keys, and the order of the heads count.",
)

torch.manual_seed(0)
latent_layer, text = MultiHeadLatentAttention(12, 3, 4, 5, 2), torch.randn(2, 7, 12)
cache = KVCache(capacity=7)
parts = [latent_layer(part, cache) for part in text.split([3, 2, 1, 1], dim=1)]
expect_close(
    torch.cat(parts, dim=1), latent_layer(text), "Random weights, chunks of 3, 2, 1 and 1: cached equals uncached."
)

# %% [markdown]
# On the left, what five layers with 16 query heads of 16 left in a `KVCache`, per position: counted, not computed. The
# latent has 32 numbers and the rotary key 8, so MLA lies between MQA, with one pair of heads, and GQA with two.
#
# On the right, what the two kinds can express. Take the keys and values that a layer makes of 300 random positions, all
# heads side by side, 512 numbers for each position, and look at the singular values of this table of 300 by 512. With
# MHA (whose $d_{model}$ is 256, so rank 256 at most) they run on and on. With MLA everything comes from 32 numbers,
# and after the thirty-second singular value there is only rounding. MQA would stop at 32 as well, as one key of 16 and
# one value of 16 do; but MLA's heads see 16 *different* views of the 32 numbers, and its keys and values share them.

# %% tags=["demo"]
torch.manual_seed(0)
text = torch.randn(1, 300, 256)
layers = {
    "MHA": GroupedQueryAttention(256, 16, 16, 16),
    "GQA, 4 groups": GroupedQueryAttention(256, 16, 4, 16),
    "GQA, 2 groups": GroupedQueryAttention(256, 16, 2, 16),
    "MQA": GroupedQueryAttention(256, 16, 1, 16),
    "MLA": MultiHeadLatentAttention(256, 16, 16, 32, 8),
}
held = []
for layer in layers.values():
    cache = KVCache(capacity=300)
    layer(text, cache)
    held.append((cache.keys.numel() + cache.values.numel()) / 300)

with torch.no_grad():
    multi_head, latent_layer = layers["MHA"], layers["MLA"]
    latents = latent_layer.kv_down(text[0])
    tables = {
        "MHA": torch.cat([multi_head.k_proj(text[0]), multi_head.v_proj(text[0])], dim=1),
        "MLA, latent of 32": torch.cat([latent_layer.k_up(latents), latent_layer.v_up(latents)], dim=1),
    }

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
bars = left.barh(list(layers), held, color=["C0", "C1", "C1", "C2", "C3"])
left.bar_label(bars, fmt="%d", padding=3)
left.invert_yaxis()
left.set(xlabel="elements in the cache per position", title="One layer, 16 query heads of 16", xlim=(0, 580))
for (name, table), color in zip(tables.items(), ["C0", "C3"], strict=True):
    values = torch.linalg.svdvals(table.double())
    right.semilogy(range(1, len(values) + 1), values / values[0], color=color, label=name)
right.axvline(32, color="grey", linestyle=":", label="32")
right.set(xlabel="number of the singular value", ylabel="relative to the largest", title="Keys and values of all heads")
right.legend()
plt.show()

# %% [markdown]
# ## 7 · Reading the cache without unpacking it
#
# The naive form saves memory and wastes work: in every step it expands every cached latent into the keys and values of
# all heads. Look at a single content score, with $W^{UK}_i$ the rows of $W^{UK}$ that belong to head $i$:
#
# $$(q^C_{t,i})^\top k^C_{s,i} = (q^C_{t,i})^\top \left( W^{UK}_i c_s \right)
# = \left( (W^{UK}_i)^\top q^C_{t,i} \right)^\top c_s$$
#
# Matrix products may be bracketed either way. On the left a matrix is applied to every *cached* position; on the right,
# to the *query*, of which there is one. The query moves into the space of the latents, and the cache is read as it is.
# Values work the same way, $\sum_s a_s\, W^{UV}_i c_s = W^{UV}_i \sum_s a_s\, c_s$: first the weighted sum of latents,
# then one matrix. The paper says that $W^{UK}$ is **absorbed** into the query matrix and $W^{UV}$ into the output
# matrix (section 2.1.2). This is why the key must not be turned: $R_s$ would stand between $W^{UK}$ and $c_s$,
# different for every $s$.
#
# What is left is an attention in which all heads read *one* key, $(c_s, k^R_s)$, and one value, $c_s$. MLA, read this
# way, is MQA with a wide head. But the scores are the same numbers as before, so their scale stays what it was:
# $\sqrt{d_h + d_h^R}$, not the root of the length $d_c + d_h^R$ that is now multiplied.
#
# **Task 7 · `absorbed_attention` · 3 points · 30 minutes**


# %% task="absorbed_attention"
def absorbed_attention(
    q_content: Tensor, q_rotary: Tensor, latent: Tensor, rotary_key: Tensor, k_up: Tensor, v_up: Tensor
) -> Tensor:
    """Causal multi-head latent attention that forms neither keys nor values of single heads.

    Args:
        q_content: Content part of the queries, shape (batch, heads, new, d_head). They belong to the last `new` of the
            positions, and see their own position and all before it.
        q_rotary: Rotary part of the queries, already turned, shape (batch, heads, new, d_rotary).
        latent: Latents of all positions, shape (batch, positions, d_latent). The keys and values that they stand for
            may lie outside the range of the dtype, although the scaled scores and the result do not.
        rotary_key: Rotary keys of all positions, already turned, shape (batch, positions, d_rotary).
        k_up: The matrix W^UK, shape (heads * d_head, d_latent).
        v_up: The matrix W^UV, shape (heads * d_head, d_latent).

    Returns:
        What each head found, before the output matrix, shape (batch, heads, new, d_head).
    """
    ### BEGIN SOLUTION
    heads, new, d_head = q_content.shape[1:]
    q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up.unflatten(0, (heads, d_head)))
    query = torch.cat([q_latent, q_rotary], dim=3)
    key = torch.cat([latent, rotary_key], dim=2).unsqueeze(1)
    scores = query @ key.mT / math.sqrt(d_head + q_rotary.shape[3])
    mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
    return torch.einsum("bhnc,hdc->bhnd", weights @ latent.unsqueeze(1), v_up.unflatten(0, (heads, d_head)))
    ### END SOLUTION


# %% [markdown]
# The class below is your layer of task 6 with another way to read the cache: same weights, same cache, same outputs.


# %%
class AbsorbedLatentAttention(MultiHeadLatentAttention):
    """Multi-head latent attention that reads its cache by `absorbed_attention`."""

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Attend from new positions to themselves and to what the cache holds, as the parent does."""
        places = torch.arange(x.shape[1], device=x.device)
        if cache is not None:
            places = places + cache.length
        latent, rotary_key = self.kv_down(x)[:, None], rotate(self.k_rotary(x)[:, None], places)
        if cache is not None:
            latent, rotary_key = cache.update(latent, rotary_key)
        content, rotary = (
            part.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for part in (self.q_proj(x), self.q_rotary(x))
        )
        found = absorbed_attention(
            content, rotate(rotary, places), latent[:, 0], rotary_key[:, 0], self.k_up.weight, self.v_up.weight
        )
        return self.o_proj(found.transpose(1, 2).flatten(2))


# %% checks="absorbed_attention" points=3
found = absorbed_attention(
    torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]]),  # two heads, one query each
    torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]]),
    torch.tensor([[[1.0], [-0.5], [2.0]]]),  # three positions, latents of one number
    torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.5, -0.5]]]),
    torch.tensor([[1.0], [0.5], [0.2], [-0.4]]),
    torch.tensor([[1.0], [2.0], [0.5], [0.0]]),
)
expect_close(
    found,
    [[[[1.6049, 3.2097]], [[0.5348, 0.0]]]],
    "Products of 2, 0 and 4.5 in head 0, of 3, -0.5 and 1 in head 1, all divided by the root of 2 + 2.",
)

torch.manual_seed(0)
naive, text = MultiHeadLatentAttention(12, 3, 4, 5, 2), torch.randn(2, 7, 12)
absorbed = AbsorbedLatentAttention(12, 3, 4, 5, 2)
absorbed.load_state_dict(naive.state_dict())
expect_close(absorbed(text), naive(text), "Absorbed equals naive, for a whole text.")
cache = KVCache(capacity=7)
parts = [absorbed(part, cache) for part in text.split([4, 2, 1], dim=1)]
expect_close(torch.cat(parts, dim=1), naive(text), "Absorbed equals naive, after chunks of 4, 2 and 1.")

# %% [markdown]
# Both forms, counted, for 8 heads of 16, a latent of 64 and a rotary key of 8: the proportions of DeepSeek-V2, with
# everything smaller. On the left is one decoding step. The naive form grows steeply with the prefix, since it unpacks
# all of it; the absorbed one has a long key to multiply, which is little against that.
#
# On the right, 512 positions are in the cache and *many* new ones come at once, as in a prefill. Now unpacking is done
# once for all of them, while every query pays for the wide absorbed head. Count the FLOPs per head and cached position
# when $n$ queries come: $4 d_c d_h + 2n (2 d_h + d_h^R)$ for the naive form, $2n (2 d_c + d_h^R)$ for the absorbed one.
# They are equal at
#
# $$n = \frac{d_c\, d_h}{d_c - d_h} ,$$
#
# which is 21 here and 171 for DeepSeek-V2, if the cache is long. Below that, and so in decoding, one reads the cache
# absorbed; a long prefill is cheaper in the naive form, with the same weights.

# %% tags=["demo"]
torch.manual_seed(0)
naive, absorbed = MultiHeadLatentAttention(128, 8, 16, 64, 8), AbsorbedLatentAttention(128, 8, 16, 64, 8)
absorbed.load_state_dict(naive.state_dict())


def flops_after(layer: nn.Module, prefix: int, new: int) -> int:
    text, cache = torch.randn(1, prefix + new, 128), KVCache(capacity=prefix + new)
    with torch.no_grad():
        layer(text[:, :prefix], cache)
    return count_flops(layer, text[:, prefix:], cache)


prefixes, sizes = [16, 64, 128, 256, 384, 512], [1, 4, 8, 16, 24, 32, 48, 64]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for layer, name in ((naive, "naive"), (absorbed, "absorbed")):
    left.plot(prefixes, [flops_after(layer, prefix, 1) / 1e6 for prefix in prefixes], marker=".", label=name)
    right.plot(sizes, [flops_after(layer, 512, new) / 1e6 for new in sizes], marker=".", label=name)
left.set(xlabel="positions in the cache", ylabel="million FLOPs", title="One new position")
right.set(xlabel="new positions n", ylabel="million FLOPs", title="n new positions, 512 in the cache")
left.legend()
right.legend()
plt.show()

# %% [markdown]
# ## 8 · The bill
#
# For each token, a model with $l$ layers keeps
#
# | | elements per token |
# |---|---|
# | MHA | $2\, n_h\, d_h\, l$ |
# | GQA | $2\, n_g\, d_h\, l$ |
# | MQA | $2\, d_h\, l$ |
# | MLA | $(d_c + d_h^R)\, l$ |
#
# (DeepSeek-V2, table 1). The 2 is for keys *and* values; MLA has none, as both are in the latent. Mind two pairs of
# numbers that are easily mixed up. The number of groups is not their size: Mistral 7B has 32 heads in 8 groups of 4.
# (With Llama 2 70B, 64 heads in 8 groups of 8, nobody would notice.) And a GiB is $2^{30}$ bytes, a GB $10^9$.
#
# DeepSeek-V2 has 128 heads of 128, a latent of 512, a rotary key of 64 and 60 layers. That makes 34,560 elements per
# token where its own MHA would need 1,966,080, or 1.76% of them; as much as GQA with 2.25 groups, since
# $512 + 64 = 2.25 \cdot 2 \cdot 128$. The abstract of the paper says something else, that the cache is 93.3% smaller,
# and this is often repeated as the saving of MLA over MHA. It is not. It compares with the *previous model*, DeepSeek
# 67B, which has GQA with 8 groups in 95 layers (DeepSeek-AI 2024, "DeepSeek LLM", table 2), and it comes out if one
# counts that DeepSeek-V2 stores its elements in 6 bits on average (section 3.2.3) and not in 16; in 16 bits it is
# 82.2%. The last of the visible checks recomputes it.
#
# **Task 8 · `kv_cache_elements` and `kv_cache_bytes` · 2 points · 20 minutes**


# %% task="kv_cache_elements"
def kv_cache_elements(
    kind: str,
    *,
    n_layers: int,
    n_heads: int | None = None,
    n_groups: int | None = None,
    d_head: int | None = None,
    d_latent: int | None = None,
    d_rotary: int | None = None,
) -> int:
    """How many numbers a model keeps in its caches for each token, over all layers.

    Args:
        kind: "mha", "gqa", "mqa" or "mla".
        n_layers: Number of layers.
        n_heads: Number of query heads.
        n_groups: Number of groups that share keys and values.
        d_head: Dimension of a head.
        d_latent: Dimension of the latent.
        d_rotary: Dimension of the rotary key.

    Returns:
        The number of elements, a Python int. What the kind has no use for is ignored, so the sizes of one model can be
        tried with every kind.

    Raises:
        ValueError: There is no such kind, or a size that it needs was not given; or, with "gqa", n_heads was given and
            is not a multiple of n_groups.
    """
    ### BEGIN SOLUTION
    heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
    if kind == "mla":
        factors = (d_latent, d_rotary)
    elif kind in heads_of:
        factors = (heads_of[kind], d_head)
    else:
        raise ValueError(f"{kind!r} is none of mha, gqa, mqa and mla")
    if None in factors:
        raise ValueError(f"a size that {kind} needs is missing")
    if kind == "gqa" and n_heads is not None and n_heads % n_groups:
        raise ValueError(f"{n_heads} heads do not form {n_groups} groups of one size")
    first, second = factors
    return n_layers * (first + second if kind == "mla" else 2 * first * second)
    ### END SOLUTION


def kv_cache_bytes(elements: int, *, positions: int, batch: int = 1, bits: int = 16) -> int:
    """Memory for the caches of a batch of texts.

    Args:
        elements: Elements per token, over all layers.
        positions: Length of each text.
        batch: Number of texts.
        bits: Bits per element.

    Returns:
        The number of bytes, a Python int, rounded up to a whole one.
    """
    ### BEGIN SOLUTION
    return -(-elements * positions * batch * bits // 8)
    ### END SOLUTION


# %% checks="kv_cache_elements" points=2
gpt2 = kv_cache_elements("mha", n_layers=12, n_heads=12, d_head=64)
expect_close(gpt2, 18_432, "GPT-2 small: 12 layers with 12 heads of 64, a key and a value each.")
expect_close(kv_cache_bytes(gpt2, positions=1, bits=32), 73_728, "In 32 bits that is 73,728 bytes per token.")
llama = {"n_layers": 80, "n_heads": 64, "n_groups": 8, "d_head": 128}
for kind, gib in (("gqa", 1.25), ("mha", 10.0)):
    size = kv_cache_bytes(kv_cache_elements(kind, **llama), positions=4096)
    expect_close(size / 2**30, gib, f"Llama 2 70B at 4,096 positions, if its attention is {kind}: {gib} GiB.")
deepseek_v2 = {"n_layers": 60, "n_heads": 128, "d_head": 128, "d_latent": 512, "d_rotary": 64}
latent = kv_cache_elements("mla", **deepseek_v2)
expect_close(latent, 34_560, "DeepSeek-V2 keeps 34,560 elements per token.")
before = kv_cache_elements("gqa", n_layers=95, n_heads=64, n_groups=8, d_head=128)
saved = 1 - kv_cache_bytes(latent, positions=1, bits=6) / kv_cache_bytes(before, positions=1)
expect_close(saved, 0.9334, "In 6 bits, against DeepSeek 67B in 16 bits: the 93.3% of the abstract.")

# %% [markdown]
# On the left, what one token costs in 16 bits, and what it would cost if the same model had used MHA (light). On the
# right, the caches of a single text, from a page to a small library. The dotted line is at 80 GiB, about the memory of
# one large accelerator, which has to hold the weights as well. Every line has slope one: these designs change what a
# position costs, and only a window puts an end to the growth.

# %% tags=["demo"]
models = {
    "GPT-2 small\n(MHA)": ("mha", {"n_layers": 12, "n_heads": 12, "d_head": 64}),
    "Llama 2 7B\n(MHA)": ("mha", {"n_layers": 32, "n_heads": 32, "d_head": 128}),
    "Mistral 7B\n(GQA, 8 groups)": ("gqa", {"n_layers": 32, "n_heads": 32, "n_groups": 8, "d_head": 128}),
    "Llama 2 70B\n(GQA, 8 groups)": ("gqa", llama),
    "DeepSeek-V2\n(MLA)": ("mla", deepseek_v2),
}
lengths = [2**power for power in range(9, 22)]

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for (name, (kind, sizes)), color in zip(models.items(), ["C4", "C0", "C2", "C1", "C3"], strict=True):
    own, as_mha = kv_cache_elements(kind, **sizes), kv_cache_elements("mha", **sizes)
    left.barh(name, kv_cache_bytes(as_mha, positions=1) / 2**10, color=color, alpha=0.25)
    bar = left.barh(name, kv_cache_bytes(own, positions=1) / 2**10, color=color)
    left.bar_label(bar, fmt="%.4g", padding=3)
    gib = [kv_cache_bytes(own, positions=length) / 2**30 for length in lengths]
    right.loglog(lengths, gib, color=color, label=name.replace("\n", " "))
left.invert_yaxis()
left.set(xlabel="KiB per token (16 bits)", title="Cache of one token, light: as MHA")
right.axhline(80, color="grey", linestyle=":", label="80 GiB")
right.set(xlabel="positions", ylabel="GiB", title="Caches of one text (without a window)")
right.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## What you have now
#
# | | What it changes | What it leaves as it was |
# |---|---|---|
# | KV cache | a step computes one position | every output |
# | sliding window | memory stops growing | what lies within the window |
# | GQA, MQA | fewer keys and values to keep and to read | the arithmetic of attention |
# | MLA | keys and values come from one short latent | a view of its own for every head |
# | absorption | the latent is read without unpacking it | every output |
#
# Three habits are worth keeping. Test a cache by the identity *cached equals uncached*, in uneven chunks and with more
# than one row. Ask of every mask which corner its triangle sits in. And count, in FLOPs and elements, before you
# measure in seconds, and before you believe a percentage.
