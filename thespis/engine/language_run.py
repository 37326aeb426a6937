"""What a run of an actor that writes is, apart from its algorithm."""

from dataclasses import dataclass
from typing import Literal

from thespis.config import Count, Natural, Positive


@dataclass(frozen=True)
class LanguageRun:
    env: str | None = None
    """id of an environment that is spoken to, reasoning_gym/NAME, or a file of prompts and answers, FILE.jsonl or jsonl:FILE;
    default: that of --data, or thespis/Chains-v0. From Python also an environment, or a reward of the prompts in data"""
    steps: Count = 40_000
    """turns in all, or of written answers the conversations, or pairs of them, that are learnt from"""
    data: str | None = None
    """.jsonl file to learn from: each row has prompt and answer, or messages; for dpo and text_reward_model prompt, chosen and
    rejected"""
    reward: str | None = None
    """run of text_reward_model whose score is the reward of an episode; the world's own is then told as info/world"""
    seed: Natural = 0
    """random seed of weights, tasks and answers"""
    env_args: tuple[str, ...] = ()
    """arguments of the environment, each as name=value; a value is JSON, or else text (from Python also a dictionary)"""
    model: str = "tiny"
    """a small Llama from scratch, a token a character; with other sizes it is named so: tiny:dim=96,layers=3. Or smollm2, which
    thespis model prepares, or the folder of a causal model of transformers, with its tokenizer, or the directory of a run that
    was trained whole"""
    adapter: str = "none"
    """what of a pretrained model, or of a run's, is learnt: none, all of it; lora, low-rank matrices beside its linear layers
    (arXiv:2106.09685); prompt, dept, ept or iapt, soft prompts (arXiv:2104.08691, 2309.05173, 2405.11464, 2405.18203), with
    sizes as ept:tokens=20,rank=8: tokens for all, rank and length for dept and ept, spaces for ept, width for ept and iapt"""
    rank: Count = 16
    """rank of lora's matrices"""
    precision: Literal["float32", "bf16"] = "float32"
    """of a pretrained model's weights; bf16 for those beside an adapter alone, which itself stays float32"""
    temperature: Positive = 1.0
    """of the distribution that answers are drawn from, in play and in learning alike"""
    answer_tokens: Count = 32
    """tokens of an answer at most; a longer one is cut off there"""
    max_turns: Count = 30
    """turns after which an episode is cut off"""
    warm_start: Natural = 32_000
    """solutions of the environment's own that are learnt from first, by sft, in a run beside this one; 0, or with a
    pretrained model: none"""
    max_hours: Positive | None = None
    """hours after which the run stops with a checkpoint, as by Ctrl-C; they start again at 0 when the run is resumed"""
    eval_every: Count = 5_000
    """steps between evaluations"""
    eval_episodes: Natural = 64
    """held-out tasks of an evaluation; 0: none is done"""
    eval_samples: Count = 4
    """answers to each of them, sampled as in training; pass@k: the share of tasks where one of k answers earned 1 or more"""
    log_every: Count = 1_000
    """steps between rows of metrics"""
    checkpoint_every: Count = 5_000
    """steps between checkpoints"""
    keep: Count = 2
    """how many checkpoints are kept"""
    sinks: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """where metrics go besides metrics.jsonl"""
    threads: Natural = 0
    """torch threads; 0: one"""


WATCHING = {"steps", "max_hours", "eval_every", "eval_episodes", "eval_samples", "log_every", "checkpoint_every", "keep", "sinks"}
"""options that bear on how a run is watched and kept, not on what it learns"""
