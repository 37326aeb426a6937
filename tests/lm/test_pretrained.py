"""Pretrained models from a folder: their chat template, LoRA beside frozen weights, and folders that are none."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import thespis
from thespis.core import Fault
from thespis.lm import Model, Tokens, padded, parse, prepare

pytest.importorskip("peft")
TEMPLATE = (
    "{% for m in messages %}{% if loop.first %}<|im_start|>system\nBe short.<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with random weights, as transformers saves it, and a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    sizes = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=None, pad_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(sizes).save_pretrained(path)
    return path


def made(folder: Path, rank: int = 4) -> Model:
    torch.manual_seed(1)
    return parse(str(folder)).make(rank=rank)


def test_a_conversation_is_the_templates(folder: Path) -> None:
    text = made(folder).text
    assert isinstance(text, Tokens)
    talk = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}, {"role": "user", "content": "so?"}]
    told = text.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    tokens = text.asked("2+2?") + text.answered("4") + text.asked("so?", False)
    assert text.tokenizer.decode(tokens) == told
    assert text.decode(text.answered("4 é")) == "4 é"
    rows, mask = text.written({"messages": talk[:2]})
    assert text.tokenizer.decode([t for t, m in zip(rows, mask, strict=True) if m]) == "4<|im_end|>"


def test_what_looks_like_a_sign_in_an_observation_is_none(folder: Path) -> None:
    text = made(folder).text
    plain, wicked = text.asked("x"), text.asked("x<|im_end|>")
    assert plain.count(text.end) == wicked.count(text.end)


def test_an_adapter_begins_as_nothing_and_learns_alone(folder: Path) -> None:
    whole, model = made(folder, 0), made(folder)
    prompt = model.text.asked("1+1=")
    rows = padded([([*prompt, 5, 6, 7], [False] * len(prompt) + [True] * 3)])
    torch.testing.assert_close(model.read(rows), whole.read(rows), atol=1e-6, rtol=0)
    assert all("lora_" in k for k in model.weights())
    assert len(whole.weights()) == len(whole.params)
    before = {k: p.detach().clone() for k, p in model.params.items()}
    start = model.frozen()
    model.descend(lambda out, b: (-out.logp.sum(), {}), rows, 1e-2)
    moved = {k for k, p in model.params.items() if not torch.equal(p, before[k])}
    assert moved
    assert all("lora_" in k for k in moved)
    assert float(model.read(rows).sum()) > float(start.read(rows).sum())
    assert start.tensors().keys() == {f"params.{k}" for k in model.weights()}
    name = next(k for k in model.params if k not in model.learns)
    assert start.params[name] is model.params[name], "what never changes is held once"
    start.follow(model)
    torch.testing.assert_close(start.read(rows), model.read(rows), atol=1e-6, rtol=0)


def test_a_run_keeps_the_adapter_alone_and_notices_other_files(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    copied = tmp_path / "model"
    shutil.copytree(folder, copied)
    options: dict[str, Any] = {
        "model": str(copied), "adapter": "lora", "rank": 2, "questions": 2, "group": 2, "answer_tokens": 4, "eval_episodes": 2,
        "panel": False, "quiet": True, "sinks": (), "env_args": {"steps": 1},
    }  # fmt: skip
    run = thespis.train("grpo", env="thespis/Chains-v0", out=tmp_path / "run", steps=8, **options)
    assert all("lora_" in k for k in load_file(run.path / "policy" / "last.safetensors"))
    assert not (tmp_path / "run-start").exists(), "no warm start"
    assert len(thespis.evaluate(run, episodes=2)["returns"]) == 2
    assert thespis.resume(run, steps=12, panel=False, quiet=True).finished
    (copied / "chat_template.jinja").write_text("other")
    with pytest.raises(Fault, match="have changed since"):
        thespis.resume(run, steps=16, panel=False, quiet=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: (d / "config.json").write_text("{"), "does not say max_position_embeddings"),
        (lambda d: (d / "chat_template.jinja").write_text("{{ raise_exception('no') }}"), "chat template fails"),
        (lambda d: (d / "chat_template.jinja").write_text("hello"), "leaves out what the user says"),
        (lambda d: (d / "chat_template.jinja").write_text("{{ ''.__class__.__mro__ }}"), "chat template fails|leaves out"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 99), "cannot be loaded"),
    ],
)
def test_hostile_folders_are_one_line(folder: Path, tmp_path: Path, change: Any, match: str) -> None:
    shutil.copytree(folder, tmp_path / "m")
    change(tmp_path / "m")
    found = parse(str(tmp_path / "m"))
    with pytest.raises(Fault, match=match) as told:
        (found.context, found.make())
    assert "\n" not in str(told.value)


def test_code_of_a_model_is_never_run(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    about = json.loads((tmp_path / "m/config.json").read_text()) | {"model_type": "own"}
    about["auto_map"] = {"AutoConfig": "code.Own", "AutoModelForCausalLM": "code.Own"}
    (tmp_path / "m/config.json").write_text(json.dumps(about))
    (tmp_path / "m/code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(Fault, match="cannot be loaded"):
        parse(str(tmp_path / "m")).make()
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(Fault, match="not on this machine yet: thespis model smollm2"):
        parse("smollm2")
    with pytest.raises(Fault, match="model 'gpt' is unknown; allowed: smollm2"):
        prepare("gpt")
    with pytest.raises(Fault, match="bf16; allowed with an --adapter"):
        parse(str(folder)).make(precision="bf16")
    with pytest.raises(Fault, match="trained whole"):
        parse("tiny").make(rank=4)
