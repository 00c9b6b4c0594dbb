"""From a job's configuration to what the Kafka adapters take: cluster, topics, positions, membership."""

import os

from grpo_tta.adapters.kafka.address import KafkaAddress, KafkaSecurity
from grpo_tta.adapters.kafka.group_member import GroupMember
from grpo_tta.adapters.kafka.membership import Member, StaticMember
from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.positions import parse_numbers
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.topics import OutTopics, TopicPlan
from grpo_tta.pipeline.config.job import JobConfig, is_kafka, parse_duration
from grpo_tta.pipeline.errors import ConfigurationError


def security_of(config: JobConfig) -> KafkaSecurity:
    """From the configuration, or else from the environment; raises `ConfigurationError`."""
    try:
        return config.kafka.security or KafkaSecurity.from_environment(os.environ)
    except ValueError as error:
        raise ConfigurationError(f"kafka: {error}") from error


def settings_of(config: JobConfig, url: str) -> KafkaSettings:
    """The cluster a URL names; raises `ConfigurationError`."""
    security = security_of(config)
    try:
        return KafkaSettings(KafkaAddress.parse(url).servers, security)
    except ValueError as error:
        raise ConfigurationError(f"kafka: {error}") from error


def source_topics(config: JobConfig) -> tuple[str, ...]:
    """The topics of the source."""
    return KafkaAddress.parse(config.source.url).topics


def out_settings(config: JobConfig, url: str) -> tuple[KafkaSettings, OutTopics, TopicPlan]:
    """the cluster, the five topics, and how missing ones are made; raises `ConfigurationError`."""
    settings = settings_of(config, url)
    topics = KafkaAddress.parse(url).topics
    if len(topics) != 1:
        raise ConfigurationError(f"output: {url} must name one topic, for the labels, got {len(topics)}")
    try:
        out = OutTopics.beside(topics[0], **config.kafka.topics.model_dump())
    except ValueError as error:
        raise ConfigurationError(f"kafka.topics: {error}") from error
    shared = set(out.names()) & set(source_topics(config)) if is_kafka(config.source.url) else set()
    if shared and settings.servers == settings_of(config, config.source.url).servers:
        raise ConfigurationError(f"output: topic {', '.join(sorted(shared))} is the source: name another")
    plan = TopicPlan(create=config.kafka.create_topics, partitions=config.kafka.topic_partitions)
    return settings, out, plan


def make_member(config: JobConfig) -> Member:
    """Of the consumer group, or of nothing where partitions are assigned by hand."""
    settings, topics = settings_of(config, config.source.url), source_topics(config)
    kafka = config.kafka
    if kafka.partitions is not None:
        return StaticMember(settings, topics, parse_numbers(kafka.partitions), group=kafka.group)
    return GroupMember(
        settings,
        topics,
        kafka.group,
        session=parse_duration(kafka.session) / 1e6,
        heartbeat=min(3.0, parse_duration(kafka.session) / 4e6),
        discovery=parse_duration(kafka.discovery) / 1e6,
    )


def make_offsets(config: JobConfig) -> KafkaOffsets:
    """Questions about the source's positions."""
    return KafkaOffsets(settings_of(config, config.source.url), group=config.kafka.group)


def check_reached(config: JobConfig) -> None:
    """The clusters answer, and where output topics are not to be made they are there; raises a ``KafkaFailure``."""
    for url in config.outputs:
        if is_kafka(url):
            settings, topics, plan = out_settings(config, url)
            settings.probe()
            if not plan.create:
                with KafkaOffsets(settings) as offsets:
                    offsets.partitions(topics.names())
    settings_of(config, config.source.url).probe()
