"""What a live job's checkpoint says of it, and asking for a reset."""

import json

import pytest
from live_fakes import FakeMember, LiveWorld
from pipeline_fakes import make_labeler

from grpo_tta.adapters.kafka.address import KafkaSecurity
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.known import partition_url
from grpo_tta.pipeline.checkpoint.log import CheckpointLog
from grpo_tta.pipeline.checkpoint.packs import pack_name, write_pack
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.run.places import claim_outputs
from grpo_tta.pipeline.watch.status import note_job, read_status, request_reset
from grpo_tta.state import encode_state

SECURITY = KafkaSecurity(protocol="SASL_PLAINTEXT", mechanism="PLAIN", username="env:USER", password="env:PASSWORD")
SETTINGS = KafkaSettings(("127.0.0.1:1",), SECURITY)


@pytest.fixture
def world(tmp_path):
    """Two partitions; the states of the graph's streams are real ones."""
    made = LiveWorld(tmp_path, t_0=25, t_1=7)
    run = made.run_slice

    def run_slice(parts):
        results = run(parts)
        state = make_labeler().initial_state()
        state.counters["frames"] = 12
        state.position.update(event_time=1_767_225_600_000_000, reset_time=1_767_225_600_000_000, reset_cause="manual")
        for part, result in zip(parts, results, strict=True):
            states = dict.fromkeys(result.streams, encode_state(state))
            write_pack(ObjectStore(part.checkpoint_url), pack_name(part.plan), states, {})
        return results

    made.driver(FakeMember(["t-0", "t-1"]), owner="host:1", run_slice=run_slice).run()
    return made


def test_positions_owners_and_streams(world, monkeypatch):
    note_job(ObjectStore(world.url), SETTINGS, "group")
    found = json.loads(read_status(world.url).to_json())  # nobody listens there, so the lag is not known
    assert [(one["partition"], one["position"], one["lag"]) for one in found["partitions"]] == [
        ("t-0", 25, None), ("t-1", 7, None),
    ]  # fmt: skip
    assert {(one["owner"], one["epoch"]) for one in found["partitions"]} == {("host:1", 1)}
    assert [one["events"] for one in found["partitions"]] == [25, 7]
    assert [(one["stream"], one["partition"]) for one in found["streams"]] == [
        ("cam-0", "t-0"), ("cam-1", "t-0"), ("cam-2", "t-0"), ("cam-0", "t-1"),
    ]  # fmt: skip
    assert {(one["frames"], one["last_reset_cause"]) for one in found["streams"]} == {(12, "manual")}
    assert {one["warming_up"] for one in found["streams"]} == {True}
    assert {one["last_reset"] for one in found["streams"]} == {"2026-01-01T00:00:00+00:00"}


def test_a_reset_is_asked_of_every_partition_that_knows_the_stream(world):
    assert request_reset(world.url, "cam-0") == ["t-0", "t-1"]
    assert request_reset(world.url, "cam-2") == ["t-0"]
    logs = {name: CheckpointLog(ObjectStore(partition_url(world.url, name))) for name in ("t-0", "t-1")}
    assert {name: sorted(log.pending_resets()) for name, log in logs.items()} == {
        "t-0": ["cam-0", "cam-2"], "t-1": ["cam-0"],
    }  # fmt: skip
    with pytest.raises(JobError, match="no partition knows stream 'cam-9'; there are cam-0, cam-1, cam-2"):
        request_reset(world.url, "cam-9")


def test_without_a_checkpoint_there_is_nothing_to_say(tmp_path):
    with pytest.raises(JobError, match="holds no checkpoint"):
        read_status(str(tmp_path / "nothing"))


def test_secrets_are_named_and_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSWORD", "hush-hush")
    note_job(ObjectStore(str(tmp_path)), SETTINGS, "group")
    written = (tmp_path / "live.json").read_text()
    assert "env:PASSWORD" in written
    assert "hush-hush" not in written


def test_outputs_and_checkpoint_may_be_one_folder(tmp_path):
    store = ObjectStore(str(tmp_path))
    for _ in range(2):  # the second time is the job that goes on
        claim_outputs(store, [store])
        note_job(store, SETTINGS, "group")


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"transactional": True}),
        ({"transactional": True}, {}),
        ({"transactional": True}, {"transactional": True, "group": "others"}),
    ],
)
def test_what_decides_cannot_be_changed_under_way(tmp_path, first, then):
    store = ObjectStore(str(tmp_path))
    for _ in range(2):
        note_job(store, SETTINGS, **{"group": "ours", **first})
    with pytest.raises(ConfigurationError, match=r"kafka\.transactional: the checkpoint .* counts by"):
        note_job(store, SETTINGS, **{"group": "ours", **then})


def test_by_its_own_commits_a_job_may_change_its_group(tmp_path):
    store = ObjectStore(str(tmp_path))
    note_job(store, SETTINGS, "ours")
    note_job(store, SETTINGS, "others")
