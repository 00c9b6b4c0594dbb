"""What a live job tells of a slice, and how it waits, with a stand-in for the group, the cluster and the graph."""

from live_fakes import FakeMember, LiveWorld


def test_the_lag_is_of_the_moment_after_the_slice(tmp_path):
    world = LiveWorld(tmp_path, t_0=5)
    world.during = lambda: world.offsets.ends.update({"t-0": 12})
    world.driver(FakeMember(["t-0"])).run()
    assert [(one.owned, one.lag) for one in world.watching.progress] == [({"t-0": 5}, {"t-0": 7})]


def test_a_slice_is_followed_by_the_next_without_a_pause(tmp_path):
    waits: list[float] = []

    class Waiting(FakeMember):
        def events(self, seconds=0.0):
            waits.append(seconds)
            return super().events(0.0)

    world = LiveWorld(tmp_path, t_0=25)
    world.driver(Waiting(["t-0"]), until=None, turns=6).run()
    assert len(world.runs) == 3
    assert [seconds > 0 for seconds in waits] == [True, False, False, False, True, True]
