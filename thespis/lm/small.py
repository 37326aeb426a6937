"""A small Llama with random weights, a token a character: nothing is downloaded."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from thespis.config import Count, Range
from thespis.fault import Fault
from thespis.lm import pretrained
from thespis.lm.text import Text

if TYPE_CHECKING:
    from thespis.lm.model import Model


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

    def make(self, temperature: float = 1.0, rank: int = 0, precision: str = "float32", adapter: Any = None) -> Model:
        """With weights from torch's generator. Fault: transformers is not installed; an adapter or bf16 is asked for."""
        if rank or adapter or precision != "float32":
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
