"""The Kafka sinks against a real broker: keys and coordinates, refusals, transactions, fences."""

import time
from uuid import uuid4

import kafka
import pytest
from kafka_records import consume, label, wait_for

from grpo_tta.adapters.kafka.delivery import DeliveryLimits
from grpo_tta.adapters.kafka.errors import Fenced, KafkaFailure, KafkaUnreachable, TopicMissing
from grpo_tta.adapters.kafka.group_member import GroupMember
from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.positions import Committed
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.sink import KafkaSink
from grpo_tta.adapters.kafka.topics import OutTopics, TopicPlan, ensure_topics
from grpo_tta.adapters.kafka.transactions import TransactionalSink
from grpo_tta.adapters.rows import Row
from grpo_tta.schemas import DeadLetter, LabeledImage


def rows(records):
    return [Row.of(record) for record in records]


@pytest.fixture
def settings(broker):
    return KafkaSettings((broker.bootstrap,), request_timeout=10.0)


@pytest.fixture
def out():
    return OutTopics.beside(f"labels-{uuid4().hex[:12]}")


def test_records_go_to_their_topics_keyed_by_stream_with_their_coordinate(settings, out):
    sink = KafkaSink(settings, out, plan=TopicPlan(partitions=3))
    letter = DeadLetter(coordinate="images-0-5", stage="fetch", error_class="NotFound", error_message="gone")
    labels = [label(number) for number in range(30)]
    result = sink.send_all(rows([*labels, letter]))
    sink.close()
    assert result.sent == {out.labels: 30, out.dead_letters: 1}
    found = consume(settings, out.labels)
    assert sorted(LabeledImage.model_validate_json(one.value).coordinate for one in found) == [
        one.coordinate for one in labels
    ]
    partition_of = {}
    for one in found:
        record = LabeledImage.model_validate_json(one.value)
        assert dict(one.headers) == {
            "coordinate": record.coordinate.encode(), "schema": b"LabeledImage", "schema_version": b"1",
        }  # fmt: skip
        assert one.key == record.stream.encode()
        assert partition_of.setdefault(record.stream, one.partition) == one.partition
    (dead,) = consume(settings, out.dead_letters)
    assert dead.key == b"images-0-5"
    assert consume(settings, out.drift) == []


def test_topics_that_may_not_be_made(settings, out, topic):
    with pytest.raises(TopicMissing, match=f"{out.labels}, {out.adaptation}.* do not exist"):
        KafkaSink(settings, out, plan=TopicPlan(create=False)).send_all(rows([label(0)]))
    small = topic(config={"max.message.bytes": "20000"})
    assert ensure_topics(settings, [small], TopicPlan()) == {small: 20000}


def test_a_record_too_large_for_its_topic_becomes_a_dead_letter_that_fits(settings, out):
    sink = KafkaSink(settings, out, plan=TopicPlan(max_message_bytes=20_000))
    large = label(1, attributes={"text": "x" * 30_000})
    letter = DeadLetter(
        coordinate="images-0-9", stage="decode_event", error_class="NotJson", error_message="no", event="ü" * 30_000
    )
    result = sink.send_all(rows([label(0), large, label(2), letter]))
    assert result.sent == {out.labels: 2, out.dead_letters: 2}
    assert [one.coordinate for one in result.too_large] == [large.coordinate]
    dead = [DeadLetter.model_validate_json(one.value) for one in consume(settings, out.dead_letters)]
    by_coordinate = {one.coordinate: one for one in dead}
    assert by_coordinate[large.coordinate].error_class == "RecordTooLarge"
    cut = by_coordinate["images-0-9"]
    assert cut.truncated
    assert len(cut.event) > 5000
    sink.close()


def test_a_broker_s_refusal_does_not_outlive_the_call(settings, out):
    """A topic whose limit shrinks behind our back: the refusal poisons the producer, the next call has a new one."""
    sink = KafkaSink(settings, out, limits=DeliveryLimits(seconds=10))
    sink.send_all(rows([label(0)]))
    with settings.admin() as admin:
        resource = kafka.admin.ConfigResource(
            kafka.admin.ConfigResourceType.TOPIC, out.labels, {"max.message.bytes": "16000"}
        )
        admin.alter_configs([resource])
    time.sleep(0.5)
    large = label(1, attributes={"text": "x" * 30_000})
    with pytest.raises(KafkaFailure, match="MessageSizeTooLarge"):
        sink.send_all(rows([large]))
    assert sink.send_all(rows([large, label(2)])).sent == {out.labels: 1, out.dead_letters: 1}
    sink.close()


def test_a_broker_that_is_down_is_told_in_bounded_time_and_the_sink_recovers(settings, out, broker_to_disturb):
    sink = KafkaSink(settings, out, limits=DeliveryLimits(seconds=2))
    sink.send_all(rows([label(0)]))
    broker_to_disturb.kill()
    started = time.monotonic()
    with pytest.raises(KafkaFailure) as caught:
        sink.send_all(rows([label(1)]))
    assert caught.value.retriable
    with pytest.raises(KafkaUnreachable):
        sink.send_all(rows([label(1)]))
    assert time.monotonic() - started < 15
    broker_to_disturb.restart()
    assert sink.send_all(rows([label(1)])).sent == {out.labels: 1}
    sink.close()


@pytest.fixture
def transactional(settings, out, topic):
    """Make sinks of one source partition; all closed at the end."""
    name, group = topic(), uuid4().hex
    made = []

    def make():
        sink = TransactionalSink(settings, out, group=group, partition=f"{name}-0", limits=DeliveryLimits(seconds=10))
        made.append(sink)
        sink.open()
        return sink

    make.partition, make.group, make.topic = f"{name}-0", group, name
    yield make
    for sink in made:
        sink.close()


def test_a_commit_shows_outputs_and_position_together_and_an_abort_neither(settings, out, transactional):
    partition = transactional.partition
    metadata = kafka.structs.ConsumerGroupMetadata(transactional.group)
    sink = transactional()
    sink.begin()
    assert sink.send_all(rows([label(0), label(1)])).sent == {out.labels: 2}
    sink.send_offsets({partition: Committed(2, "manifest-1")}, metadata)
    assert consume(settings, out.labels, "read_committed") == []
    sink.commit()
    sink.begin()
    sink.send_all(rows([label(2)]))
    sink.send_offsets({partition: Committed(3, "manifest-2")}, metadata)
    sink.abort()
    sink.begin()
    sink.send_all(rows([label(3)]))
    sink.commit()
    seen = [LabeledImage.model_validate_json(one.value).id for one in consume(settings, out.labels, "read_committed")]
    assert sorted(seen) == ["e0", "e1", "e3"]
    with KafkaOffsets(settings, group=transactional.group) as offsets:
        assert offsets.committed([partition]) == {partition: Committed(2, "manifest-1")}


def test_a_new_owner_aborts_and_fences_the_old_one(settings, out, transactional):
    old = transactional()
    old.begin()
    old.send_all(rows([label(0)]))
    new = transactional()
    with pytest.raises(Fenced, match=f"partition {transactional.partition} has another owner"):
        old.commit()
    new.begin()
    new.send_all(rows([label(2)]))
    new.commit()
    seen = [LabeledImage.model_validate_json(one.value).id for one in consume(settings, out.labels, "read_committed")]
    assert seen == ["e2"]


def test_a_position_of_one_that_is_no_longer_a_member_is_refused(settings, transactional):
    member = GroupMember(settings, [transactional.topic], transactional.group, session=6.0)
    member.start()
    wait_for(lambda: len(member.assignment().partitions) == 1)
    metadata = member.group_metadata()
    sink = transactional()
    sink.begin()
    sink.send_offsets({transactional.partition: Committed(1, "m")}, metadata)
    sink.commit()
    member.close()
    again = GroupMember(settings, [transactional.topic], transactional.group, session=6.0)
    again.start()
    wait_for(lambda: len(again.assignment().partitions) == 1)
    sink.begin()
    with pytest.raises(Fenced):
        sink.send_offsets({transactional.partition: Committed(2, "m")}, metadata)
    again.close()
