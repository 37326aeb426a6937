"""What the name of a model stands for; among others the model of an earlier run, to set an adapter beside."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thespis.fault import Fault
from thespis.lm import pretrained
from thespis.lm.pretrained import Pretrained, beside
from thespis.lm.sizes import sized
from thespis.lm.small import Small

if TYPE_CHECKING:
    from thespis.lm.model import Model

ALLOWED = "tiny, or with other sizes as tiny:dim=64,layers=2,heads=4,context=256; smollm2; the folder of a model or of a run"


@dataclass(frozen=True)
class Earlier:
    """The run directory of an actor that writes, which was trained whole."""

    folder: Path
    name: str
    """of the model that it was itself trained from"""

    @property
    def context(self) -> int:
        """Tokens of a conversation at most."""
        return parse(self.name).context

    @property
    def file(self) -> Path:
        """Fault: the run has no policy yet."""
        if not (file := self.folder / "policy" / "last.safetensors").is_file():
            raise Fault(f"model: {self.folder} holds no policy yet")
        return file

    def digest(self) -> str:
        """SHA-256 of its weights."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def make(self, temperature: float = 1.0, rank: int = 0, precision: str = "float32", adapter: Any = None) -> Model:
        """As Pretrained.make. Fault: damaged weights."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        made = parse(self.name).make(temperature)
        try:
            found = load_file(self.file)
        except (OSError, SafetensorError) as error:
            raise Fault(f"model: {self.file} cannot be loaded ({type(error).__name__})") from None
        mine = made.weights()
        if any(k not in found or found[k].shape != x.shape for k, x in mine.items()):
            raise Fault(f"model: {self.file} does not fit the model that {self.folder} names")
        for k, x in mine.items():
            x.copy_(found[k])
        return beside(
            made.module.to(torch.bfloat16 if precision == "bf16" else torch.float32), made.text, temperature, rank, adapter
        )


def earlier(name: str) -> Earlier | None:
    """The run that a folder holds; None: it holds none. Fault: a run with an adapter."""
    folder, about = Path(name).expanduser(), None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        about = json.loads((folder / "config.json").read_text("utf-8"))
    run = about.get("run") if isinstance(about, dict) and isinstance(about.get("algo"), str) else None
    if not isinstance(run, dict):
        return None
    if not isinstance(run.get("model"), str) or run.get("adapter") != "none":
        raise Fault(
            f"model: {folder} is a run; allowed: those of actors that write, trained whole (--start-from goes on with others)"
        )
    return Earlier(folder, run["model"])


def parse(name: str) -> Small | Pretrained | Earlier:
    """The sizes that a name such as tiny:dim=64,layers=2 gives; or the model of a folder or of an earlier run, or smollm2. Fault:
    any other name."""
    if found := earlier(name) or pretrained.find(name):
        return found
    kind, _, words = name.partition(":")
    sizes: Small = sized(Small if kind == "tiny" else None, words, f"model is {name!r}; allowed: {ALLOWED}", "model: ")
    if sizes.dim % (2 * sizes.heads):
        raise Fault(f"model is {name!r}: dim must be a multiple of twice the heads, {2 * sizes.heads}")
    return sizes
