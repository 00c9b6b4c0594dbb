"""What every method owes its callers, of every method there is."""

from typing import Any

import pytest
from method_runs import SMALL

from grpo_tta import METHODS, Classifier, GrpoSettings, Method, create_method
from grpo_tta.contracts import MethodContract


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, None) for name in METHODS),
        ("grpo", GrpoSettings.episodic(group_size=4, views=2, images_at_once=16)),
        ("tent", METHODS["tent"].settings(update_every=8, similarity="whitened")),
    ],
    ids=[*METHODS, "grpo-episodic", "tent-whitened"],
)
class TestMethods(MethodContract):
    size = (32, 32)

    @pytest.fixture(autouse=True)
    def chosen(self, vit: Classifier, name: str, settings: Any) -> None:
        few = {key: value for key, value in {"views": 2, "inner_steps": 1}.items() if METHODS[name].has(key)}
        small = SMALL.get(name, {}) if "views" not in SMALL.get(name, {}) else {}
        self.made = create_method(name, vit, settings or METHODS[name].settings(**small, **few))
        self.size = vit.preprocess.size

    def make(self) -> Method:
        return self.made
