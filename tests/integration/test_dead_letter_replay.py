"""``grpo-tta dead-letters replay``: events of dead letters sent to their topic again."""

import kafka
import pytest
from kafka_records import TIME, consume

from grpo_tta.adapters.kafka import replay
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.wire import coordinate_of
from grpo_tta.adapters.rows import Row
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import RecordFiles
from grpo_tta.pipeline.cli import main
from grpo_tta.schemas import DeadLetter


@pytest.fixture
def settings(broker):
    return KafkaSettings((broker.bootstrap,))


@pytest.fixture
def images(settings, topic):
    """Five records in partition 1 of two."""
    name = topic(partitions=2)
    producer = settings.producer()
    for number in range(5):
        producer.send(
            name, f"value {number}".encode(), key=b"door", headers=[("stream", b"door")], partition=1,
            timestamp_ms=1_700_000_000_000 + number,
        ).get(timeout=10)  # fmt: skip
    producer.close()
    return name


def letter(topic, offset, **fields):
    values = {"stage": "fetch", "error_class": "NotFound", "error_message": "gone", "stream": "door", **fields}
    return DeadLetter(coordinate=coordinate_of(topic, 1, offset), event_time=TIME, **values)


@pytest.fixture
def write(tmp_path):
    """Dead letters into a job's folder; its URL."""

    def write(letters):
        RecordFiles(ObjectStore(str(tmp_path)), "dead_letters", "jsonl").write(
            "images-1-000000000000", map(Row.of, letters)
        )
        return str(tmp_path)

    return write


def run(broker, topic, where, *flags):
    return main(["dead-letters", "replay", "--from", where, "--source", f"kafka://{broker.bootstrap}/{topic}", *flags])


@pytest.mark.parametrize("near", [1, 100])
def test_an_event_goes_to_its_partition_as_it_was_and_once(broker, settings, images, write, near, monkeypatch):
    monkeypatch.setattr(replay, "_NEAR", near)
    assert run(broker, images, write([letter(images, 3), letter(images, 1), letter(images, 3)])) == 0
    records = consume(settings, images)
    assert [record.value for record in records[5:]] == [b"value 1", b"value 3"]
    again, first = records[5], records[1]
    assert (again.partition, again.key, again.headers, again.timestamp) == (
        first.partition, first.key, first.headers, first.timestamp
    )  # fmt: skip


def test_dead_letters_of_a_topic_and_a_dry_run(broker, settings, images, topic, capsys):
    letters = topic()
    producer = settings.producer()
    producer.send(letters, letter(images, 2).model_dump_json(exclude_none=True).encode()).get(timeout=10)
    producer.close()
    where = f"kafka://{broker.bootstrap}/{letters}"
    assert run(broker, images, where, "--dry-run") == 0
    assert "1 events would be sent again" in capsys.readouterr().out
    assert len(consume(settings, images)) == 5
    assert run(broker, images, where) == 0
    assert consume(settings, images)[-1].value == b"value 2"


def test_what_cannot_pass_is_left_out_and_counted_unless_it_is_asked_for(broker, settings, images, write, capsys):
    url = write(
        [letter(images, 0, stage="policy"), letter(images, 1, stage="decode_event"), letter(images, 2, stage="step"),
         letter(images, 3, stage="decode_image", event={"data_bytes": 9}),
         letter(images, 4, stage="decode_image", event={"uri": "s3://b/a.jpg"})]
    )  # fmt: skip
    assert run(broker, images, url) == 0
    said = capsys.readouterr().out
    assert "3 left out, for they cannot pass as they are: decode_event 1, decode_image 1, policy 1; --stage" in said
    assert "2 events were sent again, 0 cannot be" in said
    assert [record.value for record in consume(settings, images)[5:]] == [b"value 2", b"value 4"]


def test_filters(broker, settings, images, write):
    url = write([letter(images, 0), letter(images, 1, stage="policy"), letter(images, 2, stream="yard")])
    assert run(broker, images, url, "--stage", "policy", "--stream", "door") == 0
    assert [record.value for record in consume(settings, images)[5:]] == [b"value 1"]


def test_what_cannot_be_sent_is_listed(broker, settings, images, topic, write, capsys):
    with settings.admin() as admin:
        admin.delete_records({kafka.TopicPartition(images, 1): 2})
    other = topic()
    url = write(
        [letter(images, 0), letter(images, 4), letter(images, 5), letter(other, 0),
         DeadLetter(coordinate="cam/a.jpg@1", stage="fetch", error_class="E", error_message="m")]
    )  # fmt: skip
    assert run(broker, images, url) == 1
    said = capsys.readouterr().out
    assert f"{coordinate_of(images, 1, 0)}: not sent: the log does not hold it any more" in said
    assert f"{coordinate_of(images, 1, 5)}: not sent: the log does not hold it" in said
    assert f"topic {other} is not one of the source's" in said
    assert "cam/a.jpg@1: not sent: it is no coordinate of a Kafka record" in said
    assert "1 events were sent again, 4 cannot be" in said
    assert consume(settings, images)[-1].value == b"value 4"
