"""The one configuration: defaults, what is refused and how, what a label depends on."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from grpo_tta.adapters.storage.source import SourceError
from grpo_tta.pipeline.cli import main
from grpo_tta.pipeline.config.job import JobConfig, make_config, merged, parse_duration, read_config_file
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.pipeline.run.places import list_job_source

MINIMAL: dict[str, Any] = {"source": {"url": "/data"}, "output": {"url": "/out"}}


def config(**sections: dict[str, Any]) -> JobConfig:
    return make_config(merged(MINIMAL, sections))


@pytest.mark.parametrize(
    ("text", "microseconds"), [("250ms", 250_000), ("30s", 30_000_000), ("1.5m", 90_000_000), ("2d", 172_800_000_000)]
)
def test_durations(text: str, microseconds: int) -> None:
    assert parse_duration(text) == microseconds


@pytest.mark.parametrize("text", ["-5s", "5", "s", "5 s", "1e3s", "", "5y", "\u0663s", "\uff15s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="a duration is a number with ms, s, m, h or d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"event_time": {"window": "fixed:-60s"}}, "event_time.window: a duration is"),
        ({"event_time": {"window": "fixed:36501d"}}, "event_time.window: a duration is at most 36500d, got '36501d'"),
        ({"source": {"settle": "9" * 400 + "s"}}, "source.settle: a duration is at most 36500d"),
        ({"labels": {"templates": ["{}", "{} \udcff"]}}, "labels.templates.1: a text of UTF-8 without NUL is needed"),
        ({"source": {"url": "a\0b"}}, r"source.url: a text of UTF-8 without NUL is needed, got 'a\\x00b'"),
        ({"event_time": {"window": "fixed:0s"}}, "event_time.window: a window's length must be > 0, got 'fixed:0s'"),
        ({"event_time": {"window": "hopping:5s"}}, "event_time.window: a window is fixed:LENGTH or session:GAP"),
        ({"max_batch_size": 0}, "max_batch_size: Input should be greater than or equal to 1, got 0"),
        ({"output": {"min_probability": 1.5}}, "output.min_probability: .* got 1.5"),
        ({"checkpoint": {"slice_records": 0}}, "checkpoint.slice_records: .* got 0"),
        ({"run": {"shard": "4/4"}}, "run.shard: a shard is I/N, from 0/N to N-1/N, .* got '4/4'"),
        ({"run": {"shard": "0/2"}, "source": {"url": "/in", "follow": True}}, "run.shard: is for what is listed once"),
        ({"method": {"settings": {"learning_rate": -1.0}}}, "method.settings: learning_rate must be > 0.* got -1.0"),
        ({"method": {"settings": {"group_sise": 3}}}, "method.settings.group_sise: unknown key"),
        (
            {"method": {"settings": {"alignment": "ensemble"}}},
            "method: settings.alignment 'ensemble' .*only from the lib",
        ),
        ({"method": {"settings": {"alignment": "reward_model"}}}, "another frozen classifier, .*: use frozen"),
        ({"sauce": {}}, "sauce: unknown key"),
        ({"checkpoint": {"ulr": "x"}}, "checkpoint.ulr: unknown key, did you mean checkpoint.url?"),
        ({"output": {"min_probability": True}}, "output.min_probability: .*valid number, got True"),
        ({"max_batch_size": True}, "max_batch_size: .*valid integer, got True"),
        ({"source": {"url": 83}}, "source.url: expected a text, in quotes .* got 83"),
        ({"event_time": {"max_future": 5}}, "event_time.max_future: expected a text"),
        ({"kafka": {"start": 3}}, "kafka.start: expected a text"),
        ({"kafka": {"start": "timestamp:20260101"}}, "kafka.start: .*'20260101' is not RFC 3339 .* like 2026-01-31T06"),
        ({"kafka": {"start": "timestamp:1767225600"}}, "kafka.start: .*'1767225600' is not RFC 3339"),
        ({"kafka": {"start": "timestamp:2026-01-01"}}, "kafka.start: .*'2026-01-01' is not RFC 3339"),
        ({"kafka": {"start": "timestamp:2026-01-01T00:00:00"}}, "kafka.start: .* is not RFC 3339 with an offset"),
        ({"kafka": {"start": "t-0=\u0663"}}, "kafka.start: .*expected TOPIC-PARTITION=OFFSET"),
        ({"kafka": {"start": "t-\u0660=3"}}, "kafka.start: expected TOPIC-PARTITION"),
        ({"kafka": {"until": "20260101"}}, "kafka.until: time '20260101' is not RFC 3339 .* like 2026-01-31T06:00:00Z"),
        ({"kafka": {"until": "1767225600000"}}, "kafka.until: .* is not RFC 3339"),
        ({"kafka": {"until": "earliest"}}, "kafka.until: .* is not RFC 3339"),
        ({"kafka": {"partitions": "\u0660-\u0663"}}, "kafka.partitions: partitions must be a list like 0-3,7"),
        ({"source": {"url": "kafka://h:\u0669\u0660/t"}}, "source.url: .*expected HOST:PORT"),
        ({"run": {"shard": "\u0660/\u0664"}}, "run.shard: a shard is I/N"),
        ({"model": {"threads": True}}, "model.threads: .*valid integer, got True"),
        ({"guard": {"settings": {"probe_frames": "4"}}}, "guard.settings.probe_frames: .*valid integer, got '4'"),
        ({"method": {"settings": {"seed": True}}}, "method.settings.seed: .*valid integer, got True"),
        ({"labels": {"templates": ["a {}", "a photo"]}}, "labels.templates.1: a template has {} .* got 'a photo'"),
        ({"labels": {"templates": [""]}}, "labels.templates.0: a template has {}"),
        ({"labels": {"templates": ["a {name}"]}}, "labels.templates.0: a template has {}"),
        ({"labels": {"templates": "a {}"}}, "labels.templates: .*valid tuple"),
        ({"source": {"stream_pattern": "("}}, r"source: stream_pattern '\(' is no regular expression"),
        (
            {"source": {"stream_pattern": "cam"}},
            r"stream_pattern 'cam' has no group named 'stream'; write \(\?P<stream>",
        ),
        ({"source": {"url": ""}}, "source.url: "),
        ({"source": {"url": "s3://key:secret@bucket/x"}}, "source.url: credentials do not belong in a URL"),
        ({"source": {"url": "abfs://key:secret@account/x"}}, "source.url: credentials do not belong in a URL"),
        ({"checkpoint": {"url": "s3://key:secret@bucket/x"}}, "checkpoint.url: credentials do not belong in a URL"),
        ({"model": {"threads": 0}}, "model: threads must be >= 1, got 0"),
    ],
)
def test_what_is_refused_names_the_key_and_the_value(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as raised:
        config(**sections)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    ["https://h/a?sig=SECRET", "https://h/m.jsonl#token=SECRET", "https://h/a;sig=SECRET", "abfs://c@a/i?sig=SECRET"],
)
def test_secrets_of_an_address_are_neither_shown_nor_part_of_what_is_written(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = config(source={"url": url, "allow_uris": [url]}, output={"url": "/out", "also": [url]})
    other = config(source={"url": url.replace("SECRET", "OTHER")})
    assert job.source.url == url
    assert job.origin != other.origin
    for said in (job.origin, str(job.shown()), str(other.shown())):
        assert "SECRET" not in said
    assert main(["config", "show", "--source", url]) == 0
    assert "SECRET" not in capsys.readouterr().out
    with pytest.raises((ConfigurationError, SourceError)) as raised:
        list(list_job_source(job))
    assert "SECRET" not in str(raised.value)
    with pytest.raises(ConfigurationError) as raised:
        config(source={"url": [url]})
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize("url", ["https://u:SEC/RET@h/a", "https://u:SE?CRET@h/a", "s3://u:SE#CRET@b/x"])
def test_credentials_that_hold_slashes_are_refused_too(url: str) -> None:
    with pytest.raises(ConfigurationError, match="credentials do not belong in a URL") as raised:
        config(source={"url": url})
    assert "RET" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["abfs", "abfss", "az"])
def test_an_azure_container_is_not_a_user(scheme: str) -> None:
    url = f"{scheme}://container@account.dfs.core.windows.net/x"
    assert config(source={"url": url}, output={"url": f"{url}/out"}).source.url == url


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "--source (source.url) is needed\n--out (output.url) is needed"),
        ({"source": {}, "output": {"url": "/out"}}, "--source (source.url) is needed"),
    ],
)
def test_what_is_missing_names_its_flag(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        make_config(values)
    assert str(raised.value) == said


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        config(max_batch_size=0, output={"top_k": 0})
    assert len(str(raised.value).splitlines()) == 2


def test_a_configuration_survives_its_own_yaml(tmp_path: Path) -> None:
    first = config(method={"settings": {"tune": "lora"}}, event_time={"window": "session:5m"})
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(first.plain()))
    assert make_config(read_config_file(str(path))) == first


def test_of_the_runners_options_only_the_names_are_shown() -> None:
    given = ["--s3_secret_access_key=HUNTER4", "--save_main_session", "--s3_access_key_id", "HUNTER5"]
    shown = config(run={"beam_options": given}).shown()
    names = ["--s3_secret_access_key=(hidden)", "--save_main_session", "--s3_access_key_id", "(hidden)"]
    assert shown["run"]["beam_options"] == names


def test_a_tilde_is_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "job.yaml").write_text(
        "source: {url: ~/feed, allow_uris: [~/more]}\noutput: {url: ~/out}\nlabels: {file: ~/c.txt}\n"
        "model: {name: RN50, pretrained: ~/w.pt}\nkafka: {until: 2026-01-01T00:00:00Z}\nrun: {accuracy: ~/a.json}\n"
    )
    job = make_config(read_config_file("~/job.yaml"))
    assert (job.source.url, job.source.allow_uris) == (f"{tmp_path}/feed", (f"{tmp_path}/more",))
    assert (job.output.url, job.labels.file) == (f"{tmp_path}/out", f"{tmp_path}/c.txt")
    assert (job.model.pretrained, job.kafka.until) == (f"{tmp_path}/w.pt", "2026-01-01T00:00:00Z")
    assert job.run.accuracy == f"{tmp_path}/a.json"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "expected keys and values, got list"),
        ("a: [", "while parsing"),
        ("source: {url: a}\nsource: {url: b}\n", "line 2: key 'source' is in it twice"),
        ("source:\n  url: a\n  url: b\n", "line 3: key 'url' is in it twice"),
        ("a: 1\nb: 010\n", "line 2: 010 may be a text or a number: quote it"),
        ("a: 0123", "line 1: 0123 may be"),
        ("a: 1:30", "line 1: 1:30 may be"),
        ("a: &a [x]\nb: [*a, *a]\n", "line 2: alias .a: write the value out"),
        ("[" * 20_000, "nested deeper than 32 levels"),
        ("? " * 20_000, "nested deeper than 32 levels"),
        ("{[a]: b}", "a key must be a text"),
        ("a: b\u2028c", "line 1 holds U.2028"),
        ("a: !!python/name:os.system", "line 1: tag tag:yaml.org,2002:python/name:os.system: write the value without"),
        ("a: 1\nb: !!int 010", "line 2: tag .*int: write the value without it"),
        ("a: !!timestamp b", "line 1: tag .*timestamp"),
        ("a: [!!bool b]", "line 1: tag .*bool"),
        ("! a: {}", "line 1: tag !:"),
        ("a: \x01", "special characters"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said) as raised:
        read_config_file(str(path))
    assert "job.yaml" in str(raised.value)


def test_the_checkpoint_lies_under_the_output_unless_told() -> None:
    assert config(output={"url": "s3://bucket/out/"}).checkpoint_url == "s3://bucket/out/checkpoint"
    assert config(checkpoint={"url": "/elsewhere"}).checkpoint_url == "/elsewhere"


@pytest.mark.parametrize(
    "sections",
    [
        {"output": {"url": "/other"}},
        {"source": {"url": "/moved"}},
        {"checkpoint": {"url": "/c", "slice_records": 7, "keep": 3, "on_state_mismatch": "reset"}},
        {"run": {"readers": 9, "runner": "PrismRunner"}},
        {"model": {"name": "ViT-B-32", "pretrained": "/moved/weights.safetensors"}},
    ],
)
def test_the_fingerprint_leaves_out_what_no_label_depends_on(sections: dict[str, Any]) -> None:
    assert config(**sections).fingerprint() == config().fingerprint()


@pytest.mark.parametrize(
    "sections",
    [
        {"method": {"settings": {"seed": 1}}},
        {"method": {"name": "zero-shot"}},
        {"guard": {"settings": {"shift_lambda": 20.0}}},
        {"event_time": {"window": "fixed:61s"}},
        {"event_time": {"allowed_lateness": "31s"}},
        {"output": {"min_probability": 0.5}},
        {"output": {"format": "parquet"}},
        {"labels": {"templates": ["a drawing of a {}"]}},
        {"source": {"max_image_pixels": 1000}},
        {"max_batch_size": 16},
        {"model": {"autocast": True}},
    ],
)
def test_the_fingerprint_knows_what_a_record_depends_on(sections: dict[str, Any]) -> None:
    assert config(**sections).fingerprint() != config().fingerprint()


@pytest.mark.parametrize(("section", "key"), [("guard", "reference"), ("labels", "file"), ("labels", "class_vectors")])
def test_files_count_by_what_they_hold(tmp_path: Path, section: str, key: str) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    one.write_text("a"), same.write_text("a"), other.write_text("b")
    marks = [config(**{section: {key: str(path)}}).fingerprint() for path in (one, same, other)]
    assert marks[0] == marks[1] != marks[2]
    with pytest.raises(ConfigurationError, match=f"{section}.{key}: .*gone: No such file"):
        config(**{section: {key: str(tmp_path / "gone")}}).fingerprint()
    with pytest.raises(ConfigurationError, match=f"{section}.{key}: /dev/null: it is read more than once"):
        config(**{section: {key: "/dev/null"}}).fingerprint()


def test_the_origin_does_not_depend_on_how_the_source_is_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spelt = [config(source={"url": url}).origin for url in ("feed", "./feed/", str(tmp_path / "feed"))]
    assert len(set(spelt)) == 1
    assert config(source={"url": "feed", "stream_pattern": "(?P<stream>.)"}).origin != spelt[0]
