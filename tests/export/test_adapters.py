"""The adapter of an actor that writes as a folder: what transformers and peft say with it, without a line of Thespis."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import thespis
from thespis import language
from thespis.core import Fault
from thespis.lm import padded

peft = pytest.importorskip("peft")
QUICK: dict[str, Any] = {
    "answer_tokens": 4,
    "eval_episodes": 0,
    "panel": False,
    "quiet": True,
    "sinks": (),
    "env_args": {"steps": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two updates of LoRA beside a small Llama with random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("export")
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    tokenizer.save_pretrained(path / "model")
    torch.manual_seed(0)
    sizes = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(sizes).save_pretrained(path / "model")
    made = thespis.train(
        "sft", env="thespis/Chains-v0", out=path / "run", steps=16, batch_size=8, lr=0.1, adapter="lora", rank=2,
        model=str(path / "model"), **QUICK,
    )  # fmt: skip
    return made.path


def test_peft_says_what_the_run_learnt(run: Path) -> None:
    """Log-probabilities of transformers with the folder, at the run's own temperature of 1."""
    from transformers import AutoModelForCausalLM

    made = thespis.export(run, "peft")
    assert made.path == run / "policy" / "last.peft"
    assert made.difference < 1e-4
    assert {p.name for p in made.path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    _, mine, _ = language.writer(run)
    tokens = mine.text.asked("7+5=") + mine.text.answered("12")
    read = mine.read(padded([(tokens, [False] + [True] * (len(tokens) - 1))]))[0, 1:]
    base = AutoModelForCausalLM.from_pretrained(run.parent / "model")
    plain = base(torch.tensor([tokens])).logits.log_softmax(-1)[0, :-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    theirs = peft.PeftModel.from_pretrained(base, made.path).eval()
    said = theirs(torch.tensor([tokens])).logits.log_softmax(-1)[0, :-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    torch.testing.assert_close(said, read, atol=1e-5, rtol=0)
    assert float((plain - read).abs().max()) > 1e-2, "it learnt something"
    merged = theirs.merge_and_unload()(torch.tensor([tokens])).logits.log_softmax(-1)[0, :-1]
    torch.testing.assert_close(merged.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0], read, atol=1e-4, rtol=0)
    assert json.loads((made.path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(run.parent / "model")


def test_a_prompt_is_peft_s_prompt_tuning(run: Path, tmp_path: Path) -> None:
    """The folder is written only where peft says the same with it; here the number of soft tokens is looked at, too."""
    made = thespis.train(
        "sft", env="thespis/Chains-v0", out=tmp_path / "run", steps=16, batch_size=8, lr=0.1, adapter="prompt:tokens=3",
        model=str(run.parent / "model"), **QUICK,
    )  # fmt: skip
    exported = thespis.export(made, "peft")
    assert exported.difference < 1e-4
    about = json.loads((exported.path / "adapter_config.json").read_text())
    assert (about["peft_type"], about["num_virtual_tokens"], about["token_dim"]) == ("PROMPT_TUNING", 3, 16)


def refused(says: str, *args: Any, **how: Any) -> None:
    with pytest.raises(Fault, match=says) as told:
        thespis.export(*args, **how)
    assert "\n" not in str(told.value)


def test_what_cannot_be_exported_is_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "adapter"
    thespis.export(run, "peft", out=out)
    refused("adapter exists; give another", run, "peft", out=out)
    before = (out / "adapter_model.safetensors").read_bytes()
    thespis.export(run, "peft", out=out, force=True)
    assert (out / "adapter_model.safetensors").read_bytes() == before
    (tmp_path / "mine").mkdir()
    refused("mine exists; give another", run, "peft", out=tmp_path / "mine", force=True)
    refused("there is no directory", run, "peft", out=tmp_path / "none" / "adapter")
    refused("which is 'best'", run, "peft", which="best", out=tmp_path / "b")
    refused("actors that write: .* is none", tmp_path, "peft", out=tmp_path / "b")
    whole = thespis.train(
        "sft", env="thespis/Chains-v0", out=tmp_path / "whole", steps=8, batch_size=8, model="tiny:dim=8", **QUICK
    )
    refused("the adapter of .*whole is none", whole, "peft")
    monkeypatch.setattr("thespis.adapters.TOLERANCE", -1.0)
    refused("what peft reads would differ", run, "peft", out=tmp_path / "b")
    assert {p.name for p in tmp_path.iterdir()} == {"adapter", "mine", "whole"}, "nothing half-written"
    model = run.parent / "model" / "tokenizer_config.json"
    model.write_text(model.read_text() + " ")
    refused("have changed since", run, "peft", out=tmp_path / "b")
