"""The kinds of corruption by family, one module each; `grpo_tta.evaluation.corruptions` is their registry."""
