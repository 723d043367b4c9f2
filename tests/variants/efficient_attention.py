"""Wrong and other right answers to the assignment on KV cache, MQA, GQA and MLA (see `autograder.variants`)."""
# ruff: noqa: F821 - bodies use what the notebook has: the reference's classes, which they extend, and its helpers

import math

import torch
from torch.nn import functional as F

from autograder.variants import alternative, mistake

# --- KVCache ----------------------------------------------------------------------------------------------------------


@mistake("KVCache", "positions are joined along the axis of the features")
def cache_joins_features():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=-1)
                values = torch.cat([self.values, values], dim=-1)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "positions are joined along the batch, so rows are mixed")
def cache_joins_rows():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=0)
                values = torch.cat([self.values, values], dim=0)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "new positions stand in front of the old ones")
def cache_new_first():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([keys, self.keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "values are kept in the wrong order")
def cache_values_reversed():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([values, self.values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "only the last update is kept")
def cache_keeps_the_last():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, -new:].clone(), values[:, :, -new:].clone()
            return keys, values


@mistake("KVCache", "keys and values come back swapped")
def cache_swapped():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return values, keys


@mistake("KVCache", "the window holds one position too many")
def cache_window_too_long():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - self.window, 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "the window holds one position too few")
def cache_window_too_short():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - max(self.window - 2, 0), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "dropping comes before giving back, so a chunk loses its first positions")
def cache_drops_first():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return (keys, values) if self.window is None else (keys[:, :, -self.window :], values[:, :, -self.window :])


@mistake("KVCache", "the oldest positions are kept in place of the latest")
def cache_keeps_the_oldest():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            kept = keys.shape[2] - drop
            self.keys, self.values = keys[:, :, :kept].clone(), values[:, :, :kept].clone()
            return keys, values


@mistake("KVCache", "a window of one keeps everything: the slice from -0")
def cache_minus_zero():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            self.keys, self.values = keys, values
            if self.window is not None:
                self.keys, self.values = keys[:, :, -(self.window - 1) :], values[:, :, -(self.window - 1) :]
            return keys, values


@mistake("KVCache", "the window is ignored")
def cache_without_window():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "the length is that of what is held")
def cache_length_of_held():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            self.length = self.keys.shape[2]
            return keys, values


@mistake("KVCache", "the length counts calls, not positions")
def cache_length_of_calls():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += 1
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "the capacity is reached one position early")
def cache_full_too_early():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] >= self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "there is room for one position too many")
def cache_full_too_late():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity + 1:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "the capacity counts all positions that ever came")
def cache_capacity_of_all():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if self.length + new > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "the capacity counts the new positions alone")
def cache_capacity_of_new():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if new > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "what does not fit is dropped in silence")
def cache_truncates():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                keys, values = keys[:, :, -self.capacity :], values[:, :, -self.capacity :]
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "a call that is refused has changed the length already")
def cache_refuses_too_late():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            self.length += new
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "a call that is refused has stored its keys already")
def cache_stores_then_refuses():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                self.keys, self.values = keys, values
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "keys without values are let in")
def cache_uneven():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "everything becomes float32")
def cache_float32():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            keys, values = keys.float(), values.float()
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values


@mistake("KVCache", "values get the width of keys")
def cache_one_width():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].clone(), values[:, :, drop:].clone()
            return keys, values[..., : keys.shape[-1]]


@mistake("KVCache", "what is held goes to the CPU")
def cache_on_the_cpu():
    class KVCache(KVCache):
        def update(self, keys, values):
            new = keys.shape[2]
            if values.shape[2] != new:
                raise ValueError("keys and values differ")
            if self.keys is not None:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            if keys.shape[2] > self.capacity:
                raise ValueError("no room")
            self.length += new
            drop = 0 if self.window is None else max(keys.shape[2] - (self.window - 1), 0)
            self.keys, self.values = keys[:, :, drop:].cpu(), values[:, :, drop:].cpu()
            return keys, values


@mistake("KVCache", "a reset leaves the length")
def cache_reset_keeps_length():
    class KVCache(KVCache):
        def __init__(self, capacity, window=None):
            self.length = 0
            super().__init__(capacity, window)

        def reset(self):
            self.keys = self.values = None


@mistake("KVCache", "a reset leaves the keys")
def cache_reset_keeps_keys():
    class KVCache(KVCache):
        keys = values = None

        def reset(self):
            self.length = 0


@mistake("KVCache", "all caches share one memory, which stands in the class")
def cache_in_the_class():
    class KVCache(KVCache):
        memory = []

        def update(self, keys, values):
            self.memory.append((keys, values))
            self.length += keys.shape[2]
            self.keys = torch.cat([pair[0] for pair in self.memory], dim=2)
            self.values = torch.cat([pair[1] for pair in self.memory], dim=2)
            return self.keys, self.values


@mistake("KVCache", "a capacity or a window of zero is let in")
def cache_of_nothing():
    class KVCache(KVCache):
        def __init__(self, capacity, window=None):
            self.capacity, self.window = capacity, window
            self.reset()


@mistake("KVCache", "a window of one is refused")
def cache_refuses_window_of_one():
    class KVCache(KVCache):
        def __init__(self, capacity, window=None):
            if window is not None and window <= 1:
                raise ValueError("too narrow")
            super().__init__(capacity, window)


@alternative("KVCache", "a buffer of the whole capacity, filled in place and moved when the window slides")
def cache_buffer():
    class KVCache:
        def __init__(self, capacity, window=None):
            if capacity < 1 or (window is not None and window < 1):
                raise ValueError("capacity and window are at least 1")
            self.capacity, self.window = capacity, window
            self.reset()

        def reset(self):
            self.length, self.held, self.store = 0, 0, None

        @property
        def keys(self):
            return None if self.store is None else self.store[0][:, :, : self.held]

        @property
        def values(self):
            return None if self.store is None else self.store[1][:, :, : self.held]

        def update(self, keys, values):
            new = keys.shape[-2]
            if new != values.shape[-2]:
                raise ValueError(f"{new} keys, {values.shape[-2]} values")
            if self.held + new > self.capacity:
                raise ValueError(f"only {self.capacity - self.held} positions are free")
            if self.store is None:
                self.store = [x.new_empty(*x.shape[:2], self.capacity, x.shape[-1]) for x in (keys, values)]
            seen = []
            for buffer, x in zip(self.store, (keys, values), strict=True):
                buffer[:, :, self.held : self.held + new] = x
                seen.append(buffer[:, :, : self.held + new].clone())
            self.length += new
            self.held += new
            if self.window is not None and self.held > self.window - 1:
                keep = self.window - 1
                for buffer in self.store:
                    buffer[:, :, :keep] = buffer[:, :, self.held - keep : self.held].clone()
                self.held = keep
            return tuple(seen)


@alternative("KVCache", "a list with one entry for each position")
def cache_list():
    class KVCache:
        def __init__(self, capacity, window=None):
            if min(capacity, 1 if window is None else window) < 1:
                raise ValueError("capacity and window are at least 1")
            self.capacity, self.window, self.length, self.entries = capacity, window, 0, []
            self.keys = self.values = None

        def reset(self):
            self.__init__(self.capacity, self.window)

        def update(self, keys, values):
            if keys.shape[2] != values.shape[2]:
                raise ValueError("keys without values, or values without keys")
            entries = self.entries + list(zip(keys.unbind(2), values.unbind(2), strict=True))
            if len(entries) > self.capacity:
                raise ValueError("full")
            self.length += keys.shape[2]
            self.entries = list(entries)
            while self.window is not None and len(self.entries) >= self.window:
                self.entries.pop(0)
            stack = lambda some, i: torch.stack([entry[i] for entry in some], dim=2)  # noqa: E731
            seen = stack(entries, 0), stack(entries, 1)
            kept = len(self.entries)
            self.keys, self.values = (x.narrow(2, x.shape[2] - kept, kept) for x in seen)
            return seen


@alternative("KVCache", "everything is stored, and the window is cut out when it is read")
def cache_cuts_when_reading():
    class KVCache:
        def __init__(self, capacity, window=None):
            if not capacity >= 1:
                raise ValueError("capacity")
            if window is not None and not window >= 1:
                raise ValueError("window")
            self.capacity = capacity
            self.window = window
            self.reset()

        def reset(self):
            self.everything, self.length = [None, None], 0

        def tail(self, index, count):
            x = self.everything[index]
            return None if x is None else x[..., max(x.shape[-2] - count, 0) :, :]

        @property
        def keys(self):
            return self.tail(0, self.length if self.window is None else self.window - 1)

        @property
        def values(self):
            return self.tail(1, self.length if self.window is None else self.window - 1)

        def update(self, keys, values):
            before = self.length if self.window is None else min(self.length, self.window - 1)
            if before + keys.size(2) > self.capacity or keys.size(2) != values.size(2):
                raise ValueError("these do not fit")
            pairs = zip(self.everything, (keys, values), strict=True)
            self.everything = [new if old is None else torch.cat((old, new), -2) for old, new in pairs]
            self.length += keys.size(2)
            return self.tail(0, before + keys.size(2)), self.tail(1, before + keys.size(2))


# --- CausalSelfAttention ----------------------------------------------------------------------------------------------


@mistake("CausalSelfAttention", "positions restart at 0 with every call")
def attention_positions_restart():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the position is the number of keys that the cache holds")
def attention_position_of_held():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else (0 if cache.keys is None else cache.keys.shape[2])
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "is_causal=True, whose triangle sits in the upper left corner")
def attention_is_causal():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "no mask at all")
def attention_no_mask():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "no mask as soon as there is a cache")
def attention_no_mask_with_cache():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask if cache is None else None)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "no 1/sqrt(d)")
def attention_no_root():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the root of d_model")
def attention_root_of_model():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=x.shape[2] ** -0.5)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "keys are cached before they are turned, and never turned")
def attention_keys_cached_unturned():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q = rotate(q, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            else:
                k = rotate(k, positions)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "keys are cached unturned, and all turned anew in every step")
def attention_turns_everything_anew():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q = rotate(q, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            k = rotate(k, torch.arange(start + new - k.shape[2], start + new, device=x.device))
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "keys from the cache are turned a second time")
def attention_turned_twice():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
                k = rotate(k, torch.arange(k.shape[2], device=x.device))
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "nothing is turned")
def attention_nothing_turned():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)

            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "values are turned too")
def attention_values_turned():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k, v = rotate(q, positions), rotate(k, positions), rotate(v, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the cache is filled, but only the new keys are used")
def attention_ignores_the_cache():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the output matrix is left out")
def attention_no_output_matrix():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return F.linear(heads.transpose(1, 2).flatten(2), torch.eye(x.shape[2], self.n_heads * self.d_head).to(x))


@mistake("CausalSelfAttention", "the triangle sits in the upper left corner")
def attention_upper_left():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril()
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "a query does not see itself")
def attention_not_itself():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new - 1)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "a query sees the next position")
def attention_sees_the_next():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new + 1)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "positions are made on the CPU")
def attention_positions_on_the_cpu():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the mask is made on the CPU")
def attention_mask_on_the_cpu():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the rows of the projections are read as (d_head, n_heads)")
def attention_heads_interleaved():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.d_head, self.n_heads)).permute(0, 3, 1, 2)
            k = self.k_proj(x).unflatten(2, (self.d_head, self.n_heads)).permute(0, 3, 1, 2)
            v = self.v_proj(x).unflatten(2, (self.d_head, self.n_heads)).permute(0, 3, 1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "reshape in place of unflatten and transpose: positions and heads are mixed")
def attention_reshaped():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).reshape(x.shape[0], self.n_heads, new, self.d_head)
            k = self.k_proj(x).reshape(x.shape[0], self.n_heads, new, self.d_head)
            v = self.v_proj(x).reshape(x.shape[0], self.n_heads, new, self.d_head)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the rows of the batch are mixed")
def attention_mixes_rows():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.roll(1, 0).transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the window is one position too long")
def attention_window_too_long():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the window is one position too short")
def attention_window_too_short():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - max(self.window - 2, 0))
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the window is left to the cache")
def attention_window_of_the_cache():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None and cache is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the window is left out once there is a cache")
def attention_window_without_cache():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None and cache is None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "scores are computed by exp without subtracting the largest")
def attention_overflows():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            weights = ((q @ k.mT) / math.sqrt(self.d_head)).exp() * mask
            heads = weights / weights.sum(-1, keepdim=True) @ v
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "masked scores are set to zero, not to minus infinity")
def attention_masks_with_zero():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = ((q @ k.mT) / math.sqrt(self.d_head) * mask).softmax(-1) @ v
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "masked after the softmax, so that the weights do not sum to one")
def attention_masks_after():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = (((q @ k.mT) / math.sqrt(self.d_head)).softmax(-1) * mask) @ v
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "no gradient")
def attention_detached():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.detach().transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "always float32")
def attention_float32():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask).to(x)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the cache is filled twice")
def attention_updates_twice():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                cache.update(k, v)
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "keys and values go into the cache position by position")
def attention_updates_by_position():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                for one, other in zip(k.split(1, dim=2), v.split(1, dim=2), strict=True):
                    k_seen, v_seen = cache.update(one, other)
                k, v = k_seen, v_seen
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            if self.window is not None:
                mask = mask.triu(seen - new - self.window + 1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("CausalSelfAttention", "the layer remembers its inputs and computes the prefix anew")
def attention_recomputes():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            if cache is None:
                return super().forward(x)
            self.texts = getattr(self, "texts", {})
            before = self.texts.get(id(cache))
            whole = x if before is None else torch.cat([before, x], dim=1)
            self.texts[id(cache)] = whole
            cache.length += x.shape[1]
            return super().forward(whole)[:, -x.shape[1] :]


@alternative("CausalSelfAttention", "einsum, an additive mask from distances, softmax by hand")
def attention_einsum():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            batch, new, _ = x.shape
            first = cache.length if cache is not None else 0
            query_at = torch.arange(first, first + new, device=x.device)

            def heads_of(linear):
                weight = linear.weight.view(self.n_heads, self.d_head, -1)
                return torch.einsum("bnm,hdm->bhnd", x, weight)

            q, k, v = heads_of(self.q_proj), heads_of(self.k_proj), heads_of(self.v_proj)
            q, k = rotate(q, query_at), rotate(k, query_at)
            if cache is not None:
                k, v = cache.update(k, v)
            key_at = torch.arange(first + new - k.shape[2], first + new, device=x.device)
            distance = query_at[:, None] - key_at[None, :]
            forbidden = distance < 0
            if self.window is not None:
                forbidden |= distance >= self.window
            bias = torch.zeros_like(distance, dtype=x.dtype).masked_fill(forbidden, float("-inf"))
            weights = torch.softmax(torch.einsum("bhnd,bhmd->bhnm", q, k) * self.d_head**-0.5 + bias, dim=-1)
            found = torch.einsum("bhnm,bhmd->bnhd", weights, v)
            return self.o_proj(found.reshape(batch, new, -1))


@alternative("CausalSelfAttention", "one query after the other, each with the keys that it sees")
def attention_loops():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            batch, new, _ = x.shape
            start = 0 if cache is None else cache.length
            places = torch.arange(start, start + new, device=x.device)
            shape = (batch, new, self.n_heads, self.d_head)
            q = rotate(self.q_proj(x).view(shape).transpose(1, 2), places)
            k = rotate(self.k_proj(x).view(shape).transpose(1, 2), places)
            v = self.v_proj(x).view(shape).transpose(1, 2)
            if cache is not None:
                k, v = cache.update(k, v)
            outputs = []
            for i in range(new):
                last = k.shape[2] - new + i + 1
                first = 0 if self.window is None else max(0, last - self.window)
                scores = (q[:, :, i : i + 1] * k[:, :, first:last]).sum(-1) / math.sqrt(self.d_head)
                weights = (scores - scores.amax(-1, keepdim=True)).exp()
                weights = weights / weights.sum(-1, keepdim=True)
                outputs.append((weights[..., None] * v[:, :, first:last]).sum(2).flatten(1))
            return self.o_proj(torch.stack(outputs, dim=1))


@alternative("CausalSelfAttention", "is_causal where it is right, no mask for a single query, and float64 inside")
def attention_cases():
    class CausalSelfAttention(CausalSelfAttention):
        def forward(self, x, cache=None):
            new, start = x.shape[1], 0
            if cache is not None:
                start = cache.length
            where = start + torch.arange(new, device=x.device)
            q, k, v = (
                torch.stack(p(x).chunk(self.n_heads, dim=-1), dim=1) for p in (self.q_proj, self.k_proj, self.v_proj)
            )
            q, k = rotate(q, where), rotate(k, where)
            if cache is not None:
                k, v = cache.update(k, v)
            q, k, v = q.double(), k.double(), v.double()
            if self.window is None and k.shape[2] == new:
                found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            elif new == 1:
                seen = k.shape[2] if self.window is None else min(self.window, k.shape[2])
                found = F.scaled_dot_product_attention(q, k[:, :, -seen:], v[:, :, -seen:])
            else:
                age = where[:, None] - torch.arange(start + new - k.shape[2], start + new, device=x.device)
                mask = age.ge(0) if self.window is None else age.ge(0) & age.lt(self.window)
                found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(torch.cat(found.unbind(1), dim=-1).to(x.dtype))


# --- generate ---------------------------------------------------------------------------------------------------------


@mistake("generate", "all layers share one cache")
def generate_shared_cache():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache()] * model.n_layers
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "one cache, whatever the number of layers")
def generate_one_cache():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(1)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "two layers are taken for granted")
def generate_two_layers():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(2)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "caches are kept from one call to the next")
def generate_never_reset():
    kept_caches = {}

    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = kept_caches.setdefault(id(model), [new_cache() for _ in range(model.n_layers)])
        newest = tokens
        for _ in range(n):
            newest = model(newest, caches)[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "the whole text goes through new caches in every step")
def generate_recomputes():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(tokens, [new_cache() for _ in range(model.n_layers)])
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "the whole text goes through the same caches in every step")
def generate_feeds_everything():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(tokens, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "the last two positions go in with every step")
def generate_feeds_two():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
            newest = tokens[:, -2:]
        return tokens


@mistake("generate", "the logits of the first position are used")
def generate_first_logits():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, :1].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "the least likely token")
def generate_argmin():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmin(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "tokens are drawn, not chosen")
def generate_samples():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = torch.multinomial(logits[:, -1].softmax(-1), 1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "one token for the whole batch: rows are mixed")
def generate_mixes_rows():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = (logits[:, -1].sum(0, keepdim=True) + 0 * logits[:, -1])[:, None].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "the argmax runs over the flattened batch")
def generate_flat_argmax():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = (logits[:, -1].argmax() % logits.shape[2]).expand(len(tokens), 1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "one token too few")
def generate_too_few():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n - 1):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "one token too many")
def generate_too_many():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n + 1):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "the prompt is missing in the result")
def generate_new_only():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens[:, tokens.shape[1] - n :]


@mistake("generate", "the prompt goes in twice: once to fill the caches, once to get logits")
def generate_prefills_twice():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        model(tokens, caches)
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "the last position of the prompt goes in twice")
def generate_last_of_prompt_twice():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        model(tokens, caches)
        newest = tokens[:, -1:]
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "only the last token of the prompt goes in")
def generate_forgets_the_prompt():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens[:, -1:]
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "a negative n is let in")
def generate_negative():
    def generate(model, tokens, n, new_cache):
        if tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "an empty prompt is let in where n = 0")
def generate_empty():
    def generate(model, tokens, n, new_cache):
        if n < 0 or (n > 0 and tokens.shape[1] == 0):
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "no new tokens are refused")
def generate_refuses_nought():
    def generate(model, tokens, n, new_cache):
        if n <= 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


@mistake("generate", "tokens become int32")
def generate_int32():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens.int()


@mistake("generate", "the texts come back on the CPU")
def generate_on_the_cpu():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")
        caches = [new_cache() for _ in range(model.n_layers)]
        newest = tokens
        for _ in range(n):
            with torch.no_grad():
                logits = model(newest, caches)
            newest = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens.cpu()


@alternative("generate", "the prompt goes in position by position")
def generate_by_position():
    def generate(model, tokens, n, new_cache):
        if n < 0:
            raise ValueError("n")
        if tokens.size(1) < 1:
            raise ValueError("empty prompt")
        caches = []
        while len(caches) < model.n_layers:
            caches.append(new_cache())
        text = list(tokens.unbind(1))
        with torch.inference_mode():
            for position in range(len(text) + n - 1):
                logits = model(text[position][:, None], caches)
                if position == len(text) - 1:
                    text.append(torch.max(logits[:, -1], dim=-1).indices)
        return torch.stack(text[: tokens.size(1) + n], dim=1)


@alternative("generate", "a table filled in place, and the last token goes through the model too")
def generate_table():
    def generate(model, tokens, n, new_cache):
        rows, length = tokens.shape
        if n < 0 or not length:
            raise ValueError(f"cannot add {n} tokens to {length}")
        texts = tokens.new_zeros(rows, length + n)
        texts[:, :length] = tokens
        caches = [new_cache() for _ in range(model.n_layers)]
        with torch.no_grad():
            logits = model(tokens, caches)
            for place in range(length, length + n):
                texts[:, place] = logits[:, -1].topk(1).indices[:, 0]
                logits = model(texts[:, place : place + 1], caches)
        return texts


@alternative("generate", "a recursion, with the prompt in two chunks")
def generate_recursion():
    def generate(model, tokens, n, new_cache):
        if n < 0 or tokens.shape[1] == 0:
            raise ValueError("nothing to do")

        @torch.no_grad()
        def more(fresh, caches, left):
            if left == 0:
                return []
            best = model(fresh, caches)[:, -1].argmax(-1, keepdim=True)
            return [best, *more(best, caches, left - 1)]

        caches = [new_cache() for _ in range(model.n_layers)]
        half = tokens.shape[1] // 2
        if half and n:
            with torch.no_grad():
                model(tokens[:, :half], caches)
        return torch.cat([tokens, *more(tokens[:, half:], caches, n)], dim=1)


# --- GroupedQueryAttention --------------------------------------------------------------------------------------------


@mistake("GroupedQueryAttention", "repeat for repeat_interleave")
def gqa_tiles():
    def repeat_kv(x, times):
        return x.repeat(1, times, 1, 1)


@mistake("GroupedQueryAttention", "expand puts the copies in front of the groups")
def gqa_expands_in_front():
    def repeat_kv(x, times):
        return x[:, None].expand(-1, times, -1, -1, -1).flatten(1, 2)


@mistake("GroupedQueryAttention", "positions are repeated in place of heads")
def gqa_repeats_positions():
    def repeat_kv(x, times):
        return x.repeat_interleave(times, dim=2)


@mistake("GroupedQueryAttention", "each head stands once too often")
def gqa_repeats_once_more():
    def repeat_kv(x, times):
        return x.repeat_interleave(times + 1, dim=1)


@mistake("GroupedQueryAttention", "the batch is repeated")
def gqa_repeats_rows():
    def repeat_kv(x, times):
        return x.repeat_interleave(times, dim=0).reshape(len(x), -1, *x.shape[2:])


@mistake("GroupedQueryAttention", "a single head is repeated, but several are not")
def gqa_repeats_one():
    def repeat_kv(x, times):
        return x.expand(-1, times, -1, -1) if x.shape[1] == 1 else x


@mistake("GroupedQueryAttention", "positions restart at 0 with every call")
def gqa_positions_restart():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "is_causal=True, whose triangle sits in the upper left corner")
def gqa_is_causal():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
            seen = k.shape[2]
            torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "no mask at all")
def gqa_no_mask():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
            seen = k.shape[2]
            torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "no 1/sqrt(d)")
def gqa_no_root():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "keys are cached before they are turned, and never turned")
def gqa_keys_cached_unturned():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q = rotate(q, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            else:
                k = rotate(k, positions)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "nothing is turned")
def gqa_nothing_turned():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)

            if cache is not None:
                k, v = cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "the cache is filled, but only the new keys are used")
def gqa_ignores_the_cache():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "the triangle sits in the upper left corner")
def gqa_upper_left():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril()
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "positions are made on the CPU")
def gqa_positions_on_the_cpu():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "heads are repeated first and cached then")
def gqa_caches_repeated():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "the size of a group is taken for the number of groups")
def gqa_size_for_count():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            size = self.n_heads // self.n_groups
            k = self.k_proj(x).reshape(x.shape[0], -1, size, self.d_head).transpose(1, 2)
            v = self.v_proj(x).reshape(x.shape[0], -1, size, self.d_head).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "the order 0 1 0 1 inside the layer")
def gqa_layer_tiles():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.repeat(1, times, 1, 1), v.repeat(1, times, 1, 1)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "values are lined up in another order than keys")
def gqa_values_tiled():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat(1, times, 1, 1)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "no gradient to keys and values")
def gqa_detached():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.detach().repeat_interleave(times, dim=1), v.detach().repeat_interleave(times, dim=1)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@mistake("GroupedQueryAttention", "query heads are averaged in their groups")
def gqa_averages_queries():
    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            times = self.n_heads // self.n_groups
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            q = q.unflatten(1, (self.n_groups, times)).mean(2).repeat_interleave(times, dim=1)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@alternative("GroupedQueryAttention", "expand and reshape, and grouped queries in place of repeated keys")
def gqa_grouped_queries():
    def repeat_kv(x, times):
        batch, groups, positions, dim = x.shape
        return x[:, :, None].expand(batch, groups, times, positions, dim).reshape(batch, groups * times, positions, dim)

    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            places = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_groups, -1, self.d_head)).permute(0, 2, 3, 1, 4)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, places), rotate(k, places)
            if cache is not None:
                k, v = cache.update(k, v)
            scores = torch.einsum("bgrnd,bgmd->bgrnm", q, k) / math.sqrt(self.d_head)
            later = torch.ones(new, k.shape[2], dtype=torch.bool, device=x.device).triu(k.shape[2] - new + 1)
            weights = scores.masked_fill(later, -torch.inf).softmax(-1)
            return self.o_proj(torch.einsum("bgrnm,bgmd->bngrd", weights, v).flatten(2))


@alternative("GroupedQueryAttention", "torch's own enable_gqa, and an index for the heads")
def gqa_enable_gqa():
    def repeat_kv(x, times):
        return x[:, torch.arange(x.shape[1] * times, device=x.device) // times]

    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            q = self.q_proj(x).unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)
            k = self.k_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            v = self.v_proj(x).unflatten(2, (self.n_groups, self.d_head)).transpose(1, 2)
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k, v = cache.update(k, v)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@alternative("GroupedQueryAttention", "head by head in a loop")
def gqa_loop():
    def repeat_kv(x, times):
        return torch.stack([x[:, head // times] for head in range(x.shape[1] * times)], dim=1)

    class GroupedQueryAttention(GroupedQueryAttention):
        def forward(self, x, cache=None):
            new, start = x.shape[1], cache.length if cache is not None else 0
            places = start + torch.arange(new, device=x.device)
            k = torch.stack([rotate(part, places) for part in self.k_proj(x).split(self.d_head, dim=2)], dim=1)
            v = torch.stack(self.v_proj(x).split(self.d_head, dim=2), dim=1)
            if cache is not None:
                k, v = cache.update(k, v)
            size = self.n_heads // self.n_groups
            mask = torch.full((new, k.shape[2]), -math.inf, dtype=x.dtype, device=x.device).triu(k.shape[2] - new + 1)
            found = []
            for head, q in enumerate(self.q_proj(x).split(self.d_head, dim=2)):
                scores = rotate(q, places) @ k[:, head // size].mT / self.d_head**0.5 + mask
                found.append(scores.softmax(-1) @ v[:, head // size])
            return self.o_proj(torch.cat(found, dim=-1))


# --- pool_heads -------------------------------------------------------------------------------------------------------


@mistake("pool_heads", "the sum in place of the mean")
def pool_sum():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        return weight.unflatten(0, (n_groups, n_heads // n_groups, d_head)).sum(dim=1).flatten(0, 1)


@mistake("pool_heads", "the first head of each group")
def pool_first():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        return weight.unflatten(0, (n_groups, n_heads // n_groups, d_head))[:, 0].flatten(0, 1)


@mistake("pool_heads", "the largest entry of each group")
def pool_max():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        return weight.unflatten(0, (n_groups, n_heads // n_groups, d_head)).amax(dim=1).flatten(0, 1)


@mistake("pool_heads", "every n_groups-th head, not neighbours")
def pool_strided():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        return weight.unflatten(0, (n_heads // n_groups, n_groups, d_head)).mean(dim=0).flatten(0, 1)


@mistake("pool_heads", "the size of a group is taken for the number of groups")
def pool_size_for_count():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        return weight.unflatten(0, (n_heads // n_groups, n_groups, d_head)).mean(dim=1).flatten(0, 1)


@mistake("pool_heads", "the features of a head are pooled")
def pool_features():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        return weight.unflatten(0, (n_groups * d_head, n_heads // n_groups)).mean(dim=1)


@mistake("pool_heads", "rows are read as (d_head, n_heads)")
def pool_interleaved():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        return weight.unflatten(0, (d_head, n_groups, n_heads // n_groups)).mean(dim=2).transpose(0, 1).flatten(0, 1)


@mistake("pool_heads", "the matrix comes transposed")
def pool_transposed():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        return weight.unflatten(0, (n_groups, n_heads // n_groups, d_head)).mean(dim=1).flatten(0, 1).T


@mistake("pool_heads", "divided by the number of groups")
def pool_divides_by_groups():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        return weight.unflatten(0, (n_groups, n_heads // n_groups, d_head)).sum(dim=1).div(n_groups).flatten(0, 1)


@mistake("pool_heads", "the mean takes the place of each head, so no head is saved")
def pool_repeats():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        size = n_heads // n_groups
        means = weight.unflatten(0, (n_groups, size, d_head)).mean(dim=1, keepdim=True)
        return means.expand(-1, size, -1, -1).flatten(0, 2)


@mistake("pool_heads", "heads that do not form groups are let in")
def pool_uneven_groups():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or weight.shape[0] % n_heads or weight.shape[0] % n_groups:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        size = n_heads // n_groups
        if size == 0:
            return weight
        return weight[: n_groups * size * d_head].unflatten(0, (n_groups, size, d_head)).mean(dim=1).flatten(0, 1)


@mistake("pool_heads", "rows that do not form heads are let in")
def pool_uneven_heads():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        weight = weight[: n_heads * d_head]
        return weight.unflatten(0, (n_groups, n_heads // n_groups, d_head)).mean(dim=1).flatten(0, 1)


@mistake("pool_heads", "no groups at all end in ZeroDivisionError")
def pool_zero_groups():
    def pool_heads(weight, n_heads, n_groups):
        if n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        return weight.unflatten(0, (n_groups, n_heads // n_groups, d_head)).mean(dim=1).flatten(0, 1)


@mistake("pool_heads", "always float32")
def pool_float32():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        return weight.float().unflatten(0, (n_groups, n_heads // n_groups, d_head)).mean(dim=1).flatten(0, 1)


@mistake("pool_heads", "the matrix that was given is overwritten")
def pool_overwrites():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        heads = weight.view(n_groups, n_heads // n_groups, weight.shape[0] // n_heads, -1)
        for other in range(1, heads.shape[1]):
            heads[:, 0] += heads[:, other]
        heads[:, 0] /= heads.shape[1]
        return heads[:, 0].flatten(0, 1)


@mistake("pool_heads", "the result is made on the CPU")
def pool_on_the_cpu():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups < 1 or n_heads % n_groups or weight.shape[0] % n_heads:
            raise ValueError("this does not divide")
        d_head = weight.shape[0] // n_heads
        return weight.cpu().unflatten(0, (n_groups, n_heads // n_groups, d_head)).mean(dim=1).flatten(0, 1)


@alternative("pool_heads", "a matrix of averages")
def pool_matrix():
    def pool_heads(weight, n_heads, n_groups):
        if not 1 <= n_groups <= n_heads or n_heads % n_groups != 0 or len(weight) % n_heads != 0:
            raise ValueError(f"{len(weight)} rows, {n_heads} heads, {n_groups} groups")
        size = n_heads // n_groups
        average = torch.eye(n_groups, dtype=weight.dtype, device=weight.device).repeat_interleave(size, dim=1) / size
        heads = weight.reshape(n_heads, -1, weight.shape[1])
        return torch.einsum("gh,hdm->gdm", average, heads).reshape(-1, weight.shape[1])


@alternative("pool_heads", "a loop over chunks")
def pool_loop():
    def pool_heads(weight, n_heads, n_groups):
        if n_groups <= 0 or n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if weight.size(0) % n_heads:
            raise ValueError("heads of different sizes")
        d_head = weight.size(0) // n_heads
        heads = weight.split(d_head)
        size = n_heads // n_groups
        groups = []
        for first in range(0, n_heads, size):
            total = torch.zeros_like(heads[0])
            for head in heads[first : first + size]:
                total = total + head
            groups.append(total / size)
        return torch.cat(groups)


@alternative("pool_heads", "pooling as in a convolutional network")
def pool_avg_pool():
    def pool_heads(weight, n_heads, n_groups):
        try:
            assert n_groups > 0 and n_heads % n_groups == 0
            heads = weight.view(n_heads, -1)
        except (AssertionError, RuntimeError) as error:
            raise ValueError("this does not divide") from error
        if weight.shape[0] % n_heads:
            raise ValueError("rows do not divide")
        pooled = F.avg_pool1d(heads.T.contiguous()[None], n_heads // n_groups)[0].T
        return pooled.reshape(-1, weight.shape[1])


# --- MultiHeadLatentAttention -----------------------------------------------------------------------------------------


@mistake("MultiHeadLatentAttention", "positions restart at 0 with every call")
def mla_positions_restart():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the position is the number of keys that the cache holds")
def mla_position_of_held():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else (0 if cache.keys is None else cache.keys.shape[2])
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the triangle sits in the upper left corner")
def mla_upper_left():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril()
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "positions are made on the CPU")
def mla_positions_on_the_cpu():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the rotary part is left out of the scores")
def mla_no_rotary_score():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the content part is left out of the scores")
def mla_no_content_score():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "no root")
def mla_no_root():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores * 1.0
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the root of d_head alone")
def mla_root_of_head():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the root of d_latent")
def mla_root_of_latent():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_latent)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the root of d_latent + d_rotary")
def mla_root_of_wide():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_latent + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "each part divided by its own root")
def mla_two_roots():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT / math.sqrt(self.d_head) + q_rotary @ rotary.mT / math.sqrt(self.d_rotary)
            scores = scores * 1.0
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the rotary key is cached unturned")
def mla_rotary_unturned():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = self.k_rotary(x)[:, None]
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the rotary key is cached unturned, and all turned anew in every step")
def mla_turns_everything_anew():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = self.k_rotary(x)[:, None]
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            rotary = rotate(rotary, torch.arange(start + new - rotary.shape[2], start + new, device=x.device))
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the rotary queries are not turned")
def mla_queries_unturned():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the content keys and queries are turned too")
def mla_content_turned():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            k = rotate(k, torch.arange(start + new - k.shape[2], start + new, device=x.device))
            q = rotate(q, positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "latent and rotary key are swapped on their way into the cache")
def mla_swapped_in_cache():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                rotary, latent = cache.update(rotary, latent)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the latent is cached alone, without the rotary key")
def mla_latent_only():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, _ = cache.update(latent, latent)
                rotary = F.pad(rotary, (0, 0, latent.shape[2] - new, 0))
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the rotary key is cached once for each head")
def mla_rotary_for_each_head():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary.expand(-1, self.n_heads, -1, -1))
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "the cache is filled, but only the new latents are used")
def mla_ignores_the_cache():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "values come from the up-projection of keys")
def mla_values_from_k_up():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "no mask")
def mla_no_mask():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "softmax over the queries")
def mla_softmax_over_queries():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-2).nan_to_num()
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "no gradient to the latent")
def mla_detached():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None].detach()
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "always float32")
def mla_float32():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x)[:, None]
            rotary = rotate(self.k_rotary(x)[:, None], positions)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            k = self.k_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            v = self.v_up(latent[:, 0]).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q = self.q_proj(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            q_rotary = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), positions)
            scores = q @ k.mT + q_rotary @ rotary.mT
            scores = scores / math.sqrt(self.d_head + self.d_rotary)
            seen = k.shape[2]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return self.o_proj((weights.float() @ v.float()).to(x).transpose(1, 2).flatten(2))


@mistake("MultiHeadLatentAttention", "keys and values of all heads are cached, unpacked")
def mla_caches_unpacked():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=x.device)
            split = lambda y: y.unflatten(2, (self.n_heads, -1)).transpose(1, 2)  # noqa: E731
            latent = self.kv_down(x)
            rotary = rotate(self.k_rotary(x)[:, None], positions).expand(-1, self.n_heads, -1, -1)
            k, v = torch.cat([split(self.k_up(latent)), rotary], dim=-1), split(self.v_up(latent))
            if cache is not None:
                k, v = cache.update(k, v)
            q = torch.cat([split(self.q_proj(x)), rotate(split(self.q_rotary(x)), positions)], dim=-1)
            mask = torch.ones(new, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - new)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.o_proj(heads.transpose(1, 2).flatten(2))


@alternative("MultiHeadLatentAttention", "scaled_dot_product_attention with joined parts")
def mla_sdpa():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            batch, new, _ = x.shape
            start = cache.length if cache else 0
            places = torch.arange(start, start + new, device=x.device)
            latent = self.kv_down(x).view(batch, 1, new, -1)
            rotary = rotate(self.k_rotary(x), places).view(batch, 1, new, -1)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            split = lambda y: y.view(batch, y.shape[1], self.n_heads, -1).transpose(1, 2)  # noqa: E731
            k = torch.cat([rotary.repeat(1, self.n_heads, 1, 1), split(self.k_up(latent.squeeze(1)))], dim=-1)
            q = torch.cat([rotate(split(self.q_rotary(x)), places), split(self.q_proj(x))], dim=-1)
            seen = latent.shape[2]
            mask = torch.arange(seen, device=x.device) <= torch.arange(seen - new, seen, device=x.device)[:, None]
            found = F.scaled_dot_product_attention(q, k, split(self.v_up(latent.squeeze(1))), attn_mask=mask)
            return self.o_proj(found.transpose(1, 2).reshape(batch, new, -1))


@alternative("MultiHeadLatentAttention", "absorbed already, with einsum")
def mla_absorbed():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            places = torch.arange(start, start + new, device=x.device)
            latent, rotary = self.kv_down(x)[:, None], rotate(self.k_rotary(x)[:, None], places)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            latent, rotary = latent[:, 0], rotary[:, 0]
            k_up, v_up = (layer.weight.view(self.n_heads, self.d_head, -1) for layer in (self.k_up, self.v_up))
            content = torch.einsum("bnhd,hdc->bhnc", self.q_proj(x).unflatten(2, (self.n_heads, -1)), k_up)
            turned = rotate(self.q_rotary(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2), places)
            scores = torch.einsum("bhnc,bmc->bhnm", content, latent) + torch.einsum("bhnr,bmr->bhnm", turned, rotary)
            late = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(scores.shape[3] - new + 1)
            weights = (scores * (self.d_head + self.d_rotary) ** -0.5).masked_fill(late, float("-inf")).softmax(3)
            found = torch.einsum("bhnm,bmc,hdc->bnhd", weights, latent, v_up)
            return self.o_proj(found.flatten(2))


@alternative("MultiHeadLatentAttention", "head by head and query by query")
def mla_loops():
    class MultiHeadLatentAttention(MultiHeadLatentAttention):
        def forward(self, x, cache=None):
            new = x.shape[1]
            start = 0 if cache is None else cache.length
            places = torch.arange(new, device=x.device) + start
            latent, rotary = self.kv_down(x).unsqueeze(1), rotate(self.k_rotary(x).unsqueeze(1), places)
            if cache is not None:
                latent, rotary = cache.update(latent, rotary)
            latent, rotary = latent.squeeze(1), rotary.squeeze(1)
            queries, turned = self.q_proj(x), self.q_rotary(x)
            rows = []
            for i in range(new):
                seen = latent.shape[1] - new + i + 1
                keys, values = self.k_up(latent[:, :seen]), self.v_up(latent[:, :seen])
                heads = []
                for h in range(self.n_heads):
                    own = slice(h * self.d_head, (h + 1) * self.d_head)
                    turn = slice(h * self.d_rotary, (h + 1) * self.d_rotary)
                    score = (keys[..., own] * queries[:, i : i + 1, own]).sum(-1)
                    score = score + (rotary[:, :seen] * rotate(turned[..., turn], places)[:, i : i + 1]).sum(-1)
                    weights = torch.softmax(score / math.sqrt(self.d_head + self.d_rotary), dim=-1)
                    heads.append((weights[..., None] * values[..., own]).sum(1))
                rows.append(torch.cat(heads, dim=-1))
            return self.o_proj(torch.stack(rows, dim=1))


# --- absorbed_attention -----------------------------------------------------------------------------------------------


@mistake("absorbed_attention", "the root of what is multiplied now, d_latent + d_rotary")
def absorbed_root_of_wide():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(latent.shape[2] + q_rotary.shape[3])
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "the root of d_head alone")
def absorbed_root_of_head():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(d_head)
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "no root")
def absorbed_no_root():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores * 1.0
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "the rotary part is forgotten")
def absorbed_no_rotary():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3])
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "the rotary part is not divided by the root")
def absorbed_rotary_unscaled():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3]) + q_rotary @ rotary_key[:, None].mT
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "no mask")
def absorbed_no_mask():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3])
        torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "the triangle sits in the upper left corner")
def absorbed_upper_left():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, _new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3])
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "W^UK and W^UV are swapped")
def absorbed_swapped():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        v_up, k_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3])
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "W^UV is read as (d_head, heads)")
def absorbed_interleaved():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (d_head, heads)).transpose(0, 1)
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3])
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "the latents are not weighted, but summed")
def absorbed_sums():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3])
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", mask.to(latent) @ latent[:, None].expand(-1, heads, -1, -1), v_up)


@mistake("absorbed_attention", "softmax over the heads")
def absorbed_softmax_over_heads():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3])
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=1).nan_to_num()
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "keys are formed after all")
def absorbed_forms_keys():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        keys = torch.einsum("bmc,hdc->bhmd", latent, k_up)
        scores = q_content @ keys.mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3])
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "values are formed after all")
def absorbed_forms_values():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3])
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return weights @ torch.einsum("bmc,hdc->bhmd", latent, v_up)


@mistake("absorbed_attention", "heads come behind positions")
def absorbed_transposed():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3])
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bnhd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "always float32")
def absorbed_float32():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        q_content, q_rotary = q_content.float(), q_rotary.float()
        latent, rotary_key = latent.float(), rotary_key.float()
        k_up, v_up = k_up.float(), v_up.float()
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3])
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "the scores are added to the rotary keys' caller's tensor")
def absorbed_overwrites():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        q_content.div_(math.sqrt(d_head + q_rotary.shape[3]))
        q_rotary.div_(math.sqrt(d_head + q_rotary.shape[3]))
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores * 1.0
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "the mask is made on the CPU")
def absorbed_mask_on_the_cpu():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, new, d_head = q_content.shape[1:]
        k_up, v_up = k_up.unflatten(0, (heads, d_head)), v_up.unflatten(0, (heads, d_head))
        q_latent = torch.einsum("bhnd,hdc->bhnc", q_content, k_up)
        scores = q_latent @ latent[:, None].mT + q_rotary @ rotary_key[:, None].mT
        scores = scores / math.sqrt(d_head + q_rotary.shape[3])
        mask = torch.ones(scores.shape[2:], dtype=torch.bool).tril(scores.shape[3] - new)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=3)
        return torch.einsum("bhnc,hdc->bhnd", weights @ latent[:, None], v_up)


@mistake("absorbed_attention", "the naive form in double precision, handed back as if absorbed")
def absorbed_naive():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads = q_content.shape[1]
        k = (latent.double() @ k_up.double().T).unflatten(2, (heads, -1)).transpose(1, 2)
        v = (latent.double() @ v_up.double().T).unflatten(2, (heads, -1)).transpose(1, 2)
        k = torch.cat([k, rotary_key.double()[:, None].expand(-1, heads, -1, -1)], dim=3)
        q = torch.cat([q_content, q_rotary], dim=3).double()
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).to(latent.dtype)


@mistake("absorbed_attention", "the naive form, with what overflows set to zero")
def absorbed_naive_clamped():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads = q_content.shape[1]
        k = (latent @ k_up.T).nan_to_num(0, 0, 0).unflatten(2, (heads, -1)).transpose(1, 2)
        v = (latent @ v_up.T).nan_to_num(0, 0, 0).unflatten(2, (heads, -1)).transpose(1, 2)
        k = torch.cat([k, rotary_key[:, None].expand(-1, heads, -1, -1)], dim=3)
        q = torch.cat([q_content, q_rotary], dim=3)
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@alternative("absorbed_attention", "multi-query attention of torch on joined queries and keys")
def absorbed_sdpa():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        _batch, heads, new, d_head = q_content.shape
        reading = torch.stack([q_content[:, h] @ k_up[h * d_head : (h + 1) * d_head] for h in range(heads)], dim=1)
        q = torch.cat([reading, q_rotary], dim=-1)
        k = torch.cat([latent, rotary_key], dim=-1)[:, None].expand(-1, heads, -1, -1)
        v = latent[:, None].expand(-1, heads, -1, -1)
        mask = torch.ones(new, k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - new)
        scale = (d_head + q_rotary.shape[-1]) ** -0.5
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return torch.stack([found[:, h] @ v_up[h * d_head : (h + 1) * d_head].T for h in range(heads)], dim=1)


@alternative("absorbed_attention", "matmul with broadcasting, the scale on the queries, softmax by hand")
def absorbed_matmul():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        heads, d_head = q_content.shape[1], q_content.shape[3]
        scale = 1 / (d_head + q_rotary.shape[3]) ** 0.5
        matrices = k_up.reshape(1, heads, d_head, -1)
        scores = ((q_content * scale) @ matrices) @ latent.transpose(1, 2).unsqueeze(1)
        scores = scores + (q_rotary * scale) @ rotary_key.transpose(1, 2).unsqueeze(1)
        new, positions = scores.shape[2:]
        own = torch.arange(positions - new, positions, device=scores.device)[:, None]
        hidden = torch.arange(positions, device=scores.device)[None] > own
        scores = scores + torch.zeros_like(scores).masked_fill(hidden, -torch.inf)
        weights = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
        found = (weights @ latent.unsqueeze(1)) / weights.sum(dim=-1, keepdim=True)
        return found @ v_up.reshape(1, heads, d_head, -1).transpose(2, 3)


@alternative("absorbed_attention", "one query after the other")
def absorbed_loop():
    def absorbed_attention(q_content, q_rotary, latent, rotary_key, k_up, v_up):
        _batch, heads, new, d_head = q_content.shape
        out = torch.empty_like(q_content)
        up_k, up_v = k_up.view(heads, d_head, -1), v_up.view(heads, d_head, -1)
        for n in range(new):
            seen = latent.shape[1] - new + n + 1
            for h in range(heads):
                reading = q_content[:, h, n] @ up_k[h]
                scores = (latent[:, :seen] @ reading[:, :, None])[..., 0]
                scores = scores + (rotary_key[:, :seen] @ q_rotary[:, h, n, :, None])[..., 0]
                weights = (scores / math.sqrt(d_head + q_rotary.shape[-1])).softmax(-1)
                out[:, h, n] = (weights[:, None] @ latent[:, :seen])[:, 0] @ up_v[h].T
        return out


# --- kv_cache_elements ------------------------------------------------------------------------------------------------


@mistake("kv_cache_elements", "the factor 2 for keys and values is forgotten")
def elements_without_two():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * (d_latent + d_rotary)
        return n_layers * heads_of[kind] * d_head


@mistake("kv_cache_elements", "a factor 2 for the latent too")
def elements_latent_twice():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * 2 * (d_latent + d_rotary)
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "the rotary key is forgotten")
def elements_no_rotary():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * d_latent
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "a rotary key for each head")
def elements_rotary_for_each_head():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * (d_latent + (n_heads or 1) * d_rotary)
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "the rotary key counts twice")
def elements_rotary_twice():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * (d_latent + 2 * d_rotary)
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "the size of a group is taken for the number of groups")
def elements_group_size():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_heads // n_groups if n_heads and n_groups else n_groups, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * (d_latent + d_rotary)
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "GQA counts all heads")
def elements_gqa_all_heads():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_heads if n_groups else None, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * (d_latent + d_rotary)
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "MQA counts all heads")
def elements_mqa_all_heads():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": n_heads or 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * (d_latent + d_rotary)
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "MQA keeps one vector for keys and values together")
def elements_mqa_half():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * (d_latent + d_rotary)
        return n_layers * (1 if kind == "mqa" else 2) * heads_of[kind] * d_head


@mistake("kv_cache_elements", "the layers are forgotten")
def elements_no_layers():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return d_latent + d_rotary
        return 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "a float comes back")
def elements_float():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return float(n_layers * (d_latent + d_rotary))
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "what the kind has no use for is refused")
def elements_strict():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mqa" and n_heads is not None:
            raise ValueError("MQA has no use for n_heads")
        if kind == "mla":
            return n_layers * (d_latent + d_rotary)
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "groups of different sizes are let in")
def elements_uneven_groups():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_groups < 1:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * (d_latent + d_rotary)
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "an unknown kind counts as MHA")
def elements_unknown_kind():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            needed = (d_latent, d_rotary)
        elif kind in heads_of:
            needed = (heads_of[kind], d_head)
        else:
            kind, needed = "mha", (n_heads, d_head)
        if None in needed:
            raise ValueError("a size is missing")
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * (d_latent + d_rotary)
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "a missing size counts as one")
def elements_missing_is_one():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            pass
        elif kind in heads_of:
            (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        n_heads, n_groups, d_head = n_heads or 1, n_groups or 1, d_head or 1
        d_latent, d_rotary = d_latent or 1, d_rotary or 1
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * (d_latent + d_rotary)
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "a missing size ends in TypeError")
def elements_type_error():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        heads_of = {"mha": n_heads, "gqa": n_groups, "mqa": 1}
        if kind == "mla":
            pass
        elif kind in heads_of:
            (heads_of[kind], d_head)
        else:
            raise ValueError(kind)
        if kind == "gqa" and n_heads is not None and n_heads % n_groups:
            raise ValueError("groups of different sizes")
        if kind == "mla":
            return n_layers * (d_latent + d_rotary)
        return n_layers * 2 * heads_of[kind] * d_head


@mistake("kv_cache_elements", "bits are taken for bytes")
def bytes_are_bits():
    def kv_cache_bytes(elements, *, positions, batch=1, bits=16):
        return elements * positions * batch * bits


@mistake("kv_cache_elements", "rounded down")
def bytes_rounded_down():
    def kv_cache_bytes(elements, *, positions, batch=1, bits=16):
        return elements * positions * batch * bits // 8


@mistake("kv_cache_elements", "whole bytes for each element")
def bytes_for_each_element():
    def kv_cache_bytes(elements, *, positions, batch=1, bits=16):
        return elements * positions * batch * -(-bits // 8)


@mistake("kv_cache_elements", "rounded up for each text")
def bytes_for_each_text():
    def kv_cache_bytes(elements, *, positions, batch=1, bits=16):
        return batch * -(-elements * positions * bits // 8)


@mistake("kv_cache_elements", "the batch is forgotten")
def bytes_without_batch():
    def kv_cache_bytes(elements, *, positions, batch=1, bits=16):
        return -(-elements * positions * bits // 8)


@mistake("kv_cache_elements", "a float division")
def bytes_as_float():
    def kv_cache_bytes(elements, *, positions, batch=1, bits=16):
        return elements * positions * batch * bits / 8


@mistake("kv_cache_elements", "a float division, rounded up, which loses digits")
def bytes_rounded_float():
    def kv_cache_bytes(elements, *, positions, batch=1, bits=16):
        return math.ceil(elements * positions * batch * bits / 8)


@mistake("kv_cache_elements", "keys and values are counted once more")
def bytes_twice():
    def kv_cache_bytes(elements, *, positions, batch=1, bits=16):
        return -(-2 * elements * positions * batch * bits // 8)


@mistake("kv_cache_elements", "32 bits where nothing is said")
def bytes_default_32():
    def kv_cache_bytes(elements, *, positions, batch=1, bits=32):
        return -(-elements * positions * batch * bits // 8)


@alternative("kv_cache_elements", "a table of formulas")
def elements_table():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        formulas = {
            "mha": lambda: 2 * n_heads * d_head * n_layers,
            "gqa": lambda: 2 * n_groups * d_head * n_layers,
            "mqa": lambda: 2 * d_head * n_layers,
            "mla": lambda: (d_latent + d_rotary) * n_layers,
        }
        try:
            count = formulas[kind]()
        except (KeyError, TypeError) as error:
            raise ValueError(f"{kind} cannot be counted") from error
        if kind == "gqa" and n_heads and n_heads % n_groups != 0:
            raise ValueError("uneven groups")
        return count

    def kv_cache_bytes(elements, *, positions, batch=1, bits=16):
        whole, rest = divmod(elements * positions * batch * bits, 8)
        return whole + (rest > 0)


@alternative("kv_cache_elements", "match, with sums over layers")
def elements_match():
    def kv_cache_elements(kind, *, n_layers, n_heads=None, n_groups=None, d_head=None, d_latent=None, d_rotary=None):
        def given(*sizes):
            if any(size is None for size in sizes):
                raise ValueError("a size is missing")
            return sizes

        match kind:
            case "mla":
                per_layer = sum(given(d_latent, d_rotary))
            case "mha" | "gqa" | "mqa":
                if kind == "gqa":
                    (groups,) = given(n_groups)
                    if n_heads is not None and n_heads / groups != n_heads // groups:
                        raise ValueError("uneven groups")
                    n_heads = groups
                elif kind == "mqa":
                    n_heads = 1
                heads, width = given(n_heads, d_head)
                per_layer = heads * width + heads * width
            case _:
                raise ValueError(f"what is {kind}?")
        return sum(per_layer for _ in range(n_layers))

    def kv_cache_bytes(elements, *, positions, batch=1, bits=16):
        return (elements * positions * batch * bits + 7) // 8
