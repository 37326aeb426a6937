"""Language models that own their weights. transformers is imported here alone, and only when a model is made."""

from thespis.lm.model import Model, padded
from thespis.lm.small import Small, parse
from thespis.lm.text import Text

__all__ = ["Model", "Small", "Text", "padded", "parse"]
