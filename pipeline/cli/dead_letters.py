"""``grpo-tta dead-letters``: events that could not be labelled, sent again."""

import argparse
from collections import Counter
from collections.abc import Iterator

from grpo_tta.adapters.kafka.address import KafkaAddress, KafkaSecurity
from grpo_tta.adapters.kafka.errors import KafkaFailure
from grpo_tta.adapters.kafka.replay import read_values, replay
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.pipeline.config.job import is_kafka, make_config, merged, read_config_file
from grpo_tta.pipeline.config.kafka import security_of
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.printable import printable
from grpo_tta.schemas import DeadLetter

_CANNOT_PASS = ("source", "decode_event", "policy")
"""Stages that say what the record itself is, or what the job allows: sent again it ends in the same way."""


def dead_letters(flags: argparse.Namespace, beam_options: list[str]) -> int:
    """Send the events of dead letters to the source's topics again; 1 where some cannot be. What would end as a dead
    letter again, whenever it is sent, is sent only where its stage is asked for."""
    security = _security(flags.config)
    source, topics = _cluster(flags.source, "--source", security)
    try:
        letters, skipped = _chosen(flags, security)
        result = replay(source, topics, [letter.coordinate for letter in letters], dry_run=flags.dry_run)
    except KafkaFailure as error:
        raise JobError(str(error)) from error
    except ValueError as error:
        raise JobError(f"{flags.come_from}: {error}") from error
    for coordinate, reason in result.left:
        print(printable(f"{coordinate}: not sent: {reason}"))
    if skipped:
        counts = ", ".join(f"{stage} {count}" for stage, count in sorted(skipped.items()))
        print(f"{sum(skipped.values())} left out, for they cannot pass as they are: {counts}; --stage STAGE sends them")
    print(
        f"{len(result.sent)} events {'would be' if flags.dry_run else 'were'} sent again, {len(result.left)} cannot be"
    )
    return 1 if result.left else 0


def _letters(url: str, security: KafkaSecurity) -> Iterator[DeadLetter]:
    """Those of a job's folder or bucket, or of a topic."""
    if not is_kafka(url):
        store = ObjectStore(url)
        if not any(store.names(f"{kind}/") for kind in ("dead_letters", "monitor", "labels")):
            raise JobError(f"--from: {url!r} holds neither dead_letters/ nor labels/: it is not the --out of a job")
        yield from read_records(url, "dead_letters", DeadLetter)
        return
    settings, topics = _cluster(url, "--from", security)
    for topic in topics:
        for value in read_values(settings, topic):
            yield DeadLetter.model_validate_json(value)


def _chosen(flags: argparse.Namespace, security: KafkaSecurity) -> tuple[list[DeadLetter], Counter[str]]:
    """Those to send, and how many of what stage are not, for another try is no use."""
    chosen: list[DeadLetter] = []
    skipped: Counter[str] = Counter()
    for letter in _letters(flags.come_from, security):
        if flags.stream not in (None, letter.stream):
            continue
        if flags.stage is None and _cannot_pass(letter):
            skipped[letter.stage] += 1
        elif flags.stage in (None, letter.stage):
            chosen.append(letter)
    return chosen, skipped


def _cannot_pass(letter: DeadLetter) -> bool:
    """An image that came inline stays as it is, one behind a uri may be another by now."""
    inline = isinstance(letter.event, dict) and "uri" not in letter.event
    return letter.stage in _CANNOT_PASS or (letter.stage == "decode_image" and inline)


def _cluster(url: str, flag: str, security: KafkaSecurity) -> tuple[KafkaSettings, tuple[str, ...]]:
    """A cluster and topics."""
    try:
        address = KafkaAddress.parse(url)
        return KafkaSettings(address.servers, security), address.topics
    except ValueError as error:
        raise ConfigurationError(f"{flag}: {error}") from error


def _security(config_file: str | None) -> KafkaSecurity:
    """Of a job's configuration file, or else of the environment; raises `ConfigurationError`."""
    unused = {"source": {"url": "unused"}, "output": {"url": "unused"}}
    values = merged(unused, read_config_file(config_file)) if config_file else unused
    return security_of(make_config(values))
