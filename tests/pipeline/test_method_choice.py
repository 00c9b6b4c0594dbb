"""Every method can be chosen by its name, with settings of its own, and labels a stream under the guard."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline_fakes import events, make_labeler
from pipeline_tiny_model import CLASSES, blobs, tiny_classifier

from grpo_tta import METHODS, GrpoSettings, create_method
from grpo_tta.guard import GuardSettings
from grpo_tta.pipeline.cli.flags import add_job_flags, job_values
from grpo_tta.pipeline.config.job import JobConfig, make_config, read_config_file
from grpo_tta.pipeline.errors import ConfigurationError

PLACES: dict[str, Any] = {"source": {"url": "/data"}, "output": {"url": "/out"}}
VIEWS = {"views": 4, "confident_share": 0.5}


def of_method(**method: Any) -> JobConfig:
    return make_config({**PLACES, "method": method})


def by_flags(*flags: str) -> JobConfig:
    parser = argparse.ArgumentParser()
    add_job_flags(parser, label=True, everything=True)
    return make_config(job_values(parser.parse_args(["--source", "/data", "--out", "/out", *flags]), []))


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_the_methods_own_class_and_survive_yaml(name: str, tmp_path: Path) -> None:
    config = of_method(name=name)
    assert config.method.settings == METHODS[name].settings()
    assert by_flags("--method", name) == config
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(config.plain()))
    again = make_config(read_config_file(str(path)))
    assert again == config
    assert (again.fingerprint(), again.method_fingerprint()) == (config.fingerprint(), config.method_fingerprint())
    assert config.plain()["method"] == {
        "name": name,
        "settings": asdict(METHODS[name].settings()),
    }


def test_methods_and_settings_tell_fingerprints_apart() -> None:
    configs = [of_method(name=name) for name in METHODS]
    configs.append(of_method(name="tent", settings={"learning_rate": 0.01}))
    assert len({config.method_fingerprint() for config in configs}) == len(configs)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "memo"}, "method.name: method must be one of grpo, zero-shot, .* got 'memo'"),
        ({"name": "memo", "settings": {"views": 0}}, "method.name: method must be one of"),
        ({"name": 5}, "method.name: Input should be a valid string, got 5"),
        ({"name": "tent", "settings": {"group_size": 3}}, "^method.settings.group_size: unknown key$"),
        ({"name": "zero-shot", "settings": {"seed": 3}}, "^method.settings.seed: unknown key$"),
        ({"name": "tent", "settings": {"update_every": 0}}, "^method.settings: update_every must be >= 1, got 0$"),
        ({"name": "zero", "settings": {"views": "many"}}, "^method.settings.views: .* got 'many'$"),
        ({"name": "sar", "settings": [1]}, "^method.settings: .*"),
    ],
)
def test_what_is_refused_names_the_key_and_the_value(method: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as raised:
        of_method(**method)
    assert len(str(raised.value).splitlines()) == 1


def test_flags_of_methods_that_have_the_setting() -> None:
    assert by_flags("--mode", "episodic").method.settings == GrpoSettings.episodic()
    rlcf = by_flags("--method", "rlcf", "--tune", "norm", "--seed", "4").method.settings
    assert (rlcf.tune, rlcf.seed) == ("norm", 4)
    assert by_flags("--method", "zero", "--seed", "2").method.settings.seed == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method", "tent", "--mode", "episodic"], "--mode is of grpo; method tent has no such setting"),
        (["--method", "vte", "--tune", "norm"], "--tune is of grpo, rlcf; method vte has no such setting"),
        (["--method", "zero-shot", "--seed", "1"], "--seed is of grpo, zero, .*; method zero-shot has no such setting"),
        (["--method", "rlcf", "--tune", "lora"], "method.settings.tune: .* got 'lora'"),
    ],
)
def test_flags_of_methods_that_have_it_not(flags: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        by_flags(*flags)


def test_a_file_chooses_and_a_flag_of_another_methods_setting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("method:\n  name: tent\n  settings: {update_every: 16}\n")
    assert by_flags("--config", str(path)).method.settings == METHODS["tent"].settings(update_every=16)
    with pytest.raises(ConfigurationError, match="--mode is of grpo; method tent"):
        by_flags("--config", str(path), "--mode", "online")
    path.write_text("method: tent\n")
    with pytest.raises(ConfigurationError, match="method"):
        by_flags("--config", str(path))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_labels_a_stream_under_the_guard(name: str) -> None:
    """Batches of 1 and of 8 give the same labels; resets fall on the same frames."""
    changes = {key: value for key, value in {**VIEWS, "update_every": 8}.items() if METHODS[name].has(key)}
    settings = METHODS[name].settings(**changes)
    guard = GuardSettings(probe_frames=6, reference_probes=3, backstop_frames=24, shift_lambda=1e9)
    classifier, outs = tiny_classifier(), []
    for size in (1, 8):
        labeler = make_labeler(
            create_method(name, classifier, settings),
            guard,
            blobs,
            vectors=classifier.class_vectors,
            names=CLASSES,
            max_batch_size=size,
        )
        outs.append(labeler.label(events(40), labeler.initial_state()))
    one, eight = outs
    assert len(one.labels) == len(eight.labels) == 40
    for row, other in zip(one.labels, eight.labels, strict=True):
        assert row.frozen_label is not None
        assert row.probability == pytest.approx(other.probability, abs=2e-3)
    assert [(row.frame, row.reset) for row in one.adaptation if row.reset] == [
        (row.frame, row.reset) for row in eight.adaptation if row.reset
    ]
    assert one.state.counters["frames"] == 40
    assert one.forward_equivalents >= 40
