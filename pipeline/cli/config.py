"""``grpo-tta config``: the effective configuration, or its schema."""

import argparse
import json

import yaml

from grpo_tta.adapters.storage.filesystems import redacted
from grpo_tta.pipeline.cli.flags import job_values
from grpo_tta.pipeline.config.job import JobConfig, make_config, merged


def config(flags: argparse.Namespace, beam_options: list[str]) -> int:
    """The effective configuration as YAML, or the JSON schema."""
    if flags.what == "schema":
        print(json.dumps(JobConfig.model_json_schema(), indent=2))
        return 0
    given = job_values(flags, beam_options)
    plain = make_config(merged({"source": {"url": "?"}, "output": {"url": "?"}}, given)).shown()
    for section in ("source", "output"):
        plain[section]["url"] = redacted(given.get(section, {}).get("url", ""))
    print(yaml.safe_dump(plain, sort_keys=False), end="")
    return 0
