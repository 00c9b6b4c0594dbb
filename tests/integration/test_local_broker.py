"""The broker that the other tests stand on: it keeps what it accepted, comes back where it was, and leaves nothing."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaTimeoutError

from benchmarks.faults import note
from demo.broker import BrokerFailed, BrokerUnavailable, LocalBroker, LocalCluster, admin_client, create_topic
from demo.broker import libraries as broker_libraries_module
from demo.broker import local as local_module
from demo.broker.admin import brokers_seen_from
from demo.broker.libraries import fetch_libraries, find_java
from demo.broker.process import ChildProcess
from demo.broker.security import LISTENERS, MECHANISMS, make_security

QUICK = {"reconnect_backoff_max_ms": 200, "retry_backoff_ms": 100}
LONG_AGO = 1_000_000_000_000


@contextmanager
def producing(bootstrap, **options):
    with closing(KafkaProducer(bootstrap_servers=bootstrap, **{**QUICK, **options})) as producer:
        yield producer


def produce(bootstrap, topic, values, **options):
    with producing(bootstrap, **options) as producer:
        for future in [producer.send(topic, value) for value in values]:
            future.get(20)


def consume(bootstrap, topic, count, seconds=20, **options):
    """The values of partition 0; waits for ``count``, and a little for one that should not be there."""
    partition, values = TopicPartition(topic, 0), []
    with closing(KafkaConsumer(bootstrap_servers=bootstrap, **{**QUICK, **options})) as consumer:
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        deadline = time.monotonic() + seconds
        while len(values) < count and time.monotonic() < deadline:
            values += [record.value for record in consumer.poll(200).get(partition, [])]
        values += [record.value for record in consumer.poll(200).get(partition, [])]
    return values


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def numbers(count):
    return [str(number).encode() for number in range(count)]


def test_what_was_produced_is_consumed(broker, topic):
    name = topic(partitions=3)
    with admin_client(broker.bootstrap) as client:
        assert len(client.describe_topics([name])[0]["partitions"]) == 3
    with producing(broker.bootstrap) as producer:
        producer.send(name, b"here", partition=0).get(20)
        producer.send(name, b"elsewhere", partition=2).get(20)
    assert consume(broker.bootstrap, name, 1) == [b"here"]


def test_old_records_stay_unless_the_topic_says_otherwise(broker, topic):
    lasting, expiring = topic(), topic(config={"retention.ms": "60000"})
    with producing(broker.bootstrap) as producer:
        for name in (lasting, expiring):
            producer.send(name, b"old", timestamp_ms=LONG_AGO).get(20)
    with closing(KafkaConsumer(bootstrap_servers=broker.bootstrap)) as consumer:
        gone = TopicPartition(expiring, 0)
        eventually(lambda: consumer.beginning_offsets([gone])[gone] == 1)
    assert consume(broker.bootstrap, lasting, 1) == [b"old"]


def test_killed_and_restarted_it_has_what_it_accepted(broker_to_disturb, topic):
    broker, name = broker_to_disturb, topic()
    bootstrap, pid = broker.bootstrap, broker.process.pid
    produce(bootstrap, name, numbers(50))
    broker.kill()
    assert not psutil.pid_exists(pid)
    assert brokers_seen_from(bootstrap) == set()
    broker.restart()
    assert broker.bootstrap == bootstrap
    produce(bootstrap, name, [b"after"])
    assert consume(bootstrap, name, 51) == [*numbers(50), b"after"]


def test_paused_nobody_answers_and_resumed_it_goes_on(broker_to_disturb, topic):
    broker, name = broker_to_disturb, topic()
    with producing(broker.bootstrap) as producer:
        producer.send(name, b"before").get(20)
        broker.pause()
        waiting = producer.send(name, b"meanwhile")
        assert brokers_seen_from(broker.bootstrap) == set()
        assert not waiting.is_done
        broker.resume()
        waiting.get(20)
    assert consume(broker.bootstrap, name, 2) == [b"before", b"meanwhile"]


def test_a_cluster_goes_on_without_a_leader_that_was_killed(broker_libraries, tmp_path):
    with LocalCluster(tmp_path) as cluster:
        create_topic(cluster.bootstrap, "events", replicas=3)
        produce(cluster.bootstrap, "events", numbers(20))
        killed = cluster.leader("events")
        survivor = next(broker for broker in cluster.brokers if broker is not killed)
        killed.kill()
        produce(survivor.bootstrap, "events", [b"after"])
        assert cluster.leader("events") is not killed
        assert consume(survivor.bootstrap, "events", 21) == [*numbers(20), b"after"]
        pids = [broker.process.pid for broker in cluster.brokers]
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize(
    ("listener", "mechanism"),
    [("SSL", "PLAIN"), ("MTLS", "PLAIN"), *(("SASL_SSL", mechanism) for mechanism in MECHANISMS)],
)
def test_the_right_credentials_are_let_in(secure_broker, listener, mechanism):
    options = secure_broker.security.client_options(listener, mechanism)
    with admin_client(secure_broker.address(listener), bootstrap_timeout_ms=10000, **options) as client:
        assert [broker["broker_id"] for broker in client.describe_cluster()["brokers"]] == [1]


@pytest.mark.parametrize(
    ("mechanism", "reason"),
    [
        ("PLAIN", "Invalid username or password"),
        ("SCRAM-SHA-256", "invalid credentials with SASL mechanism SCRAM-SHA-256"),
        ("SCRAM-SHA-512", "invalid credentials with SASL mechanism SCRAM-SHA-512"),
    ],
)
def test_a_wrong_password_is_turned_away(secure_broker, mechanism, reason):
    options = secure_broker.security.client_options("SASL_SSL", mechanism) | {"sasl_plain_password": "wrong"}
    turned_away(secure_broker, "SASL_SSL", options, reason)


@pytest.mark.parametrize("listener", LISTENERS)
def test_an_authority_that_the_client_does_not_know_is_refused(secure_broker, listener, tmp_path):
    stranger = make_security(tmp_path)
    options = secure_broker.security.client_options(listener) | {"ssl_cafile": str(stranger.ca_file)}
    turned_away(secure_broker, listener, options, "SSL handshake failed")


def test_a_client_without_a_certificate_or_without_tls_is_turned_away(secure_broker):
    turned_away(secure_broker, "MTLS", secure_broker.security.client_options("SSL"), "SSL handshake failed")
    turned_away(secure_broker, "SSL", {}, "SSL handshake failed")


def turned_away(broker, listener, options, reason):
    """The client sees a time-out whatever is wrong: the broker's log knows. No thread of the client is left."""
    threads, said_before = threading.active_count(), len(broker.process.said())
    with (
        pytest.raises(KafkaTimeoutError, match="Unable to bootstrap"),
        admin_client(broker.address(listener), bootstrap_timeout_ms=500, **options),
    ):
        pass
    eventually(lambda: reason in broker.process.said()[said_before:])
    assert threading.active_count() == threads


def test_a_broker_that_cannot_start_says_why(broker_libraries, tmp_path):
    broker = LocalBroker(tmp_path, properties={"log.segment.bytes": "few"})
    with pytest.raises(BrokerFailed, match="few"):
        broker.start()


@pytest.mark.slow
def test_a_port_that_was_taken_meanwhile_is_given_up(broker_libraries, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        choices = iter([[taken]])
        chosen = local_module.free_ports
        monkeypatch.setattr(local_module, "free_ports", lambda *args, **named: next(choices, chosen(*args, **named)))
        with LocalBroker(tmp_path) as broker:
            assert broker.bootstrap != f"127.0.0.1:{taken}"
            assert brokers_seen_from(broker.bootstrap) == {1}


@pytest.mark.slow
def test_an_outage_under_load_loses_nothing_and_doubles_nothing(broker_to_disturb, topic):
    broker, name, futures, stop = broker_to_disturb, topic(), [], threading.Event()

    def load():
        with producing(broker.bootstrap) as producer:
            while not stop.wait(0.002):
                futures.append(producer.send(name, str(len(futures)).encode()))
            for future in futures:
                future.get(60)

    thread = threading.Thread(target=load)
    thread.start()
    time.sleep(1)
    broker.kill()
    time.sleep(10)
    broker.restart()
    time.sleep(1)
    stop.set()
    thread.join(90)
    assert all(future.succeeded() for future in futures)
    assert len(futures) > 100
    assert consume(broker.bootstrap, name, len(futures)) == numbers(len(futures))
    note("records sent over a broker's outage", len(futures), 1, 0)


def test_a_child_dies_with_the_process_that_started_it(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from demo.broker.process import ChildProcess\n"
        "print(ChildProcess(['sleep', '600'], Path(sys.argv[1])).pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    child = int(done.stdout)
    eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_child_outlives_the_thread_that_started_it(tmp_path):
    started = []
    thread = threading.Thread(target=lambda: started.append(ChildProcess(["sleep", "600"], tmp_path / "log")))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert started[0].alive
    assert started[0].kill() == -signal.SIGKILL


def test_a_child_is_stopped_even_when_it_is_paused_or_does_not_listen(tmp_path):
    paused = ChildProcess(["sleep", "600"], tmp_path / "paused")
    paused.pause()
    assert paused.terminate(20) == -signal.SIGTERM
    deaf = ChildProcess(["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"], tmp_path / "deaf")
    eventually(lambda: deaf.said() == "deaf\n")
    assert deaf.terminate(0.3) == -signal.SIGKILL
    with pytest.raises(ProcessLookupError, match=f"{deaf.pid} has ended with code -9"):
        deaf.pause()


def test_no_watchdog_is_left_of_a_child_that_ended_by_itself(tmp_path):
    before = set(psutil.Process().children())
    child = ChildProcess(["sh", "-c", "exit 3"], tmp_path / "log")
    eventually(lambda: not child.alive)
    assert child.kill() == 3
    assert set(psutil.Process().children()) == before


class TestMissingTools:
    """What the user is told."""

    @pytest.fixture
    def tools(self, tmp_path, monkeypatch):
        """Nothing on PATH but what ``tools(name, script)`` puts there; no jars fetched."""
        folder = tmp_path / "bin"
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setattr(broker_libraries_module, "LIBRARIES", tmp_path / "kafka" / "libs")

        def put(name: str, script: str) -> Path:
            path = folder / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
            return path

        return put

    def test_no_java(self, tools):
        with pytest.raises(BrokerUnavailable, match="no 'java' on PATH: install a Java runtime, version 17"):
            find_java()

    def test_java_that_is_too_old(self, tools):
        tools("java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
        with pytest.raises(BrokerUnavailable, match=r"11\.0\.2.*: install a Java runtime, version 17"):
            find_java()

    def test_java_home_comes_first(self, tools, tmp_path, monkeypatch):
        tools("java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
        home = tmp_path / "home"
        home.mkdir()
        os.rename(tools("java", "echo 'openjdk version \"21\" 2023-09-19' >&2").parent, home / "bin")
        monkeypatch.setenv("JAVA_HOME", str(home))
        assert find_java() == str(home / "bin" / "java")

    def test_no_maven(self, tools):
        with pytest.raises(BrokerUnavailable, match=r"no Maven \('mvn'\) on PATH to fetch them: install Maven"):
            fetch_libraries()

    def test_maven_that_fails_leaves_nothing_that_looks_fetched(self, tools, tmp_path):
        tools("mvn", "echo 'Could not transfer artifact'; exit 1")
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="Could not transfer artifact"):
                fetch_libraries()
        assert not (tmp_path / "kafka" / "libs").exists()
