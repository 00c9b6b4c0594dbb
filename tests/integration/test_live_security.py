"""``grpo-tta label`` over TLS with a user and password from the environment: good ones work, bad ones are explained."""

from pathlib import Path

import pytest
from live_jobs import LiveJob, feed, send

from demo.broker import create_topic

WRONG = "wrong-and-very-secret"


@pytest.fixture(scope="module")
def secured(secure_broker):
    create_topic(secure_broker.bootstrap, "secured", 1)
    send(secure_broker, "secured", feed(6, partitions=1))
    return secure_broker


@pytest.fixture
def label(secured, job_server, tmp_path):
    """Run the command over the listener that wants a password; the job and its exit code."""
    made = []

    def run(password):
        address = secured.address("SASL_SSL")
        job = LiveJob(job_server, secured, tmp_path, "secured")
        made.append(job)
        environment = {
            "GRPO_TTA_KAFKA_PROTOCOL": "SASL_SSL",
            "GRPO_TTA_KAFKA_CA_FILE": str(secured.security.ca_file),
            "GRPO_TTA_KAFKA_MECHANISM": "SCRAM-SHA-512",
            "GRPO_TTA_KAFKA_USERNAME": secured.security.user,
            "GRPO_TTA_KAFKA_PASSWORD": password,
        }
        words = [
            "label", "--source", f"kafka://{address}/secured", "--out", f"kafka://{address}/{job.name}",
            "--checkpoint", job.checkpoint, "--slice-seconds", "250ms", "--until", "latest", "--threads", "1",
        ]  # fmt: skip
        return job, job.run(cli=words, environment=environment)

    yield run
    for job in made:
        job.end()


def written(job):
    """Everything that the job wrote to files."""
    return b"".join(path.read_bytes() for path in Path(job.checkpoint).rglob("*") if path.is_file())


def test_a_good_password_works_and_is_written_nowhere(label, secured):
    job, code = label(secured.security.password)
    assert code == 0, job.said()
    assert len(job.records()) == 6
    assert secured.security.password not in job.said()
    assert b"env:GRPO_TTA_KAFKA_PASSWORD" in written(job)
    assert secured.security.password.encode() not in written(job)


def test_a_bad_password_ends_it_with_what_to_check(label):
    job, code = label(WRONG)
    assert code == 1
    assert "failed: could not" in job.said()
    assert "the user and password (env:GRPO_TTA_KAFKA_USERNAME, env:GRPO_TTA_KAFKA_PASSWORD)" in job.said()
    assert "SCRAM-SHA-512" in job.said()
    assert WRONG not in job.said()
    assert WRONG.encode() not in written(job)
