"""What the sinks do with a producer: every future asked, bytes in flight bounded, too large, poisoned."""

import threading
from datetime import UTC, datetime

import pytest
from kafka import errors as kafka_errors
from kafka_fakes import FakeProducer

from grpo_tta.adapters.kafka import sink as sink_module
from grpo_tta.adapters.kafka import transactions as transactions_module
from grpo_tta.adapters.kafka.delivery import Delivery, DeliveryLimits, cut_to_fit, outgoing
from grpo_tta.adapters.kafka.errors import CommitUnknown, Fenced, KafkaFailure, SendFailed
from grpo_tta.adapters.kafka.positions import Committed
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.sink import KafkaSink
from grpo_tta.adapters.kafka.topics import OutTopics, TopicPlan
from grpo_tta.adapters.kafka.transactions import TransactionalSink, transactional_id
from grpo_tta.adapters.rows import Row
from grpo_tta.schemas import DeadLetter, DriftEvent, LabeledImage


def rows(records):
    return [Row.of(record) for record in records]


TIME = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = KafkaSettings(("h:1",))
TOPICS = OutTopics.beside("labels", drift="alarms")
LIMITS = dict.fromkeys(TOPICS.names(), 4000)


def label(number=0, **fields):
    given = {
        "coordinate": f"images-0-{number}", "id": f"e{number}", "stream": "cam", "event_time": TIME,
        "window_start": TIME, "window_end": TIME, "label": "cat", "probability": 0.5, "top_k": [],
        "model_fingerprint": "m", "method": "grpo", "update_count": 0,
    }  # fmt: skip
    return LabeledImage(**{**given, **fields})


def letter(**fields):
    given = {"coordinate": "images-0-9", "stage": "fetch", "error_class": "NotFound", "error_message": "gone"}
    return DeadLetter(**{**given, **fields})


def delivery(producer, **limits):
    return Delivery(producer, SETTINGS, TOPICS, LIMITS, DeliveryLimits(**limits))


def test_topics():
    assert TOPICS.names() == ("labels", "labels.adaptation", "alarms", "labels.dead_letters", "labels.monitor")
    drift = DriftEvent(
        stream="s", coordinate="c", event_time=TIME, frame=1, signal="shift", reset=True, message="m",
        model_fingerprint="m", method="grpo",
    )  # fmt: skip
    assert [TOPICS.of(Row.of(record).kind) for record in (label(), drift, letter())] == [
        "labels",
        "alarms",
        "labels.dead_letters",
    ]
    with pytest.raises(ValueError, match="a topic of its own"):
        OutTopics.beside("labels", drift="labels")
    for fields in ({"partitions": 0}, {"replication": 0}, {"max_message_bytes": 10}):
        with pytest.raises(ValueError, match="must be >="):
            TopicPlan(**fields)


def test_what_a_record_looks_like():
    sent = outgoing(Row.of(label(attributes={"a": "ü"})), TOPICS)
    assert (sent.topic, sent.key) == ("labels", b"cam")
    assert sent.headers == [("coordinate", b"images-0-0"), ("schema", b"LabeledImage"), ("schema_version", b"1")]
    assert LabeledImage.model_validate_json(sent.value) == label(attributes={"a": "ü"})
    assert b"null" not in sent.value
    assert sent == outgoing(Row.of(label(attributes={"a": "ü"})), TOPICS)
    assert outgoing(Row.of(letter()), TOPICS).key == b"images-0-9"
    assert outgoing(Row.of(letter(stream="cam")), TOPICS).key == b"cam"


def test_all_are_sent_in_order_and_every_future_is_asked_with_a_time_out():
    producer = FakeProducer()
    batch = delivery(producer, seconds=7)
    batch.send_all(rows([label(0), letter(), label(1)]))
    result = batch.finish()
    assert [value for _, _, value, _ in producer.sent] == [
        outgoing(Row.of(one), TOPICS).value for one in (label(0), letter(), label(1))
    ]
    assert [future.asked for future in producer.futures] == [[7]] * 3
    assert result.sent == {"labels": 2, "labels.dead_letters": 1}
    assert result.bytes == sum(outgoing(Row.of(one), TOPICS).size for one in (label(0), letter(), label(1)))


def test_bytes_in_flight_are_bounded_and_one_record_always_goes():
    size = outgoing(Row.of(label()), TOPICS).size
    producer = FakeProducer()
    batch = delivery(producer, in_flight_bytes=3 * size)
    batch.send_all(rows([label()] * 10))
    assert [len(future.asked) for future in producer.futures] == [1] * 7 + [0] * 3
    batch.finish()
    assert [len(future.asked) for future in producer.futures] == [1] * 10
    small = delivery(FakeProducer(), in_flight_bytes=1)
    small.send_all(rows([label()] * 2))
    assert small.finish().sent == {"labels": 2}


@pytest.mark.parametrize(
    ("outcome", "message", "retriable"),
    [
        (kafka_errors.KafkaTimeoutError(), "topic labels was not acknowledged in .*leader", True),
        (("send", kafka_errors.KafkaTimeoutError()), "could not write to topic labels", True),
        (kafka_errors.MessageSizeTooLargeError(), "write to topic labels: MessageSizeTooLarge", False),
        (kafka_errors.OutOfOrderSequenceNumberError(), "write to topic labels: OutOfOrder", True),
        (kafka_errors.NotEnoughReplicasError(), "write to topic labels: NotEnoughReplicas", True),
        (kafka_errors.TopicAuthorizationFailedError(), "access rules forbid", False),
    ],
)
def test_one_failure_among_many_is_an_error(outcome, message, retriable):
    batch = delivery(FakeProducer([None, outcome, None]))
    with pytest.raises(KafkaFailure, match=message) as caught:  # noqa: PT012 - either may be the one that raises
        batch.send_all(rows([label()] * 3))
        batch.finish()
    assert caught.value.retriable is retriable


def test_what_its_topic_does_not_take_becomes_a_dead_letter():
    producer = FakeProducer()
    batch = delivery(producer)
    batch.send_all(rows([label(0), label(1, attributes={"a": "x" * 5000}), label(2)]))
    result = batch.finish()
    assert result.sent == {"labels": 2, "labels.dead_letters": 1}
    (dead,) = result.too_large
    assert (dead.coordinate, dead.stage, dead.error_class, dead.id) == ("images-0-1", "sink", "RecordTooLarge", "e1")
    assert "topic labels at most 4000" in dead.error_message
    assert [topic for topic, *_ in producer.sent] == ["labels", "labels.dead_letters", "labels"]


@pytest.mark.parametrize("event", ["x" * 100_000, "ü" * 100_000, '"' * 100_000, {"uri": "x" * 100_000}])
def test_a_dead_letter_is_cut_to_what_its_topic_takes(event):
    sent = cut_to_fit(letter(event=event), TOPICS, 2000)
    assert sent.size <= 2000
    cut = DeadLetter.model_validate_json(sent.value)
    assert cut.truncated
    if isinstance(event, str):
        assert event.startswith(cut.event)
        assert len(sent.value) > 700
    assert cut_to_fit(letter(event="short"), TOPICS, 2000) == outgoing(Row.of(letter(event="short")), TOPICS)


def test_a_dead_letter_that_does_not_fit_at_all():
    with pytest.raises(KafkaFailure, match=r"the dead letter of images-0-9 takes .* raise its max\.message\.bytes"):
        cut_to_fit(letter(id="x" * 1000), TOPICS, 500)


@pytest.fixture
def producers(monkeypatch):
    """The producers that a sink makes, each with the outcomes it was given."""
    made, outcomes = [], []

    def make(self, **options):
        made.append(FakeProducer(outcomes.pop(0) if outcomes else ()))
        made[-1].options = options
        return made[-1]

    monkeypatch.setattr(KafkaSettings, "producer", make)
    for module in (sink_module, transactions_module):
        monkeypatch.setattr(module, "ensure_topics", lambda settings, names, plan: dict.fromkeys(names, 4000))
    make.made, make.outcomes = made, outcomes
    return make


def test_a_poisoned_producer_is_not_used_again(producers):
    producers.outcomes += [[None, kafka_errors.MessageSizeTooLargeError()], []]
    sink = KafkaSink(SETTINGS, TOPICS)
    with pytest.raises(SendFailed):
        sink.send_all(rows([label(0), label(1)]))
    assert sink.send_all(rows([label(0), label(1)])).sent == {"labels": 2}
    assert sink.send_all(rows([label(2)])).sent == {"labels": 1}
    sink.close()
    assert [producer.closed for producer in producers.made] == [[0], [5.0]]
    assert producers.made[0].options["batch_size"] == 262144
    assert producers.made[0].options["max_request_size"] == 4000


def test_limits_of_a_delivery():
    for fields in ({"seconds": 0}, {"in_flight_bytes": -1}):
        with pytest.raises(ValueError, match="must be > 0"):
            DeliveryLimits(**fields)


@pytest.fixture
def transactional(producers, monkeypatch):
    """An open sink whose producer answers every call with what the test says, or hangs."""
    answers = {}

    def answer(name):
        def call(*_):
            outcome = answers.get(name)
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                outcome.wait()

        return call

    names = (
        "init_transactions",
        "begin_transaction",
        "send_offsets_to_transaction",
        "commit_transaction",
        "abort_transaction",
    )
    for name in names:
        monkeypatch.setattr(FakeProducer, name, answer(name), raising=False)
    monkeypatch.setattr(transactions_module, "CLOSE_SECONDS", 0.0)
    sink = TransactionalSink(SETTINGS, TOPICS, group="g", partition="images-3", limits=DeliveryLimits(seconds=0.3))
    sink.open()
    sink.answers = answers
    return sink


def test_the_transactional_id_is_the_source_partition_s(transactional, producers):
    assert transactional_id("g", "images-3") == "grpo-tta.g.images-3"
    assert producers.made[0].options["transactional_id"] == "grpo-tta.g.images-3"
    with pytest.raises(ValueError, match="TOPIC-PARTITION"):
        TransactionalSink(SETTINGS, TOPICS, group="g", partition="images")


@pytest.mark.parametrize("error", transactions_module.FENCED)
def test_whoever_is_replaced_is_told_so_and_stays_out(transactional, producers, error):
    transactional.answers["commit_transaction"] = error()
    transactional.begin()
    with pytest.raises(Fenced, match="partition images-3 has another owner"):
        transactional.commit()
    with pytest.raises(KafkaFailure, match="not open"):
        transactional.begin()
    assert len(producers.made) == 1


def test_a_group_that_rebalances_costs_the_slice_and_not_the_job(transactional, producers):
    """kafka-python calls it unexpected, and fatal."""
    text = f"Unexpected error in TxnOffsetCommitResponse: {kafka_errors.RebalanceInProgressError()}"
    transactional.answers["send_offsets_to_transaction"] = kafka_errors.KafkaError(text)
    transactional.begin()
    with pytest.raises(SendFailed, match="the group is rebalancing; the slice is run again") as caught:
        transactional.send_offsets({"images-3": Committed(1, "x")}, None)
    assert caught.value.retriable
    with pytest.raises(KafkaFailure, match="the sink is not open"):
        transactional.begin()


def test_a_record_of_one_that_is_replaced(transactional, producers):
    producers.made[0].outcomes.append(kafka_errors.InvalidProducerEpochError())
    with pytest.raises(Fenced):
        transactional.send_all(rows([label()]))


def test_a_commit_without_an_answer_is_neither_done_nor_undone(transactional, request):
    never = threading.Event()
    request.addfinalizer(never.set)
    transactional.answers["commit_transaction"] = never
    with pytest.raises(
        CommitUnknown, match=r"commit the slice of partition images-3: no answer .*committed offset says"
    ):
        transactional.commit()


def test_an_abort_without_an_answer_is_an_error_in_bounded_time(transactional, request):
    never = threading.Event()
    request.addfinalizer(never.set)
    transactional.answers["abort_transaction"] = never
    with pytest.raises(SendFailed, match="abort the slice of partition images-3: no answer"):
        transactional.abort()


def test_metadata_that_the_broker_would_not_keep(transactional):
    with pytest.raises(ValueError, match="metadata of images-3 must be <= 4096 bytes, got 5000"):
        transactional.send_offsets({"images-3": Committed(1, "x" * 5000)}, None)
