"""Real Kafka brokers on this machine, for the tests, the live demo and the benchmarks; loopback only.

`LocalBroker` is one broker, `LocalCluster` several with every partition on each. Both are context managers over a
folder, which keeps the data, the settings and ``broker.log``; leaving them kills the processes and leaves the folder.
Ports are chosen before the start, and others when one of them was taken meanwhile.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .admin import brokers_seen_from, partition_leader
from .libraries import JavaRuntime, build_lock, fetch_libraries, find_java
from .process import ChildProcess
from .quorum import Quorum, free_ports

if TYPE_CHECKING:
    from .security import Security

PORT_ATTEMPTS = 5
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
RECORD_SECONDS = 120.0
ENDED_ON_SIGTERM = 143
"""Java's exit code when it was asked to end and ran to its end."""
TAIL = 3000
SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.retention.check.interval.ms": "1000",
    "log.initial.task.delay.ms": "500",
    # A killed broker comes back as soon as the controller has given up on the one that it was.
    "broker.session.timeout.ms": "1500",
    "broker.heartbeat.interval.ms": "500",
}


class BrokerFailed(Exception):
    """A broker did not come up; the message has the end of its log."""


class PortTaken(BrokerFailed):
    """Somebody else listens on one of the ports that were chosen."""


class LocalBroker:
    """One broker. ``properties`` win over our settings; ``jvm_options`` are for the broker's Java, such as ``-Xmx1g``.

    ``security`` adds its listeners beside the plaintext one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        properties: Mapping[str, str] | None = None,
        security: "Security | None" = None,
        jvm_options: Sequence[str] = (),
        node_id: int = 1,
        runtime: JavaRuntime | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.node_id = node_id
        self.security = security
        self._properties = dict(properties or {})
        self._jvm_options = list(jvm_options)
        self._runtime = runtime
        self._ports: dict[str, int] = {}
        self._process: ChildProcess | None = None

    @property
    def log(self) -> Path:
        """Everything that the broker wrote, over all its starts."""
        return self.folder / "broker.log"

    @property
    def bootstrap(self) -> str:
        """``host:port`` of the plaintext listener."""
        return self.address("PLAINTEXT")

    def address(self, listener: str) -> str:
        """``host:port`` of a listener: ``PLAINTEXT``, or one of `demo.broker.security.LISTENERS`."""
        return f"127.0.0.1:{self._ports[listener]}"

    @property
    def process(self) -> ChildProcess:
        """The broker's process, also after its end."""
        if self._process is None:
            raise BrokerFailed(f"the broker in {self.folder} was never started: use 'with', or call start()")
        return self._process

    def start(self) -> None:
        """Make a new broker and wait until it answers. Raises ``BrokerUnavailable`` and ``BrokerFailed``."""
        _start([self])

    def restart(self) -> None:
        """Start again on the same data and ports; a broker that still runs is stopped first."""
        self.stop()
        deadline = time.monotonic() + READY_SECONDS
        while True:
            self.launch()
            try:
                return self.wait_until_ready()
            except PortTaken:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self.process.terminate(STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nobody answers."""
        self.process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.process.resume()

    def format(self, quorum: Quorum) -> None:
        """Choose ports, write the settings, and make empty storage for a broker of this quorum."""
        listeners = {"PLAINTEXT": "PLAINTEXT"}
        if self.security is not None:
            from .security import LISTENERS

            listeners |= LISTENERS
        self._ports = dict(zip(listeners, free_ports(len(listeners), but=quorum.ports.values()), strict=True))
        ports = self._ports | {"CONTROLLER": quorum.ports[self.node_id]}
        protocols = listeners | {"CONTROLLER": "PLAINTEXT"}
        settings = SETTINGS | quorum.properties() | (self.security.properties() if self.security else {})
        settings |= {
            "node.id": str(self.node_id),
            "log.dirs": str(self.folder / "data"),
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
            "inter.broker.listener.name": "PLAINTEXT",
        }
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}={value}\n" for name, value in (settings | self._properties).items()]
        self._settings_file.write_text("".join(lines))
        options = ["-t", quorum.cluster_id, "-c", str(self._settings_file), "--initial-controllers", quorum.voters()]
        options += self.security.format_options() if self.security else []
        command = self._java().command("kafka.tools.StorageTool", "format", *options)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-TAIL:]
            raise BrokerFailed(f"Kafka's storage tool ended with code {done.returncode}. It said:\n{said}")

    def launch(self) -> None:
        """Start the process on its data and ports; `wait_until_ready` should follow."""
        command = self._java().command("kafka.Kafka", str(self._settings_file), options=self._jvm_options)
        self._process = ChildProcess(command, self.log)

    def wait_until_ready(self, brokers: int = 1, seconds: float = READY_SECONDS) -> None:
        """Wait until it answers and sees itself, and as many ``brokers``. Raises ``BrokerFailed`` after ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            if not self.process.alive:
                said = self.process.said()
                kind = PortTaken if "Address already in use" in said else BrokerFailed
                raise kind(f"the broker in {self.folder} has ended. The end of {self.log}:\n{said[-TAIL:]}")
            seen = brokers_seen_from(self.bootstrap)
            if self.node_id in seen and len(seen) >= brokers:
                return
            if time.monotonic() > deadline:
                raise BrokerFailed(
                    f"the broker in {self.folder} was not ready within {seconds:g} s. The end of {self.log}:\n"
                    f"{self.process.said()[-TAIL:]}"
                )
            time.sleep(0.05)

    @property
    def _settings_file(self) -> Path:
        return self.folder / "server.properties"

    def _java(self) -> JavaRuntime:
        if self._runtime is None:
            self._runtime = prepare()
        return self._runtime

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class LocalCluster:
    """Several brokers, ids from 1, each with a copy of every partition; a majority must have a record to accept it."""

    def __init__(self, folder: Path, brokers: int = 3, *, properties: Mapping[str, str] | None = None) -> None:
        self.brokers = [
            LocalBroker(folder / f"broker-{node_id}", properties=properties, node_id=node_id)
            for node_id in range(1, brokers + 1)
        ]

    @property
    def bootstrap(self) -> str:
        """``host:port`` of all brokers, with commas."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def start(self) -> None:
        """Make the cluster and wait until each broker sees all others."""
        _start(self.brokers)

    def leader(self, topic: str, partition: int = 0) -> LocalBroker:
        """The broker that leads a partition now. Raises ``BrokerFailed`` while there is none."""
        leader = partition_leader(self.bootstrap, topic, partition)
        for broker in self.brokers:
            if broker.node_id == leader:
                return broker
        raise BrokerFailed(f"partition {partition} of topic {topic!r} has no leader at the moment: ask again")

    def kill(self) -> None:
        """SIGKILL all. (A broker that is asked to stop waits for a majority, and the last ones have none.)"""
        for broker in self.brokers:
            broker.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


@cache
def prepare() -> JavaRuntime:
    """All that a broker needs, fetched and made where it is not there yet. Raises ``BrokerUnavailable``."""
    java = find_java()
    with build_lock():
        runtime = JavaRuntime(java, fetch_libraries())
        if not runtime.archive.is_file():
            _record_classes(runtime)
    return runtime


def _record_classes(runtime: JavaRuntime) -> None:
    """Start a broker once and let Java write down, at its end, the classes that were loaded: later starts read them."""
    part = runtime.archive.with_suffix(".part")
    with tempfile.TemporaryDirectory() as folder:
        options = [f"-XX:ArchiveClassesAtExit={part}"]
        with LocalBroker(Path(folder), jvm_options=options, runtime=runtime) as broker:
            code = broker.process.terminate(RECORD_SECONDS)
    if code == ENDED_ON_SIGTERM and part.is_file():
        part.rename(runtime.archive)
    else:
        part.unlink(missing_ok=True)


def _start(brokers: Sequence[LocalBroker]) -> None:
    """Make one cluster of these brokers, with other ports where one was taken. What fails leaves nothing running."""
    for attempt in range(1, PORT_ATTEMPTS + 1):
        try:
            _start_on_new_ports(brokers)
            break
        except PortTaken:
            if attempt == PORT_ATTEMPTS:
                raise


def _start_on_new_ports(brokers: Sequence[LocalBroker]) -> None:
    quorum = Quorum.choose([broker.node_id for broker in brokers])
    with ThreadPoolExecutor(len(brokers)) as pool:
        list(pool.map(lambda broker: broker.format(quorum), brokers))
    launched: list[LocalBroker] = []
    try:
        for broker in brokers:
            broker.launch()
            launched.append(broker)
        for broker in brokers:
            broker.wait_until_ready(len(brokers))
    except BaseException:
        for broker in launched:
            broker.kill()
        raise
