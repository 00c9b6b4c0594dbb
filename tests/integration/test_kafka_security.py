"""TLS, certificates and passwords against a real broker that asks for them: good ones work, bad ones are explained."""

import pytest

from grpo_tta.adapters.kafka.address import KafkaSecurity
from grpo_tta.adapters.kafka.errors import KafkaUnreachable
from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.topics import TopicPlan, ensure_topics

PASSWORD = "wrong-and-secret"


@pytest.fixture
def secured(secure_broker, monkeypatch):
    """Settings for a listener of the broker; its user and password are in ``USER_NAME`` and ``PASSWORD``."""
    monkeypatch.setenv("USER_NAME", secure_broker.security.user)
    monkeypatch.setenv("PASSWORD", secure_broker.security.password)
    monkeypatch.setenv("WRONG", PASSWORD)

    def make(listener, protocol, **fields):
        security = KafkaSecurity(protocol=protocol, **{"ca_file": str(secure_broker.security.ca_file), **fields})
        return KafkaSettings((secure_broker.address(listener),), security, bootstrap_timeout=4.0)

    return make


def sasl(mechanism, password="env:PASSWORD"):
    return {"mechanism": mechanism, "username": "env:USER_NAME", "password": password}


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_user_and_password_over_tls(secured, mechanism):
    settings = secured("SASL_SSL", "SASL_SSL", **sasl(mechanism))
    name = f"secured-{mechanism.lower()}"
    ensure_topics(settings, [name], TopicPlan())
    with KafkaOffsets(settings) as offsets:
        assert offsets.end([f"{name}-0"]) == {f"{name}-0": 0}


def test_tls_without_and_with_a_client_certificate(secured, secure_broker):
    files = {
        "cert_file": str(secure_broker.security.client_certificate),
        "key_file": str(secure_broker.security.client_key),
    }
    for settings in (secured("SSL", "SSL"), secured("MTLS", "SSL", **files)):
        ensure_topics(settings, ["tls"], TopicPlan())


@pytest.mark.parametrize(
    ("listener", "protocol", "fields", "advised"),
    [
        ("SASL_SSL", "SASL_SSL", sasl("PLAIN", "env:WRONG"), "user and password .env:USER_NAME, env:WRONG."),
        ("SASL_SSL", "SASL_SSL", sasl("SCRAM-SHA-512", "env:WRONG"), "the mechanism SCRAM-SHA-512"),
        ("SASL_SSL", "SSL", {}, "whether it wants a user and password"),
        ("MTLS", "SSL", {}, "whether it wants a client certificate"),
        ("SSL", "SSL", {"ca_file": None}, "that the CA .of the system. signed"),
        ("SSL", "PLAINTEXT", {"ca_file": None}, "whether it wants TLS"),
        ("PLAINTEXT", "SSL", {}, "is a SSL listener"),
    ],
)
def test_what_does_not_fit_says_what_to_check_and_no_secret(secured, caplog, listener, protocol, fields, advised):
    caplog.set_level("DEBUG")
    settings = secured(listener, protocol, **fields)
    with pytest.raises(KafkaUnreachable, match=advised) as caught, KafkaOffsets(settings) as offsets:
        offsets.end(["any-0"])
    assert PASSWORD not in str(caught.value) + repr(caught.value.__cause__)
    assert PASSWORD not in caplog.text
