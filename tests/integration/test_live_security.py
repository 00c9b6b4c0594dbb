"""``grpo-tta label`` over TLS, with certificates and passwords from the environment: good ones work, bad ones are
explained, and no secret is printed or written."""

from pathlib import Path

import pytest
from live_jobs import LiveJob, feed, send

from demo.broker import create_topic
from demo.broker.security import make_security

WRONG = "wrong-and-very-secret"


@pytest.fixture(scope="module")
def secured(secure_broker):
    create_topic(secure_broker.bootstrap, "secured", 1)
    send(secure_broker, "secured", feed(6, partitions=1))
    return secure_broker


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """The files of an authority that the broker does not know."""
    return make_security(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def jobs():
    """Made by `start`; ended with the module."""
    made = []
    yield made
    for job in made:
        job.end()


def tls(security, **fields):
    return {"PROTOCOL": "SSL", "CA_FILE": security.ca_file, **fields}


def certificate(security):
    return {"CERT_FILE": security.client_certificate, "KEY_FILE": security.client_key}


def sasl(security, mechanism, password):
    user = {"MECHANISM": mechanism, "USERNAME": security.user, "PASSWORD": password}
    return {"PROTOCOL": "SASL_SSL", "CA_FILE": security.ca_file, **user}


def start(secured, job_server, folder, listener, variables):
    """The command over ``listener``; the job, and its process."""
    address = secured.address(listener)
    job = LiveJob(job_server, secured, folder, "secured")
    words = [
        "label", "--source", f"kafka://{address}/secured", "--out", f"kafka://{address}/{job.name}",
        "--checkpoint", job.checkpoint, "--slice-seconds", "250ms", "--until", "latest", "--threads", "1",
        "--group", job.name,
    ]  # fmt: skip
    return job, job.start(
        cli=words, environment={f"GRPO_TTA_KAFKA_{name}": str(one) for name, one in variables.items()}
    )


def written(job):
    """Everything that the job wrote to files."""
    return b"".join(path.read_bytes() for path in Path(job.checkpoint).rglob("*") if path.is_file())


GOOD = {
    "TLS": ("SSL", lambda security: tls(security)),
    "mTLS": ("MTLS", lambda security: tls(security, **certificate(security))),
    "PLAIN": ("SASL_SSL", lambda security: sasl(security, "PLAIN", security.password)),
    "SCRAM-SHA-256": ("SASL_SSL", lambda security: sasl(security, "SCRAM-SHA-256", security.password)),
    "SCRAM-SHA-512": ("SASL_SSL", lambda security: sasl(security, "SCRAM-SHA-512", security.password)),
}


@pytest.mark.parametrize("kind", GOOD)
def test_good_ones_work_and_their_secrets_are_written_nowhere(secured, job_server, jobs, tmp_path, kind):
    listener, variables = GOOD[kind]
    job, pid = start(secured, job_server, tmp_path, listener, variables(secured.security))
    jobs.append(job)
    assert job.wait(pid) == 0, job.said()
    assert len(job.records()) == 6
    assert written(job)
    for secret in (secured.security.password, secured.security.client_key.read_text().splitlines()[1]):
        assert secret not in job.said()
        assert secret.encode() not in written(job)
    assert (b"env:GRPO_TTA_KAFKA_PASSWORD" in written(job)) == (listener == "SASL_SSL")


BAD = {
    "wrong password, PLAIN": ("SASL_SSL", lambda ours, theirs: sasl(ours, "PLAIN", WRONG)),
    "wrong password, SCRAM": ("SASL_SSL", lambda ours, theirs: sasl(ours, "SCRAM-SHA-512", WRONG)),
    "no certificate": ("MTLS", lambda ours, theirs: tls(ours)),
    "a stranger's certificate": ("MTLS", lambda ours, theirs: tls(ours, **certificate(theirs))),
    "a stranger's authority": ("SSL", lambda ours, theirs: tls(theirs)),
    "no password": ("SASL_SSL", lambda ours, theirs: tls(ours)),
    "no TLS": ("SSL", lambda ours, theirs: {"PROTOCOL": "PLAINTEXT"}),
}
ADVICE = {
    "wrong password, PLAIN": "the user and password (env:GRPO_TTA_KAFKA_USERNAME, env:GRPO_TTA_KAFKA_PASSWORD)",
    "wrong password, SCRAM": "SCRAM-SHA-512",
    "no certificate": "whether it wants a client certificate",
    "a stranger's certificate": "client.pem",
    "a stranger's authority": "ca.pem) signed",
    "no password": "whether it wants a user and password",
    "no TLS": "whether it wants TLS",
}


@pytest.fixture(scope="module")
def refused(secured, stranger, job_server, jobs, tmp_path_factory):
    """By kind, the job and its exit code; all of them wait for the same time-out at once."""
    folder = tmp_path_factory.mktemp("refused")
    started = {}
    for kind, (listener, variables) in BAD.items():
        started[kind] = start(secured, job_server, folder, listener, variables(secured.security, stranger))
        jobs.append(started[kind][0])
    return {kind: (job, job.wait(pid)) for kind, (job, pid) in started.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_one_ends_it_with_what_to_check(refused, secured, stranger, kind):
    job, code = refused[kind]
    assert code == 1, job.said()
    assert "failed: could not" in job.said()
    assert ADVICE[kind] in job.said()
    assert "Traceback" not in job.said()
    keys = [security.client_key.read_text().splitlines()[1] for security in (secured.security, stranger)]
    for secret in (WRONG, *keys):
        assert secret not in job.said()
        assert secret.encode() not in written(job)
