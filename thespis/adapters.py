"""The adapter of an actor that writes, as a folder that transformers and peft load beside the model that it is for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from thespis import language
from thespis.core import Fault
from thespis.engine import checkpoint
from thespis.lm import Model, padded, parse

TOLERANCE = 1e-3
"""nats that a log-probability may differ by when peft reads the folder: far above float32's rounding"""


def write(folder: Path, out: Path, which: str = "last", force: bool = False) -> float:
    """Writes the adapter of a run to the folder `out`, after peft has read it: the largest difference of a log-probability.

    Fault: no run of an actor that writes, or one without an adapter that peft has; `out` exists (and not `force`); peft reads
    something else."""
    if not language.is_written(folder):
        raise Fault(f"format is peft; allowed for runs of actors that write: {folder} is none")
    run, model, _ = language.writer(folder, which, precision="float32")
    if run.adapter != "lora" and run.adapter.partition(":")[0] != "prompt":
        raise Fault(f"format is peft; allowed for runs with --adapter lora or prompt: the adapter of {folder} is {run.adapter}")
    if out.exists() and not (force and (out / "adapter_config.json").is_file()):
        raise Fault(f"out: {out} exists; give another with --out, or --force to replace an adapter")
    if not out.parent.is_dir():
        raise Fault(f"out: there is no directory {out.parent}")
    base = str(getattr(parse(run.model), "folder", run.model))
    half = out.with_name(f"{out.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    try:
        tensors = {f"base_model.model.{k.replace('.default.', '.')}": x for k, x in model.weights().items() if "lora_" in k}
        tensors |= {} if model.adapter is None else {"prompt_embeddings": model.adapter.tokens.detach()}
        checkpoint.write_tensors(half / "adapter_model.safetensors", {k: x.contiguous() for k, x in tensors.items()})
        _config(run.rank, base, model).save_pretrained(half)
        difference = _try(model, half, run.model)
        shutil.rmtree(out, ignore_errors=True)
        half.rename(out)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return difference


def _config(rank: int, base: str, model: Model) -> Any:
    import peft

    how: dict[str, Any] = {"task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True}
    if model.adapter is not None:
        sizes = model.module.config
        how |= {"token_dim": sizes.hidden_size, "num_layers": sizes.num_hidden_layers, "num_transformer_submodules": 1}
        how |= {"num_attention_heads": sizes.num_attention_heads, "num_virtual_tokens": model.adapter.sizes.tokens}
        return peft.PromptTuningConfig(**how)
    names = sorted({k.partition(".lora_")[0].rpartition(".")[2] for k in model.weights() if "lora_" in k})
    return peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, **how)


@torch.no_grad()
def _try(model: Model, folder: Path, name: str) -> float:
    """The largest difference between what `model` says of made-up tokens and what peft makes of the folder."""
    import peft

    tokens = torch.arange(24) * 7919 % model.module.config.vocab_size
    said = model.read(padded([(tokens.tolist(), [False] + [True] * 23)]))[0, 1:]
    theirs = peft.PeftModel.from_pretrained(parse(name).make().module, folder).eval()
    logits = theirs(input_ids=tokens[None]).logits[0, -24:-1].float() / model.temperature
    difference = float((logits.log_softmax(-1).gather(1, tokens[1:, None])[:, 0] - said).abs().max())
    if not difference <= TOLERANCE:
        raise Fault(f"format is peft: what peft reads would differ by up to {difference:.2g} nats")
    return difference
