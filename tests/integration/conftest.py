"""Real brokers for the session, see `demo.broker`, topics in one, live jobs over them, and Prism, a Beam runner. They
need Java and, once, Maven; Prism needs ``make prism``."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import apache_beam
import pytest
from live_jobs import JobServer, LiveJob

from demo.broker import BrokerUnavailable, LocalBroker, create_topic
from demo.broker.local import prepare
from demo.broker.process import ChildProcess
from demo.broker.quorum import free_ports
from demo.broker.security import make_security

BUILT = Path(__file__).parents[2] / "build/prism" / apache_beam.__version__ / "prism"


@pytest.fixture(scope="session")
def broker_libraries() -> None:
    """All tests that start brokers need it. Where a broker cannot run CI fails and everybody else skips by name."""
    try:
        prepare()
    except BrokerUnavailable as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run these tests: {missing}")
        pytest.skip(f"no local Kafka broker: {missing}")


@pytest.fixture(scope="session")
def broker(broker_libraries: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """One for all tests of the session; those that kill or pause it take `broker_to_disturb`."""
    with LocalBroker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def broker_to_disturb(broker: LocalBroker) -> Iterator[LocalBroker]:
    """The session's broker; however the test leaves it, the next one finds it ready."""
    yield broker
    if broker.process.alive:
        broker.resume()
    else:
        broker.restart()
    broker.wait_until_ready()


@pytest.fixture(scope="session")
def secure_broker(broker_libraries: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """A broker that asks for certificates and passwords; its ``security`` has them."""
    folder = tmp_path_factory.mktemp("secure-broker")
    with LocalBroker(folder, security=make_security(folder / "security")) as running:
        yield running


@pytest.fixture
def topic(broker: LocalBroker) -> Callable[..., str]:
    """Make a topic with a name of its own: ``topic(partitions=4, config={"max.message.bytes": "1000"})``."""

    def make(partitions: int = 1, config: dict[str, str] | None = None) -> str:
        name = f"topic-{uuid4().hex[:12]}"
        create_topic(broker.bootstrap, name, partitions, config=config)
        return name

    return make


@pytest.fixture(scope="session")
def job_server(broker_libraries: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    """Forks live jobs; see `live_job_server`."""
    server = JobServer(tmp_path_factory.mktemp("jobs"))
    yield server
    server.close()


@pytest.fixture
def live_job(job_server: JobServer, broker: LocalBroker, tmp_path: Path) -> Iterator[Callable[..., LiveJob]]:
    """Make a job: ``live_job(topic, kafka={"partitions": "0"})``; what still runs of it in the end is killed."""
    made: list[LiveJob] = []

    def make(topic: str, **sections: Any) -> LiveJob:
        made.append(LiveJob(job_server, broker, tmp_path, topic, **sections))
        return made[-1]

    yield make
    for job in made:
        job.end()


@pytest.fixture(scope="session")
def prism_binary() -> str:
    """Where Prism is missing CI fails and everybody else skips by name."""
    found = str(BUILT) if BUILT.exists() else shutil.which("prism")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must run these tests: no Prism runner, 'make prism' builds one")
        pytest.skip("no Prism runner: 'make prism' builds one")
    return found


@pytest.fixture
def prism(prism_binary: str, tmp_path: Path) -> Iterator[str]:
    """The address of a Prism that ends with the test."""
    job, web = free_ports(2)
    process = ChildProcess([prism_binary, f"-job_port={job}", f"-web_port={web}"], tmp_path / "prism.log")
    yield f"127.0.0.1:{job}"
    process.kill()
    for thread in threading.enumerate():  # of workers in this process, which die of it now and not in a later test
        if thread.name == "read_state":
            thread.join(10)
