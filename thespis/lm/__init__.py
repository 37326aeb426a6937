"""Language models that own their weights. transformers is imported here alone, and only when a model is made."""

from thespis.lm.model import Model, padded
from thespis.lm.names import parse
from thespis.lm.pretrained import Pretrained, prepare
from thespis.lm.prompts import adapter
from thespis.lm.small import Small
from thespis.lm.soft import Soft
from thespis.lm.text import Text, Tokens

__all__ = ["Model", "Pretrained", "Small", "Soft", "Text", "Tokens", "adapter", "padded", "parse", "prepare"]
