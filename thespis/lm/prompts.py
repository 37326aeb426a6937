"""Soft prompts beside a frozen model: prompt tuning (arXiv:2104.08691), DePT (2309.05173), EPT (2405.11464), IAPT (2405.18203).

`asked` is what stands before the first answer of a row. All that these do, they do there: of the tokens that follow a model reads
nothing but a longer cache.

Departures: one step size for all of an adapter. DePT's and EPT's offsets reach the question alone, as in their papers the
encoder's input. EPT's equations were not to be had: its fusion has no matrices of its own, its spaces are bottlenecks with tanh,
added to the prompt, and the gate sees the mean token. IAPT: all layers share down and up; the activations are learnt together
with the rest, not in a search of two levels; hidden states are brought to unit size, and what was pooled is normalised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from thespis.config import Count, Range
from thespis.fault import Fault
from thespis.lm.sizes import sized

GELU = (-0.0004, 0.5, 0.402558, 0.073028, -0.013354, -0.003809, 0.0, 0.146056, 0.0, -0.007619)
"""coefficients of `rational` that lie within 0.002 of GELU from -3 to 3"""
ALLOWED = "none, lora, prompt, dept, ept, iapt; with other sizes as prompt:tokens=100"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Prompt tuning: embeddings that are learnt stand before the question."""

    tokens: Annotated[int, Range(1, 10_000)] = 20
    """soft tokens"""

    def make(self, module: Any) -> Front:
        return Front(self, module.get_input_embeddings().weight)


@dataclasses.dataclass(frozen=True)
class Dept(Prompt):
    """A shorter prompt, and an offset to the embedding at each place of the question, of low rank."""

    rank: Count = 8
    """of the offsets"""
    length: Annotated[int, Range(1, 1_000_000)] = 64
    """places that have an offset"""


@dataclasses.dataclass(frozen=True)
class Ept(Dept):
    """DePT whose prompt looks at the offsets, and is seen from several spaces."""

    spaces: Annotated[int, Range(1, 100)] = 4
    width: Count = 8
    """of the bottleneck of each space"""


@dataclasses.dataclass(frozen=True)
class Iapt:
    """Prompts of every layer, made from the question by a generator."""

    tokens: Annotated[int, Range(1, 10_000)] = 4
    """soft tokens of a layer"""
    width: Count = 16
    """of the generator's bottleneck"""

    def make(self, module: Any) -> Layers:
        """Fault: the model's layers are not like Llama's."""
        return Layers(self, module)


KINDS = {"prompt": Prompt, "dept": Dept, "ept": Ept, "iapt": Iapt}


def adapter(name: str) -> Prompt | Iapt | None:
    """The sizes of soft prompts that a name such as ept:tokens=6,rank=8 gives; None: none and lora, which are no prompts. Fault:
    any other name."""
    if name in ("none", "lora"):
        return None
    kind, _, words = name.partition(":")
    return sized(KINDS.get(kind), words, f"adapter is {name!r}; allowed: {ALLOWED}", "adapter: ")


class Tables:
    """What stands before each question, and what is added at its places: constants, once they are learnt."""

    def __init__(self, prompt: Tensor, offsets: Tensor | None):
        """(s, H) and (n, H), or with an axis of rows before."""
        self.made = prompt, offsets

    def tables(self) -> tuple[Tensor, Tensor | None]:
        return self.made

    def read(self, decoder: Any, x: Tensor, asked: Tensor, there: Tensor | None = None) -> tuple[Tensor, Any, Tensor | None]:
        """Embeddings x (R, T, H), with the prompt before them: hidden states (R, T, H); where `there` (R, T) says which of them
        are tokens, also the cache, and `there` with the prompt."""
        prompt, offsets = self.tables()
        x = x if offsets is None else x + placed(offsets, asked).to(x.dtype)
        s = prompt.shape[-2]
        x = torch.cat([prompt.to(x.dtype).expand(len(x), s, -1), x], 1)
        if there is None:
            return decoder(inputs_embeds=x, use_cache=False).last_hidden_state[:, s:], None, None
        there = torch.cat([there.new_ones(len(there), s), there], 1)
        position = (there.cumsum(1) - 1).clamp(min=0)
        out = decoder(inputs_embeds=x, attention_mask=there, position_ids=position, use_cache=True)
        return out.last_hidden_state[:, s:], out.cache, there


class Front(Tables, nn.Module):
    """Prompt tuning, DePT and EPT, while they are learnt."""

    def __init__(self, sizes: Prompt, table: Tensor):
        nn.Module.__init__(self)
        self.sizes, h = sizes, table.shape[1]
        self.tokens = nn.Parameter(table.detach()[torch.randint(len(table), (sizes.tokens,))].float().clone())
        if isinstance(sizes, Dept):
            self.a = nn.Parameter(torch.randn(sizes.length, sizes.rank) / sizes.rank**0.5)
            self.b = nn.Parameter(torch.zeros(sizes.rank, h))
        if isinstance(sizes, Ept):
            self.down = nn.Parameter(torch.randn(sizes.spaces, h, sizes.width) / h**0.5)
            self.up = nn.Parameter(torch.zeros(sizes.spaces, sizes.width, h))
            self.gate = nn.Linear(h, sizes.spaces)

    def tables(self) -> tuple[Tensor, Tensor | None]:
        if not isinstance(self.sizes, Dept):
            return self.tokens, None
        offsets = self.a @ self.b
        if not isinstance(self.sizes, Ept):
            return self.tokens, offsets
        prompt = fused(self.tokens, offsets)
        return prompt + seen(prompt, self.down, self.up, self.gate(prompt.mean(0)).softmax(-1)), offsets


class Layers(nn.Module):
    """IAPT. With `rows` before the axes of its parameters each row has a generator of its own."""

    def __init__(self, sizes: Iapt, module: Any):
        super().__init__()
        decoder = module.get_decoder()
        first = getattr(decoder, "layers", [None])[0]
        parts = [getattr(first, "input_layernorm", None), *(getattr(getattr(first, "self_attn", None), k, None) for k in KEYS)]
        if None in parts or hasattr(first.self_attn, "k_norm"):
            raise Fault("adapter is iapt; allowed for models with Llama's layers (input_layernorm, self_attn.k_proj, v_proj)")
        h, m, layers = module.config.hidden_size, sizes.width, len(decoder.layers)
        self.sizes = sizes
        self.down, self.low = nn.Parameter(torch.randn(h, m) / h**0.5), nn.Parameter(torch.zeros(1, m))
        self.up, self.high = nn.Parameter(torch.randn(m, h) / m**0.5), nn.Parameter(torch.zeros(1, h))
        self.score = nn.Parameter(torch.randn(layers, m, sizes.tokens) / m**0.5)
        self.activation = nn.Parameter(torch.tensor(GELU).repeat(layers, 1))

    def prompts(self, i: int, x: Tensor, asked: Tensor) -> Tensor:
        """Of hidden states (R, T, H) that go into layer i its soft tokens (R, L, H)."""
        z = rms_norm(x.float(), x.shape[-1:]) @ self.down + self.low
        p = pooled(z, z @ self.score[..., i, :, :], asked)
        return rational(layer_norm(p, p.shape[-1:]), self.activation[..., i, :]) @ self.up + self.high

    def read(self, decoder: Any, x: Tensor, asked: Tensor, there: Tensor | None = None) -> tuple[Tensor, Any, Tensor | None]:
        """As Tables.read. The soft tokens of a layer are keys and values at its place 0, and nothing else; tokens come after."""
        from transformers import DynamicCache

        cache, count = DynamicCache(), self.sizes.tokens
        there = torch.cat(
            [x.new_ones(len(x), count, dtype=torch.int64), torch.ones_like(asked).long() if there is None else there], 1
        )
        handles = []
        for i, layer in enumerate(decoder.layers):
            size = layer.self_attn.head_dim
            shape = (len(x), layer.self_attn.k_proj.out_features // size, count, size)
            cache.update(x.new_zeros(shape), x.new_zeros(shape), i)
            handles.append(layer.register_forward_pre_hook(partial(self._enter, i, asked, cache, shape)))
        try:
            position = (there.cumsum(1) - 1).clamp(min=0)[:, count:]
            out = decoder(inputs_embeds=x, attention_mask=there, position_ids=position, cache=cache, use_cache=True)
        finally:
            for handle in handles:
                handle.remove()
        return out.last_hidden_state, out.cache, there

    def _enter(self, i: int, asked: Tensor, cache: Any, shape: Sequence[int], layer: Any, args: Sequence[Tensor]) -> None:
        """Puts the soft tokens of layer i into the cache, before the layer runs."""
        p = layer.input_layernorm(self.prompts(i, args[0], asked).to(args[0].dtype))
        rows, heads, count, size = shape
        for name, project in zip(("keys", "values"), KEYS, strict=True):
            made = getattr(layer.self_attn, project)(p).view(rows, count, heads, size).transpose(1, 2)
            setattr(cache.layers[i], name, made)


KEYS = ("k_proj", "v_proj")


def side_by_side(adapters: Sequence[Any]) -> Any:
    """For each row an adapter of its own, all of one kind and size: to read with, not to learn."""
    distinct = list({id(a): a for a in adapters}.values())
    index = torch.tensor([next(i for i, d in enumerate(distinct) if d is a) for a in adapters])
    if len({(type(a), getattr(a, "sizes", None)) for a in distinct}) > 1:
        raise Fault("adapters: allowed side by side are those of one kind and one size")
    if isinstance(distinct[0], Layers):
        made = Layers.__new__(Layers)
        nn.Module.__init__(made)
        made.sizes = distinct[0].sizes
        for name, _ in distinct[0].named_parameters():
            made.register_buffer(name, torch.stack([a.get_parameter(name).detach() for a in distinct])[index])
        return made
    tables = [a.tables() for a in distinct]
    offsets = None if tables[0][1] is None else torch.stack([o for _, o in tables if o is not None]).detach()[index]
    return Tables(torch.stack([p for p, _ in tables]).detach()[index], offsets)


def fused(prompt: Tensor, offsets: Tensor) -> Tensor:
    """(s, H), (n, H) -> (s, H): EPT's fusion, each soft token with what it attends to among the offsets."""
    return prompt + (prompt @ offsets.mT / prompt.shape[-1] ** 0.5).softmax(-1) @ offsets


def seen(prompt: Tensor, down: Tensor, up: Tensor, gate: Tensor) -> Tensor:
    """(s, H), (k, H, q), (k, q, H), (k,) -> (s, H): EPT's projections to several spaces and back, by their shares."""
    return (gate[:, None, None] * ((prompt @ down).tanh() @ up)).sum(0)


def placed(offsets: Tensor, asked: Tensor) -> Tensor:
    """(n, H) or (R, n, H), (R, T) -> (R, T, H): the offset of each place of the question, 0 beyond n and behind it."""
    place = (asked.cumsum(1) - 1).clamp(min=0)
    inside = asked & (place < offsets.shape[-2])
    index = place.clamp(max=offsets.shape[-2] - 1)
    found = offsets[index] if offsets.dim() == 2 else offsets[torch.arange(len(asked))[:, None], index]
    return found * inside[..., None]


def pooled(z: Tensor, scores: Tensor, asked: Tensor) -> Tensor:
    """(R, T, m), (R, T, L), (R, T) -> (R, L, m): IAPT's pooling, means of the question's places by learnt weights."""
    weights = scores.masked_fill(~asked[..., None], -torch.inf).softmax(1)
    return weights.mT @ z


def rational(x: Tensor, c: Tensor) -> Tensor:
    """(R, L, m), (10,) or (R, 10): IAPT's activation, a polynomial of degree 5 by 1 + |one of degree 4 without a constant|."""
    each = (c if c.dim() == 1 else c[:, None, None]).unbind(-1)
    top, under = torch.zeros_like(x), torch.zeros_like(x)
    for a in reversed(each[:6]):
        top = top * x + a
    for b in reversed(each[6:]):
        under = (under + b) * x
    return top / (1 + under.abs())
