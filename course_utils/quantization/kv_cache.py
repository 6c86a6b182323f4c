"""A cache of keys and values in few bits, packed, behind the protocol of the attention room.

Numbers that share a range are written as codes from its lowest to its highest: number = code *
scale + lowest. Which numbers share one is the question. Per TOKEN: the channels of one head of one
token. Per CHANNEL: one channel of a head over `group` tokens. Keys of large models have channels
that are large at every token; a range per token must span them and leaves the others few codes, a
range per channel gives each its own. Values have no such channels. So KIVI takes keys per channel
and values per token. Whether a model has such channels must be measured.

A range over tokens needs the tokens: they are packed when a group is full. The newest ones, less
than a group, stay in full precision.

`update` returns what the cache holds, unpacked: a kernel would read the codes. Left out: that
kernel, a longer window in full precision (KIVI keeps 128 tokens), and prompts that attend to
themselves before they are rounded. Source: Liu et al. 2024, "KIVI", sections 3.2 and 3.3.
"""

import torch
from torch import Tensor

from course_utils.quantization.packing import pack, packed_columns, unpack

AXES = {"channel": -2, "token": -1}


def quantize_keys(k_BGSd: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (..., S, d), uint8, with a scale and a lowest value for each channel, (..., 1, d).

    A channel's range is that over its S tokens, from its lowest number (code 0) to its highest. A
    channel that never changes has scale 1. Read with code * scale + lowest.
    """
    lowest = k_BGSd.amin(-2, keepdim=True)
    width = k_BGSd.amax(-2, keepdim=True) - lowest
    scale = torch.where(width == 0, 1.0, width / (2**bits - 1))
    codes = ((k_BGSd - lowest) / scale).round().clamp(0, 2**bits - 1)
    return codes.to(torch.uint8), scale, lowest


def quantize_values(v_BGSd: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same with a range for each token: codes (..., S, d), scale and lowest (..., S, 1)."""
    codes, scale, lowest = quantize_keys(v_BGSd.mT, bits)
    return codes.mT, scale.mT, lowest.mT


ALONG = {"channel": quantize_keys, "token": quantize_values}


def round_cache(x_BGSd: Tensor, bits: int, along: str, group: int = 32) -> Tensor:
    """Keys or values after rounding in groups of tokens; tokens that fill none stay: simulated."""
    full = x_BGSd.shape[-2] // group * group
    groups = x_BGSd[..., :full, :].unflatten(-2, (-1, group))
    codes, scale, lowest = ALONG[along](groups, bits)
    return torch.cat([(codes * scale + lowest).flatten(-3, -2), x_BGSd[..., full:, :]], dim=-2)


class _Packed:
    """Keys, or values, of all layers: groups of tokens in few bits, the newest in full."""

    def __init__(self, layers, batch, heads, capacity, head_dim, bits, along, group, **options):
        if along not in AXES:
            raise ValueError(f"along is {along!r}: choose 'channel' or 'token'")
        self.bits, self.along, self.shape = bits, along, (group, head_dim)
        place = (layers, batch, heads, -(-capacity // group))
        ranges = (1, head_dim) if along == "channel" else (group, 1)
        device = options["device"]
        row = packed_columns(group * head_dim, bits)
        self.packed = torch.zeros(*place, row, dtype=torch.uint8, device=device)
        self.ranges = torch.zeros(2, *place, *ranges, dtype=torch.float16, device=device)
        self.newest = torch.zeros(*place[:3], group, head_dim, **options)

    def write(self, layer: int, first: int, groups: Tensor) -> None:
        """Pack groups of tokens (B, G, N, group, d) behind the `first` groups."""
        _, scale, lowest = ALONG[self.along](groups, self.bits)
        scale, lowest = scale.half(), lowest.half()  # as stored; codes are chosen for these
        codes = ((groups - lowest) / scale).round().clamp(0, 2**self.bits - 1).to(torch.uint8)
        here = slice(first, first + groups.shape[2])
        self.packed[layer, :, :, here] = pack(codes.flatten(-2), self.bits)
        self.ranges[0, layer, :, :, here], self.ranges[1, layer, :, :, here] = scale, lowest

    def read(self, layer: int, groups: int) -> Tensor:
        """The first groups unpacked, (B, G, groups * group, d)."""
        rows = self.packed[layer, :, :, :groups]
        codes = unpack(rows, self.bits, self.shape[0] * self.shape[1]).unflatten(-1, self.shape)
        scale, lowest = self.ranges[:, layer, :, :, :groups].to(self.newest.dtype)
        return (codes * scale + lowest).flatten(2, 3)

    def update(self, layer: int, length: int, new_BGTd: Tensor) -> Tensor:
        """Take new tokens behind `length` others; return all of them, (B, G, S, d)."""
        group = self.shape[0]
        done, loose = divmod(length, group)
        waiting = torch.cat([self.newest[layer, :, :, :loose], new_BGTd], dim=2)
        groups, rest = divmod(waiting.shape[2], group)
        if groups:
            full = waiting[:, :, : groups * group].unflatten(2, (groups, group))
            self.write(layer, done, full)
        newest = waiting[:, :, groups * group :]
        self.newest[layer, :, :, :rest] = newest
        return torch.cat([self.read(layer, done + groups), newest], dim=2)

    def bytes(self, length: int) -> int:
        """Bytes in use after so many tokens."""
        groups, loose = divmod(length, self.shape[0])
        used = (self.packed[:, :, :, :groups], self.ranges[:, :, :, :, :groups])
        return sum(t.numel() * t.element_size() for t in (*used, self.newest[..., :loose, :]))


class QuantizedKVCache:
    """Keys and values of every layer in `bits` bits; answers what a model asks of its cache.

    keys, values: "channel" or "token". Raises ValueError as `KVCache` does.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        capacity: int,
        head_dim: int,
        bits: int = 2,
        keys: str = "channel",
        values: str = "token",
        group: int = 32,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        sizes = (layers, batch, heads, capacity, head_dim)
        if min(*sizes, group) < 1:
            raise ValueError(f"cache of sizes {sizes}, groups of {group}: every size must be >= 1")
        options = {"dtype": dtype, "device": device}
        self.keys = _Packed(*sizes, bits, keys, group, **options)
        self.values = _Packed(*sizes, bits, values, group, **options)
        self.batch, self.heads, self.capacity, self.group = batch, heads, capacity, group
        self.length = 0

    def update(self, layer: int, k_BGTd: Tensor, v_BGTd: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values; return those of all tokens, rounded where packed."""
        end = self.length + k_BGTd.shape[2]
        if end > self.capacity:
            raise ValueError(
                f"{end} tokens do not fit a cache of {self.capacity}: allocate it larger, "
                "or generate fewer tokens"
            )
        if tuple(k_BGTd.shape[:2]) != (self.batch, self.heads):
            raise ValueError(
                f"keys of (batch, heads) {tuple(k_BGTd.shape[:2])} do not fit a cache made for "
                f"{(self.batch, self.heads)}: make one cache per batch"
            )
        keys = self.keys.update(layer, self.length, k_BGTd)
        return keys, self.values.update(layer, self.length, v_BGTd)

    def advance(self, tokens: int) -> None:
        self.length += tokens

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`. A group that is broken open is unpacked."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot go back to {length} tokens: the cache holds {self.length}")
        groups, loose = divmod(length, self.group)
        if groups < self.length // self.group:
            for part in (self.keys, self.values):
                for layer in range(len(part.packed)):
                    opened = part.read(layer, groups + 1)[:, :, groups * self.group :]
                    part.newest[layer, :, :, :loose] = opened[:, :, :loose]
        self.length = length

    def bytes(self) -> int:
        """Bytes in use now, scales and the newest tokens included."""
        return self.keys.bytes(self.length) + self.values.bytes(self.length)
