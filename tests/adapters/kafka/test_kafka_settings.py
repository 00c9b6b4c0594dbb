import json
import logging
import pickle
import socket
import ssl
from dataclasses import asdict

import pytest
from kafka import errors as kafka_errors

from grpo_tta.adapters.kafka.address import KafkaAddress, KafkaSecurity, read_secret
from grpo_tta.adapters.kafka.errors import (
    Fenced,
    KafkaFailure,
    KafkaForbidden,
    KafkaTrouble,
    KafkaUnreachable,
    TopicMissing,
)
from grpo_tta.adapters.kafka.settings import KafkaSettings, as_failure, translated

SCRAM = {"protocol": "SASL_SSL", "mechanism": "SCRAM-SHA-512", "username": "env:USER_NAME", "password": "env:PASSWORD"}


def test_an_address_of_several_servers_and_topics():
    address = KafkaAddress.parse("kafka://a.example:9092,[::1]:9093,10.0.0.1:1/images,more_images.v2")
    assert address.servers == ("a.example:9092", "[::1]:9093", "10.0.0.1:1")
    assert address.topics == ("images", "more_images.v2")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://h:1/t", "begins with kafka://"),
        ("kafka:h:1/t", "begins with kafka://"),
        ("kafka://h/t", "expected HOST:PORT, got 'h'"),
        ("kafka://h:/t", "expected HOST:PORT, got 'h:'"),
        ("kafka://h:0/t", "expected HOST:PORT"),
        ("kafka://h:65536/t", "expected HOST:PORT"),
        ("kafka://h:1,/t", "expected HOST:PORT, got ''"),
        ("kafka://:1/t", "expected HOST:PORT, got ':1'"),
        ("kafka://h:1", "a topic is"),
        ("kafka://h:1/", "a topic is"),
        ("kafka://h:1/a,", "a topic is .* got ''"),
        ("kafka://h:1/a/b", "a topic is .* got 'a/b'"),
        ("kafka://h:1/..", "a topic is"),
        ("kafka://h:1/t?x=1", "a topic is"),
        ("kafka://h:1/" + "t" * 250, "a topic is"),
        ("kafka://h:1/a,b,a", "names a topic twice"),
    ],
)
def test_addresses_that_are_refused(url, message):
    with pytest.raises(ValueError, match=message):
        KafkaAddress.parse(url)


@pytest.mark.parametrize("url", ["kafka://ann:hunter2@h:1/t", "kafkas://ann:hunter2@h:1/t"])
def test_credentials_in_an_address_are_refused_and_not_repeated(url):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at
        KafkaAddress.parse(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"protocol": "TLS"}, "protocol must be one of PLAINTEXT, SSL"),
        ({"ca_file": "/ca.pem"}, "has no TLS"),
        ({"protocol": "SSL", "cert_file": "/c.pem"}, "belong together"),
        ({"mechanism": "PLAIN"}, "has no SASL"),
        ({**SCRAM, "mechanism": "GSSAPI"}, "mechanism must be one of"),
        ({**SCRAM, "password": None}, "needs a username and a password"),
    ],
)
def test_security_that_cannot_work(fields, message):
    with pytest.raises(ValueError, match=message):
        KafkaSecurity(**fields)


@pytest.mark.parametrize("value", ["hunter2", "env:", "env:a-b hunter2", "file:", "pass:hunter2"])
def test_a_secret_given_instead_of_named_is_refused_and_not_repeated(value):
    with pytest.raises(ValueError, match="password must be named as env:VARIABLE or file:/path") as caught:
        KafkaSecurity(**{**SCRAM, "password": value})
    assert "hunter2" not in str(caught.value)


def test_secrets_are_read_when_a_client_is_made_and_stay_out_of_everything_else(monkeypatch, tmp_path):
    (tmp_path / "password").write_text("hunter2\n")
    monkeypatch.setenv("USER_NAME", "ann")
    settings = KafkaSettings(("h:1",), KafkaSecurity(**{**SCRAM, "password": f"file:{tmp_path}/password"}))
    options = settings.client_options()
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("ann", "hunter2")
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")
    assert options["ssl_check_hostname"] is True
    assert options["reconnect_backoff_max_ms"] == 500
    for text in (
        repr(settings),
        pickle.dumps(settings).decode("latin-1"),
        json.dumps(asdict(settings)),
        settings.advice(),
    ):
        assert "hunter2" not in text
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("name", "message"),
    [("env:NOT_SET", "variable NOT_SET is not set"), ("file:/nowhere/p", "file /nowhere/p cannot be read")],
)
def test_a_secret_that_is_not_there(name, message):
    with pytest.raises(ValueError, match=f"password: .*{message}"):
        read_secret(name, "password", {})


def test_an_empty_secret_file(tmp_path):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        read_secret(f"file:{tmp_path}/empty", "password")


def test_security_from_the_environment():
    environ = {
        "GRPO_TTA_KAFKA_PROTOCOL": "SASL_PLAINTEXT",
        "GRPO_TTA_KAFKA_MECHANISM": "PLAIN",
        "GRPO_TTA_KAFKA_USERNAME": "ann",
        "GRPO_TTA_KAFKA_PASSWORD": "hunter2",
    }
    security = KafkaSecurity.from_environment(environ)
    assert security.password == "env:GRPO_TTA_KAFKA_PASSWORD"
    assert "hunter2" not in repr(security)
    assert KafkaSecurity.from_environment({}) == KafkaSecurity()


def test_a_file_of_tls_that_cannot_be_read():
    with pytest.raises(ValueError, match=r"ca_file /nowhere/ca\.pem cannot be read"):
        KafkaSecurity(protocol="SSL", ca_file="/nowhere/ca.pem").client_options()


def test_a_dead_address_is_told_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(KafkaUnreachable, match=f"127.0.0.1:{port}: .*refused.*check the address"):
        KafkaSettings((f"127.0.0.1:{port}",)).consumer()


def test_one_of_several_servers_is_enough_for_the_probe():
    with socket.create_server(("127.0.0.1", 0)) as server:
        KafkaSettings(("127.0.0.1:1", f"127.0.0.1:{server.getsockname()[1]}")).probe()


@pytest.mark.parametrize(
    ("error", "kind", "retriable"),
    [
        (kafka_errors.KafkaTimeoutError("Unable to bootstrap"), KafkaUnreachable, True),
        (kafka_errors.SaslAuthenticationFailedError(), KafkaUnreachable, True),
        (kafka_errors.TopicAuthorizationFailedError(), KafkaForbidden, False),
        (kafka_errors.UnknownTopicOrPartitionError(), TopicMissing, False),
        (kafka_errors.NotEnoughReplicasError(), KafkaTrouble, True),
        (kafka_errors.CorruptRecordError(), KafkaFailure, False),
        (ssl.SSLError("bad certificate"), KafkaFailure, False),
        (Fenced("already ours"), Fenced, False),
    ],
)
def test_what_kafka_pythons_errors_become(error, kind, retriable):
    failure = as_failure(error, KafkaSettings(("h:1",)), "read")
    assert type(failure) is kind
    assert failure.retriable is retriable
    with pytest.raises(kind), translated(KafkaSettings(("h:1",)), "read"):
        raise error


@pytest.mark.parametrize(
    ("security", "advised"),
    [
        ({}, ["whether it wants TLS", "whether it wants a user"]),
        ({"protocol": "SSL"}, ["the CA (of the system)", "none is configured"]),
        (SCRAM, ["SCRAM-SHA-512", "env:PASSWORD", "the CA"]),
    ],
)
def test_a_time_out_names_what_to_check(security, advised):
    settings = KafkaSettings(("h:1", "i:2"), KafkaSecurity(**security))
    message = str(as_failure(kafka_errors.KafkaTimeoutError(), settings, "connect"))
    assert "could not connect" in message
    for text in ["h:1, i:2", "advertised listeners", *advised]:
        assert text in message


def test_kafka_python_may_not_log_its_requests_once_there_is_a_password(monkeypatch):
    """It would write that of SASL PLAIN as it is."""
    for name in ("kafka", "kafka.net.connection"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    monkeypatch.setenv("USER_NAME", "ann")
    monkeypatch.setenv("PASSWORD", "hunter2")
    KafkaSecurity(**SCRAM).client_options()
    for name in ("kafka", "kafka.net.connection", "kafka.protocol.parser"):
        assert not logging.getLogger(name).isEnabledFor(logging.DEBUG)
