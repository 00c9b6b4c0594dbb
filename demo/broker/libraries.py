"""Kafka's jars, the Java that runs them, and the command lines that come out of both.

The jars that ``pom.xml`` pins are fetched once, by Maven, into ``build/kafka/libs``; after that nothing needs Maven or
a network. A changed ``pom.xml`` fetches anew. Two processes never fetch at once.
"""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "kafka"
LIBRARIES = BUILD / "libs"
POM = HERE / "pom.xml"
OLDEST_JAVA = 17
FETCH_SECONDS = 600
JAVA_OPTIONS = (
    "-Xms128m",
    "-Xmx256m",
    "-XX:MaxMetaspaceSize=128m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Djava.net.preferIPv4Stack=true",
    f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}",
)


class BrokerUnavailable(Exception):
    """This machine cannot run the local broker; the message says what is missing and the way out."""


@dataclass(frozen=True)
class JavaRuntime:
    """A ``java`` and the jars for it. ``archive`` is Java's own cache of loaded classes, used where it is there."""

    java: str
    jars: tuple[Path, ...]
    archive: Path = LIBRARIES / "classes.jsa"

    def command(self, main: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        """The command line for the class ``main``; ``options`` are Java's and win over our own."""
        archive = [f"-XX:SharedArchiveFile={self.archive}"] if self.archive.is_file() else []
        class_path = os.pathsep.join(map(str, self.jars))
        return [self.java, *JAVA_OPTIONS, *archive, *options, "-cp", class_path, main, *arguments]


@contextmanager
def build_lock() -> Iterator[None]:
    """Only one process at a time is in here; the others wait. It ends with the process that holds it."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def find_java() -> str:
    """The ``java`` of ``JAVA_HOME``, else of ``PATH``. Raises ``BrokerUnavailable``, also where it is too old."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    java = java or shutil.which("java")
    way_out = (
        f"install a Java runtime, version {OLDEST_JAVA} or newer (Debian: apt-get install openjdk-17-jre-headless)"
    )
    if java is None:
        raise BrokerUnavailable(f"the local Kafka broker needs Java, and there is no 'java' on PATH: {way_out}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < OLDEST_JAVA:
        raise BrokerUnavailable(f"the local Kafka broker cannot run on {java}, which says {said.strip()!r}: {way_out}")
    return java


def fetch_libraries() -> tuple[Path, ...]:
    """The broker's jars, fetched where they are not there yet. Call it under `build_lock`.

    Raises ``BrokerUnavailable`` where Maven is missing or fails.
    """
    fetched_for = LIBRARIES / POM.name
    if not (fetched_for.is_file() and fetched_for.read_bytes() == POM.read_bytes()):
        _fetch()
    return tuple(sorted(LIBRARIES.glob("*.jar")))


def _fetch() -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerUnavailable(
            "the jars of the local Kafka broker are not there yet and there is no Maven ('mvn') on PATH to fetch them: "
            "install Maven (Debian: apt-get install maven); it is needed once"
        )
    part = LIBRARIES.with_name("libs.part")
    shutil.rmtree(part, ignore_errors=True)
    command = [maven, "-q", "-B", "-C", "-f", str(POM), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={part}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired as late:
        raise BrokerUnavailable(f"Maven did not fetch Kafka's jars within {late.timeout:.0f} s: try again") from late
    if done.returncode != 0:
        raise BrokerUnavailable(
            "Maven could not fetch Kafka's jars; it needs its repository once, see ~/.m2/settings.xml for mirrors and "
            f"proxies. It said:\n{(done.stdout + done.stderr)[-2000:]}"
        )
    shutil.copy(POM, part / POM.name)
    shutil.rmtree(LIBRARIES, ignore_errors=True)
    part.rename(LIBRARIES)
