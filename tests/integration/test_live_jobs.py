"""What a live job does with what it finds, against a real broker: bad records, lost positions, late and future events,
requests to reset, wrong credentials; and what it says of itself."""

import json
import socket
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

from kafka import TopicPartition
from live_jobs import TIME, LiveJob, feed, image_event, picture, send, wait_until

from demo.broker.quorum import free_ports
from grpo_tta.adapters.kafka.wire import coordinate_of
from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.pipeline.cli import main
from grpo_tta.schemas import LabeledImage
from grpo_tta.state import decode_state

ONE = {"kafka": {"partitions": "0"}, "checkpoint": {"slice_records": 100}}


def said_by_coordinate(records):
    return {record["coordinate"]: record for record in records}


# ---- before a job ----


def test_check_labels_the_newest_of_a_topic_and_leaves_nothing_behind(broker, topic, live_job, tmp_path, capsys):
    name = topic()
    *_, bad = send(broker, name, [*feed(12, partitions=1), (0, b"not json")])
    job = live_job(name)
    line = ["check", "--source", f"kafka://{broker.bootstrap}/{name}", "--method", "zero-shot"]
    places = ["--out", f"kafka://{broker.bootstrap}/{name}-out", "--checkpoint", str(tmp_path / "checkpoint")]
    assert main([*line, *places]) == 1
    said = capsys.readouterr().out
    assert "of the newest 13 records: cam-" in said
    assert f"{bad}: decode_event" in said
    assert "9 of 10 images labelled, nothing written" in said
    with job.settings.admin() as admin:
        assert not [made for made in admin.list_topics() if made.startswith(f"{name}-out")]
    assert not (tmp_path / "checkpoint").exists()
    assert main([*line[:2], f"kafka://{broker.bootstrap}/{name}-gone"]) == 1
    assert f"topic '{name}-gone' does not exist" in capsys.readouterr().err
    assert main([*line[:2], "kafka://127.0.0.1:9/t"]) == 1
    assert "no Kafka broker takes a connection" in capsys.readouterr().err


# ---- poison ----


def test_poison_becomes_dead_letters_and_the_rest_is_labelled(broker, topic, live_job, tmp_path):
    name = topic(config={"max.message.bytes": "4194304"})
    good = tmp_path / "good.jpg"
    good.write_bytes(picture(1))
    poison = {
        "not json": b"\x00\x01 not json",
        "another version": image_event(1, "cam", schema_version="2"),
        "three megabytes of garbage": b"\xf0" * 3_000_000,
        "null": None,
        "bad base64": image_event(4, "cam", data="@@@@"),
        "forbidden": image_event(5, "cam", uri="file:///etc/passwd"),
        "plain path": image_event(6, "cam", uri="/etc/passwd"),
        "internal address": image_event(7, "cam", uri="http://169.254.169.254/latest/meta-data"),
        "chained": image_event(8, "cam", uri=f"simplecache::file://{good}"),
        "climbing": image_event(9, "cam", uri=f"file://{tmp_path}/../../../../etc/passwd"),
        "missing": image_event(10, "cam", uri=f"file://{tmp_path}/missing.jpg"),
        "no picture": image_event(11, "cam", data="AAAA"),
    }
    fine = [image_event(20, "cam"), image_event(21, "cam", uri=f"file://{good}"), image_event(22, "cam-2")]
    sent = send(broker, name, [(0, value) for value in (fine[0], *poison.values(), *fine[1:])])
    job = live_job(name, source={"allow_uris": [f"file://{tmp_path}"]}, **ONE)
    job.finish()
    bad = dict(zip(poison, sent[1 : 1 + len(poison)], strict=True))
    letters = said_by_coordinate(job.records(".dead_letters"))
    assert sorted(letters) == sorted(bad.values())
    assert sorted(said_by_coordinate(job.records())) == sorted([sent[0], *sent[-2:]])
    assert {kind: letters[where]["stage"] for kind, where in bad.items()} == {
        "not json": "decode_event", "another version": "decode_event", "three megabytes of garbage": "decode_event",
        "null": "decode_event", "bad base64": "decode_event", "forbidden": "policy", "plain path": "policy",
        "internal address": "policy", "chained": "policy", "climbing": "policy", "missing": "fetch",
        "no picture": "decode_image",
    }  # fmt: skip
    for where in bad.values():
        assert len(json.dumps(letters[where])) < 100_000
        assert "root:" not in json.dumps(letters[where])
    shown = json.loads(letters[bad["not json"]]["event"])
    assert (shown["topic"], shown["partition"], shown["offset"], shown["key"]) == (name, 0, 1, "?")
    assert job.counted() == {"events": 15, "labels": 3, "dead_letters": 12}


# ---- positions that are gone ----


def delete_before(job, partition, offset):
    with job.settings.admin() as admin:
        admin.delete_records({TopicPartition(job.topic, partition): offset})


def test_where_retention_deleted_the_position_the_policy_is_obeyed(broker, topic, live_job):
    name = topic()
    job = live_job(name, **ONE)
    send(broker, name, feed(10, partitions=1))
    job.finish()
    later = send(broker, name, feed(20, partitions=1, start=10))
    delete_before(job, 0, 16)
    label = ["label", "--config", str(job.config_file()), "--until", "latest"]
    assert job.run(cli=label) == 1
    assert f"failed: partition {name}-0: position 10 is not there, the log holds 16 to 30" in job.said()
    assert "choose 'earliest' or 'latest'" in job.said()
    assert job.positions() == {f"{name}-0": 10}
    port = free_ports(1)[0]
    pid = job.start(cli=[*label[:3], "--out-of-range", "earliest", "--metrics-port", str(port)])
    wait_until(lambda: job.positions() == {f"{name}-0": 30}, job)
    assert "tta_positions_skipped_total 6.0" in get(port, "/metrics")[1]
    job.stop(pid)
    assert (
        "position 10 is not there (the log holds 16 to 30), reading goes on at 16: 6 positions are lost" in job.said()
    )
    labelled = said_by_coordinate(job.records())
    assert sorted(labelled)[10:] == later[6:]


# ---- time ----


def test_late_and_future_events_and_an_idle_partition(broker, topic, live_job):
    name = topic(partitions=2)
    now = datetime.now(UTC)
    ahead = image_event(5, "cam-a", event_time=(now + timedelta(days=3)).isoformat())
    first = [image_event(number, "cam-a", seconds=number) for number in (3, 1, 2, 100)]
    second = [
        ahead,
        image_event(6, "cam-a", seconds=20),  # more than 30 s before the newest
        image_event(7, "cam-a", seconds=90),  # out of order, not late
        image_event(8, "cam-a", seconds=101),  # not late, for all that the fast clock of another said
    ]
    job = live_job(name, kafka={"partitions": "0-1"}, checkpoint={"slice_records": 100})
    sent = send(broker, name, [(0, event) for event in first])
    job.finish()
    sent += send(broker, name, [(0, event) for event in second])
    job.finish()
    labels = said_by_coordinate(job.records())
    assert sorted(labels) == sorted(sent)
    by_number = {int(label["id"].rpartition("/")[2]): label for label in labels.values()}
    assert {number for number, label in by_number.items() if label.get("late")} == {6}
    assert {number for number, label in by_number.items() if label.get("time_capped")} == {5}
    assert job.positions() == {f"{name}-0": 8}  # the idle partition held nothing up
    state = decode_state(job.states()[f"{name}-0", "cam-a"])
    assert state.counters["frames"] == 7
    assert state.position["event_time"] == round((TIME + timedelta(seconds=101)).timestamp() * 1e6)


# ---- asked for from outside ----


def test_a_manual_reset_comes_with_the_stream_s_next_event_and_once(broker, topic, live_job):
    name = topic()
    job = live_job(name, **ONE, guard={"settings": {"probe_frames": 4, "backstop_frames": 0}})
    send(broker, name, [(0, image_event(number, "cam-a")) for number in range(6)])
    send(broker, name, [(0, image_event(number, "cam-b")) for number in range(6)])
    job.finish()
    ask = ["reset", "--checkpoint", job.checkpoint, "--stream", "cam-a"]
    assert job.run(cli=ask) == 0
    assert f"stream cam-a is reset before its next image, in {name}-0" in job.said()
    send(broker, name, [(0, image_event(6, "cam-b"))])
    job.finish()
    assert resets(job) == []
    at = send(broker, name, [(0, image_event(number, stream)) for number in (7, 8) for stream in ("cam-a", "cam-b")])
    assert job.run({"kafka": {"until": "latest"}}, kill_at="before:forget") == -9
    send(broker, name, [(0, image_event(9, "cam-a"))])
    job.finish()
    assert [(row["stream"], row["cause"], row["coordinate"]) for row in resets(job)] == [("cam-a", "manual", at[0])]
    status = json.loads(run_cli(job, ["status", "--checkpoint", job.checkpoint, "--json"]))
    (partition,) = status["partitions"]
    assert (partition["partition"], partition["position"], partition["end"], partition["lag"]) == (
        f"{name}-0", 18, 18, 0,
    )  # fmt: skip
    assert partition["owner"].startswith(socket.gethostname() + ":")
    streams = {one["stream"]: one for one in status["streams"]}
    assert (streams["cam-a"]["last_reset_cause"], streams["cam-a"]["resets"]) == ("manual", {"manual": 1})
    assert (streams["cam-a"]["frames"], streams["cam-a"]["frames_since_reset"]) == (9, 3)
    assert streams["cam-b"]["last_reset_cause"] is None
    assert job.run(cli=[*ask[:-1], "cam-z"]) == 1
    assert "no partition knows stream 'cam-z'; there are cam-a, cam-b" in job.said()


def resets(job):
    """Of the adaptation log, once however often it was written."""
    rows = {(row["coordinate"], row["frame"]): row for row in job.records(".adaptation") if row.get("reset")}
    return list(rows.values())


def run_cli(job, words):
    """Its standard output, apart from what it logs."""
    before = len(job.said())
    assert job.run(cli=words) == 0, job.said()
    text = job.said()[before:]
    return text[text.index("{") : text.rindex("}") + 1]


# ---- partitions ----


def test_partitions_that_are_added_are_read_soon_and_a_stream_that_moved_is_reported_once(broker, topic, live_job):
    name = topic()
    job = live_job(name)
    send(broker, name, [(0, image_event(number, "cam-a")) for number in range(6)])
    pid = job.start()
    wait_until(lambda: job.positions() == {f"{name}-0": 6}, job)
    with job.settings.admin() as admin:
        admin.create_partitions({name: 2})
    send(broker, name, [(1, image_event(number, "cam-a")) for number in range(6, 8)])
    # Far under kafka-python's own five minutes; on a machine without a free core a join may wait its 30 s out.
    wait_until(lambda: job.positions().get(f"{name}-1") == 2, job, seconds=60)
    send(broker, name, [(1, image_event(number, "cam-a")) for number in range(8, 12)])
    send(broker, name, [(1, image_event(number, "cam-b")) for number in range(2)])
    wait_until(lambda: job.positions().get(f"{name}-1") == 8, job)
    job.kill(pid)
    moved = [row for row in job.records(".drift") if row["signal"] == "state"]
    assert [(row["stream"], row["coordinate"]) for row in moved] == [("cam-a", coordinate_of(name, 1, 0))]
    labels = job.records()
    assert len(said_by_coordinate(labels)) == len(labels) == 14
    assert sorted(job.states()) == [(f"{name}-0", "cam-a"), (f"{name}-1", "cam-a"), (f"{name}-1", "cam-b")]


# ---- what it says of itself ----


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_metrics_and_readiness(broker, topic, live_job):
    name, port = topic(), free_ports(1)[0]
    job = live_job(name, run={"metrics_port": port})
    with LiveJobOwner(job):
        wait_until(lambda: get(port, "/readyz")[0] == 200, job)
        send(broker, name, feed(13, partitions=1, streams=1))
        wait_until(lambda: "tta_samples_total 13.0" in get(port, "/metrics")[1], job)
        text = get(port, "/metrics")[1]
        assert get(port, "/healthz") == (200, "ok\n")
    assert 'tta_resets_total{cause="scheduled"} 1.0' in text
    assert f'tta_lag_records{{partition="{name}-0"}} 0.0' in text
    assert "tta_partitions_owned 1.0" in text
    assert "tta_slice_failures_total 0.0" in text
    assert 'tta_event_age_seconds_bucket{le="+Inf"} 13.0' in text


def test_outputs_and_checkpoint_in_one_folder_are_taken_up_again(broker, topic, live_job, tmp_path):
    name, out = topic(), str(tmp_path / "out")
    job = live_job(name, output={"url": out}, checkpoint={"url": out})
    for start in (0, 4):
        send(broker, name, feed(4, partitions=1, start=start))
        job.finish()
    found = [record.id for record in read_records(out, "labels", LabeledImage)]
    assert (len(found), len(set(found))) == (8, 8)


def test_it_is_not_ready_while_others_own_everything(broker, topic, live_job):
    name, port = topic(), free_ports(1)[0]
    job = live_job(name)
    with LiveJobOwner(job):
        send(broker, name, feed(1, partitions=1))
        wait_until(lambda: job.positions() == {f"{name}-0": 1}, job)
        with LiveJobOwner(job, {"run": {"metrics_port": port}}):
            wait_until(lambda: members(job) == 2, job)
            code, body = get(port, "/readyz")
            assert (code, json.loads(body)["problem"]) == (503, "no partition is owned")


def members(job):
    """Of the job's group, when it has settled."""
    with job.settings.admin() as admin:
        (group,) = admin.describe_groups([job.config["kafka"]["group"]]).values()
    return len(group["members"]) if group["group_state"] == "Stable" else 0


class LiveJobOwner:
    """A process of a job, killed in the end."""

    def __init__(self, job: LiveJob, sections=None):
        self._job, self._sections = job, sections

    def __enter__(self):
        self.pid = self._job.start(self._sections)
        return self

    def __exit__(self, *_):
        self._job.kill(self.pid)
