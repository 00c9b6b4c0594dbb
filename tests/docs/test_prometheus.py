"""Rules and dashboard name only metrics that there are, and do what they say: promtool of Debian's ``prometheus``."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from grpo_tta.pipeline.watch import metrics

FOLDER = Path(__file__).parents[2] / "docker" / "prometheus"
RULES = yaml.safe_load((FOLDER / "tta.rules.yml").read_text())["groups"]
EXPRESSIONS = [target["expr"] for panel in json.loads((FOLDER / "dashboard.json").read_text())["panels"]
               for target in panel["targets"]]  # fmt: skip


def promtool(*arguments: str) -> str:
    program = shutil.which("promtool")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must run these tests: promtool is not installed")
        pytest.skip("promtool is not there: install the package prometheus of Debian")
    done = subprocess.run([program, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_metric_that_rules_and_dashboard_name_is_in_the_registry() -> None:
    known = {sample for family in metrics.REGISTRY.collect() for sample in series(family.name, family.type)}
    known |= {rule["record"] for group in RULES for rule in group["rules"] if "record" in rule}
    named = [rule["expr"] for group in RULES for rule in group["rules"]] + EXPRESSIONS
    found = {name for text in named for name in re.findall(r"\btta[_:][a-z0-9_:]+", text)}
    assert len(found) > 12
    assert found - known == set()


def series(name: str, kind: str) -> list[str]:
    ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(kind, [""])
    return [name + end for end in ends]


def test_rules_are_valid_and_fire_when_they_should() -> None:
    kinds = [kind for group in RULES for rule in group["rules"] for kind in ("record", "alert") if kind in rule]
    guide = (FOLDER.parents[1] / "docs/monitoring.md").read_text()
    assert f"{kinds.count('record')} recording rules, {kinds.count('alert')} alerts" in guide
    assert f"{len(kinds)} rules found" in promtool("check", "rules", "tta.rules.yml")
    promtool("test", "rules", "tta.rules.test.yml")
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")


def test_every_alert_is_seen_firing() -> None:
    tests = yaml.safe_load((FOLDER / "tta.rules.test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == {rule["alert"] for group in RULES for rule in group["rules"] if "alert" in rule}


def test_every_expression_of_the_dashboard_is_valid(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(EXPRESSIONS)]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))
