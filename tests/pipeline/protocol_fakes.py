"""What the processes of `protocol_world` run on: a store, a member and a producer that are dictionaries and lists, and
threads that stop before everything they do."""

import io
import threading
from concurrent.futures import Future

from live_fakes import FakeMember
from pipeline_checkpoints import Killed

from grpo_tta.adapters.kafka.errors import Fenced
from grpo_tta.adapters.kafka.positions import Committed


class WorldStore:
    """`adapters.storage.objects.ObjectStore` over a dictionary; every call is a step of the process that makes it."""

    def __init__(self, world, url):
        self._world, self.url = world, url
        self._objects = world.objects[url]

    def read(self, name):
        self._world.step(f"read {name}")
        if name not in self._objects:
            raise FileNotFoundError(name)
        return self._objects[name]

    def read_range(self, name, start, stop):
        return self.read(name)[start:stop]

    def open_read(self, name):
        return io.BytesIO(self.read(name))

    def names(self, prefix=""):
        self._world.step(f"names {prefix}")
        return sorted(name for name in self._objects if name.startswith(prefix))

    def exists(self, name):
        self._world.step(f"exists {name}")
        return name in self._objects

    def create(self, name, data):
        self._world.step(f"create {name}")
        if name in self._objects:
            return False
        self._put(name, data)
        return True

    def write(self, name, data):
        self._world.step(f"write {name}")
        self._put(name, data if isinstance(data, bytes) else b"".join(data))

    def _put(self, name, data):
        before = self._objects.get(name)
        self._objects[name] = data
        self._world.written(self, name, before, data)

    def delete(self, name):
        self._world.step(f"delete {name}")
        self._objects.pop(name, None)


class Inline:
    """A pool whose threads are the one that asks: who goes on is the test's to say."""

    def __init__(self, threads):
        """However many."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Nothing is under way."""

    def map(self, do, values):
        return map(do, values)

    def submit(self, do, *arguments):
        future = Future()
        try:
            future.set_result(do(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


class WorldMember(FakeMember):
    """Its process stops each time it asks what has happened."""

    def __init__(self, world, partitions):
        super().__init__(partitions)
        self._world = world

    def events(self, seconds=0.0):
        self._world.step("turn")
        return super().events(seconds)

    def commit(self, positions, acquired):
        self._world.step("group offsets")
        super().commit(positions, acquired)


class WorldSink:
    """A partition's transactional producer; ``world.fences`` knows the newest."""

    def __init__(self, world, name):
        self._world, self._name = world, name
        self._records, self._position = [], None

    def open(self):
        self._world.step("init transactions")
        self._world.fences[self._name] += 1
        self._fence = self._world.fences[self._name]

    def _check(self, doing):
        self._world.step(doing)
        if self._world.fenced and self._fence != self._world.fences[self._name]:
            raise Fenced(f"{self._name}: another producer has come")

    def begin(self):
        self._check("begin")
        self._records, self._position = [], None

    def send(self, where, value):
        self._check("send")
        self._records.append((where, value))

    def send_offsets(self, positions, group):
        self._check("send offsets")
        self._position = positions[self._name]

    def commit(self):
        self._check("end transaction")
        self._world.visible += self._records
        before = self._world.offsets.positions.get(self._name, Committed(0))
        if self._position.offset < before.offset:
            self._world.violated(f"the position of {self._name} went back from {before} to {self._position}")
        self._world.offsets.positions[self._name] = self._position

    def close(self):
        """A sink is closed with its process's others; what it has open stays open until another comes."""


class Process:
    """A live job's process over ``partitions``, or one that does what `ProtocolWorld.bounded` does."""

    def __init__(self, world, partitions, make_driver):
        self.world = world
        self.member = WorldMember(world, partitions)
        self.at, self.error = "start", None
        self.killed = self.ended = False
        self._make_driver = make_driver
        self._go = threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        self._go.acquire()
        try:
            self._make_driver(self).run()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.ended = True
        self.world.turn.release()

    def point(self, name):
        if not self.killed:
            self.at = name
            self.world.turn.release()
            self._go.acquire()
        if self.killed:
            raise Killed

    def go_on(self):
        """To its next stop."""
        self._go.release()
        self.world.turn.acquire()

    def kill(self):
        self.killed = True
        if not self.ended:
            self.go_on()
        self.thread.join()
