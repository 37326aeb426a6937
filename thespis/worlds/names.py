"""Short texts that every Python has, and a small character model of them: what private fine-tuning is tried on."""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LENGTH", "Decoder", "encoded", "names", "pretrained", "prose"]

LENGTH, END, SPACE, WORDS = 24, 27, 0, 28
"""characters of a text at most; its end and the space; characters in all: these and A to Z"""
Params = dict[str, Tensor]


def encoded(texts: list[str]) -> Tensor:
    """(n, LENGTH + 1): END, then the characters, those after LENGTH left out; END again fills what is left."""
    rows = torch.full((len(texts), LENGTH + 1), END)
    for row, text in zip(rows, texts, strict=True):
        found = torch.tensor([SPACE if c == " " else ord(c) - 64 for c in text[:LENGTH]])
        row[1 : 1 + len(found)] = found
    return rows


@cache
def names(part: int) -> list[str]:
    """One of two parts of the names in Unicode 3.2, the same in every Python: those of letters and spaces alone; of the syllables
    that are named by the thousand, none. A checksum deals them."""
    old, found = unicodedata.ucd_3_2_0, set()
    for code in range(0x20000):
        text = old.name(chr(code), "")
        if re.fullmatch("[A-Z ]+", text) and not text.startswith(("HANGUL SYLLABLE", "YI SYLLABLE", "ETHIOPIC SYLLABLE")):
            found.add(text)
    return sorted(text for text in found if zlib.crc32(text.encode()) % 2 == part)


@cache
def prose() -> Tensor:
    """Python's own reference manual, as pydoc shows it: its letters as capitals, all else as spaces; (characters,)."""
    from pydoc_data.topics import topics

    text = re.sub("[^A-Z]+", " ", " ".join(topics[k] for k in sorted(topics)).upper())
    return torch.tensor([SPACE if c == " " else ord(c) - 64 for c in text])


class Decoder:
    """A causal transformer over 28 characters, its weights frozen, with LoRA adapters (arXiv:2106.09685) of `rank` on what
    attention reads and on each block's hidden layer: two adapters a block, "0.read", "0.hidden", "1.read", ..."""

    def __init__(self, dim: int = 32, blocks: int = 2, heads: int = 2, rank: int = 4) -> None:
        self.dim, self.blocks, self.heads, self.rank = dim, blocks, heads, rank
        self.adapters = [f"{i}.{kind}" for i in range(blocks) for kind in ("read", "hidden")]
        self.past = torch.full((LENGTH, LENGTH), -1e9).triu(1)
        self.base: Params = {}

    def start(self, rng: torch.Generator) -> Params:
        """Base weights before training."""
        d = self.dim
        sizes = {"characters": (WORDS, d), "places": (LENGTH, d)}
        for i in range(self.blocks):
            sizes |= {f"{i}.read": (3 * d, d), f"{i}.attended": (d, d), f"{i}.hidden": (4 * d, d), f"{i}.out": (d, 4 * d)}
        return {k: torch.randn(size, generator=rng) * (0.3 if "." not in k else size[1] ** -0.5) for k, size in sizes.items()}

    def lora(self, rng: torch.Generator) -> Params:
        """Adapters that change nothing yet: "down" (rank, dim) is normal, "up" (out, rank) is 0."""
        found: Params = {}
        for name in self.adapters:
            found[f"{name}.down"] = torch.randn(self.rank, self.dim, generator=rng) * self.dim**-0.5
            found[f"{name}.up"] = torch.zeros((3 if name.endswith("read") else 4) * self.dim, self.rank)
        return found

    def loss(self, lora: Params, rows: Tensor, base: Params | None = None) -> Tensor:
        """Nats a character of rows (..., LENGTH + 1), of all that they write, END included: (...)."""
        base, seen, wanted = self.base if base is None else base, rows[..., :-1], rows[..., 1:]
        h = base["characters"][seen] + base["places"]
        for i in range(self.blocks):
            q, k, v = self._adapted(base, lora, f"{i}.read", _normed(h)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
            q, k, v = q.transpose(-2, -3), k.transpose(-2, -3), v.transpose(-2, -3)
            weight = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + self.past).softmax(-1)
            h = h + (weight @ v).transpose(-2, -3).flatten(-2) @ base[f"{i}.attended"].T
            h = h + F.gelu(self._adapted(base, lora, f"{i}.hidden", _normed(h))) @ base[f"{i}.out"].T
        logp = (_normed(h) @ base["characters"].T).log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
        counts = (seen != END) | (torch.arange(LENGTH) == 0)
        return -(logp * counts).sum(-1) / counts.sum(-1)

    def _adapted(self, base: Params, lora: Params, name: str, x: Tensor) -> Tensor:
        straight = x @ base[name].T
        return straight + x @ lora[f"{name}.down"].mT @ lora[f"{name}.up"].mT if lora else straight


def _normed(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


@cache
def pretrained(steps: int = 300, batch: int = 32, lr: float = 1e-2) -> Decoder:
    """A decoder that has read `prose`: the same steps of Adam (arXiv:1412.6980), from the same seed, in every process."""
    made, rng = Decoder(), torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad():
        base, text = {k: v.requires_grad_() for k, v in made.start(rng).items()}, prose()
        optimiser = torch.optim.Adam(base.values(), lr)
        for t in range(steps):
            at = torch.randint(len(text) - LENGTH, (batch, 1), generator=rng) + torch.arange(LENGTH)
            rows = torch.cat([torch.full((batch, 1), END), text[at]], 1)
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1, (t + 1) / 20) * (1 - t / steps)
            optimiser.zero_grad()
            made.loss({}, rows, base).mean().backward()
            optimiser.step()
    made.base = {k: v.detach() for k, v in base.items()}
    return made
