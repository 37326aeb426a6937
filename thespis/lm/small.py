"""A small Llama with random weights, a token a character: nothing is downloaded."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Annotated

from thespis import config
from thespis.config import Count, Range
from thespis.fault import Fault
from thespis.lm import pretrained
from thespis.lm.pretrained import Pretrained
from thespis.lm.text import Text

if TYPE_CHECKING:
    from thespis.lm.model import Model

ALLOWED = "tiny, or with other sizes as tiny:dim=64,layers=2,heads=4,context=256; smollm2; the folder of a model of transformers"


@dataclasses.dataclass(frozen=True)
class Small:
    """The sizes of a Llama."""

    dim: Annotated[int, Range(2, 4096)] = 64
    """width; the hidden layer of each block has four times as many"""
    layers: Annotated[int, Range(1, 100)] = 2
    """blocks"""
    heads: Count = 4
    """of attention; each has an even number of dimensions"""
    context: Annotated[int, Range(2, 1_000_000)] = 256
    """tokens of a conversation at most"""

    def make(self, temperature: float = 1.0, rank: int = 0, precision: str = "float32") -> Model:
        """With weights from torch's generator. Fault: transformers is not installed; an adapter or bf16 is asked for."""
        if rank or precision != "float32":
            raise Fault("model: one from scratch is trained whole, in float32: leave --adapter and --precision out")
        transformers = pretrained.transformers_package()
        from thespis.lm.model import Model

        sizes = transformers.LlamaConfig(
            vocab_size=Text.size, hidden_size=self.dim, intermediate_size=4 * self.dim, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.heads, max_position_embeddings=self.context,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=Text.end, pad_token_id=None,
        )  # fmt: skip
        return Model(transformers.LlamaForCausalLM(sizes), Text(), temperature=temperature)

    def digest(self) -> None:
        """Of files that the weights are from: there are none."""


def parse(name: str) -> Small | Pretrained:
    """The sizes that a name such as tiny:dim=64,layers=2 gives; or the pretrained model of a folder, or smollm2. Fault: any other
    name."""
    if found := pretrained.find(name):
        return found
    kind, _, words = name.partition(":")
    pairs = [re.fullmatch(r"\s*(\w+)=([0-9]+)\s*", word) for word in words.split(",")] if words else []
    if kind != "tiny" or not all(pairs):
        raise Fault(f"model is {name!r}; allowed: {ALLOWED}")
    sizes = config.build(Small, {p[1]: int(p[2]) for p in pairs if p}, "model: ")
    if sizes.dim % (2 * sizes.heads):
        raise Fault(f"model is {name!r}: dim must be a multiple of twice the heads, {2 * sizes.heads}")
    return sizes
