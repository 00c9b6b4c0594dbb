"""Settings: the defaults are the measured recipe, every bad value is named with its rule."""

import math
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from grpo_tta import GrpoSettings


def test_defaults_are_the_online_recipe() -> None:
    settings = GrpoSettings()
    assert (settings.mode, settings.tune, settings.group_size, settings.alignment) == ("online", "norm", 10, "whitened")
    assert (settings.feature_dispersion, settings.certainty, settings.similarity) == (20, 0.3, "whitened")
    assert (settings.dispersion, settings.dispersion_weight, settings.advantage) == ("marginal", 0.3, "centred")
    assert (settings.group_weights, settings.logit_adjustment, settings.marginal_frames_per_class) == ("policy", 1, 1)
    assert (settings.clip, settings.update_every, settings.step_size, settings.pull) == (0.2, 16, 2e-3, 0.01)
    assert (settings.views, settings.confident_views, settings.kl, settings.inner_steps) == (1, 1, 0.0, 1)


def test_episodic_defaults() -> None:
    settings = GrpoSettings.episodic(learning_rate=2e-3)
    assert (settings.views, settings.confident_views, settings.group_size) == (8, 3, 3)
    assert (settings.alignment, settings.inner_steps, settings.step_size) == ("consensus", 1, 2e-3)
    assert (settings.group_weights, settings.similarity) == ("uniform", "plain")
    assert (settings.feature_dispersion, settings.certainty) == (0, 0)
    assert GrpoSettings.for_mode("episodic") == GrpoSettings.episodic()
    assert GrpoSettings.for_mode("online", seed=3) == GrpoSettings(seed=3)


@pytest.mark.parametrize(
    ("tune", "online", "episodic"), [("norm", 2e-3, 1e-3), ("lora", 5e-3, 5e-3), ("full", 1e-5, 1e-5)]
)
def test_the_learning_rate_follows_mode_and_preset(tune: Any, online: float, episodic: float) -> None:
    assert GrpoSettings(tune=tune).step_size == online
    assert GrpoSettings.episodic(tune=tune).step_size == episodic


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "offline"}, "mode must be one of online, episodic, got 'offline'"),
        ({"tune": "ln"}, "tune must be one of norm, lora, full, got 'ln'"),
        ({"group_mode": "all"}, "group_mode must be one of"),
        ({"alignment": "x"}, "alignment must be one of"),
        ({"dispersion": "x"}, "dispersion must be one of"),
        ({"advantage": "x"}, "advantage must be one of"),
        ({"group_size": 1}, "group_size must be >= 2, got 1"),
        ({"update_every": 257}, "update_every must be <= 256, got 257"),
        ({"update_every": 0}, "update_every must be >= 1, got 0"),
        ({"views": 0}, "views must be >= 1, got 0"),
        ({"images_at_once": 0}, "images_at_once must be >= 1, got 0"),
        ({"temperature": 0}, "temperature must be > 0, got 0"),
        ({"marginal_frames_per_class": 0}, "marginal_frames_per_class must be > 0, got 0"),
        ({"clip": math.nan}, "clip must be finite, got nan"),
        ({"kl": -1}, "kl must be >= 0, got -1"),
        ({"dispersion_weight": -0.1}, "dispersion_weight must be >= 0, got -0.1"),
        ({"learning_rate": 0}, "learning_rate must be > 0, got 0"),
        ({"gate_frames": 0}, "gate_frames must be > 0, got 0"),
        ({"mode": "episodic", "gate_frames": 640}, "gate_frames must be None in episodic mode .*, got 640"),
        ({"pull": 1.5}, "pull must be <= 1, got 1.5"),
        ({"confident_share": 0}, "confident_share must be > 0, got 0"),
        ({"view_min_area": 2}, "view_min_area must be <= 1, got 2"),
        ({"inner_steps": 2}, "inner_steps must be 1 in online mode .* got 2: raise learning_rate"),
        ({"mode": "episodic"}, "dispersion must be probability, text or none in episodic mode, got 'marginal'"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GrpoSettings(**changes)
    with pytest.raises(ValueError, match=message):
        GrpoSettings().but(**changes)


def test_pydantic_takes_them_as_they_are_and_refuses_unknown_keys() -> None:
    adapter = TypeAdapter(GrpoSettings)
    assert adapter.validate_python({"group_size": 5}) == GrpoSettings(group_size=5)
    for bad in ({"group": 5}, {"group_size": 1}, {"mode": "x"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(bad)
