"""GRPO after supervised learning: what play adds to answers that were shown.

Paper: Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, whose order of the two it is.
"""

from thespis.study import train

SEEDS = 3
STAGES = {
    "sft": train("sft", env="thespis/Chains-v0", steps=32_000, eval_every=32_000),
    "more": train("sft", env="thespis/Chains-v0", steps=32_000, eval_every=32_000, start_from="{sft}"),
    "grpo": train("grpo", env="thespis/Chains-v0", steps=40_000, start_from="{sft}"),
}
"""supervised, then the same again, or GRPO"""
