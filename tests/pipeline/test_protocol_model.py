"""The protocol of live jobs under whatever can happen to its processes: hypothesis chooses who goes on, to where, who
is killed, who freezes and wakes, and whom the group gives what. `protocol_world` says what must hold then."""

import random
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from protocol_world import PARTITIONS, POINTS, SLICE, ProtocolWorld, disturb

pytestmark = pytest.mark.jobs

BOUNDED = settings(
    max_examples=40,
    stateful_step_count=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
names = st.sampled_from(PARTITIONS)
which = st.integers(0, 2)


class Model(RuleBasedStateMachine):
    """Processes of one job; at most three are there at once."""

    truth = "bucket"

    def __init__(self):
        super().__init__()
        self._stack = ExitStack()
        self.world = ProtocolWorld(self.truth)
        self._stack.enter_context(self.world.entered(self._stack.enter_context(pytest.MonkeyPatch.context())))

    @initialize(first=st.integers(0, 2 * SLICE), second=st.integers(0, 2 * SLICE))
    def begin(self, first, second):
        self.world.grow("t-0", first)
        self.world.grow("t-1", second)
        self.world.start(*PARTITIONS)

    def process(self, number):
        alive = self.world.alive()
        return alive[number % len(alive)]

    def some_are_alive(self):
        return bool(self.world.alive())

    @precondition(lambda self: len(self.world.alive()) < 3)
    @rule(given=st.sets(names, min_size=1))
    def a_process_comes(self, given):
        self.world.start(*sorted(given))

    @precondition(some_are_alive)
    @rule(number=which, steps=st.integers(1, 60))
    def one_goes_on(self, number, steps):
        self.world.forward(self.process(number), steps)

    @precondition(some_are_alive)
    @rule(number=which, point=st.sampled_from(POINTS))
    def one_goes_on_to_a_step(self, number, point):
        self.world.run_to(self.process(number), point)

    @precondition(some_are_alive)
    @rule(number=which)
    def one_is_killed_where_it_is(self, number):
        self.process(number).kill()

    @precondition(some_are_alive)
    @rule(number=which, name=names)
    def the_group_gives_it_a_partition(self, number, name):
        self.world.move(name, self.process(number))

    @precondition(some_are_alive)
    @rule(number=which)
    def one_notices_what_it_has_lost(self, number):
        self.world.notice(self.process(number))

    @rule(name=names, count=st.integers(1, SLICE + 1))
    def events_come(self, name, count):
        self.world.grow(name, count)

    @rule(name=names, stream=st.sampled_from(["cam-0", "cam-1"]))
    def a_reset_is_asked_for(self, name, stream):
        self.world.request_reset(name, stream)

    @rule(name=names, offset=st.integers(0, 20))
    def all_are_killed_and_an_image_vanishes(self, name, offset):
        self.world.vanish(name, offset)

    @invariant()
    def nothing_is_violated(self):
        assert self.world.violations == []

    def teardown(self):
        with self._stack:
            self.world.finish()
            assert self.world.violations == []


class KafkaModel(Model):
    truth = "kafka"


@pytest.mark.parametrize("model", [Model, KafkaModel])
def test_whatever_happens_everything_counts_once_and_says_the_same_again(model):
    run_state_machine_as_test(model, settings=BOUNDED)


@pytest.mark.parametrize("truth", ["bucket", "kafka"])
@pytest.mark.parametrize("seed", range(10))
def test_and_after_disturbances_by_chance(monkeypatch, truth, seed):
    world = ProtocolWorld(truth)
    with world.entered(monkeypatch):
        disturb(world, random.Random(seed))
        world.finish()
    assert world.violations == []
