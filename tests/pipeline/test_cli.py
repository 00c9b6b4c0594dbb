"""The command line as other programs meet it: exit codes, what is said, and what is written."""

import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from pipeline_jobs import files
from pipeline_tiny_model import tiny_classifier
from rich.console import Console
from safetensors.torch import save_file

from grpo_tta.adapters.storage.sink import read_records
from grpo_tta.demo import STREAM_PATTERN, TIME_PATTERN, accuracy_path, class_prompts, reference_path, write_feed
from grpo_tta.estimate import AccuracyCalibration, foreign_to
from grpo_tta.evaluation.corruptions import DEVELOPMENT
from grpo_tta.pipeline.cli import checkpoint, columns, main
from grpo_tta.pipeline.cli.columns import print_columns
from grpo_tta.pipeline.cli.flags import all_flags, job_values
from grpo_tta.pipeline.cli.parser import parsed
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.label import load
from grpo_tta.pipeline.label.load import load_job_classifier
from grpo_tta.pipeline.run import accuracy
from grpo_tta.pipeline.run import calibrate as calibration
from grpo_tta.pipeline.watch.status import Status, StreamStatus
from grpo_tta.schemas import MonitorRecord

IMAGES = 24
FROZEN = ("--method", "zero-shot")
"""Where what the method does is not looked at."""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 images, never written to."""
    folder = tmp_path_factory.mktemp("cli") / "feed"
    write_feed(folder, 0, IMAGES)
    return folder


@pytest.fixture(scope="module")
def labelled(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen model's labels of the feed."""
    out = tmp_path_factory.mktemp("labelled") / "out"
    patterns = ["--stream-pattern", STREAM_PATTERN, "--time-pattern", TIME_PATTERN]
    assert main(["label", "--source", str(feed), "--out", str(out), "--method", "zero-shot", *patterns]) == 0
    return out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The exit code of a command line, and what it printed to both streams."""

    def command(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse's own
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder of files that a command line may name."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice.txt").write_text("cat\ndog\ncat\n")
    (tmp_path / "alike.txt").write_text("cat\nc\u200bat\n")
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    (tmp_path / "key.yaml").write_text("method: {settings: {group_sise: 3}}\n")
    (tmp_path / "method.yaml").write_text("method: {name: magic}\n")
    save_file({"class_vectors": torch.eye(2, 7)}, tmp_path / "narrow.safetensors", {"class_names": '["cat", "dog"]'})
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--source", "{dir}/empty"], 1, "{dir}/empty' holds no image"),
        (["--source", "{dir}/gone"], 1, "{dir}/gone' does not exist"),
        (["--source", "memory://no-such-bucket/in"], 1, "memory://no-such-bucket/in' does not exist"),
        (["--source", "{feed}", "--labels", "{dir}/twice.txt"], 2, "'cat' is in line 1 and in line 3"),
        (
            ["--source", "{feed}", "--labels", "{dir}/alike.txt"],
            2,
            r"1 and number 2 look alike: .cat. and .c.u200b",
        ),
        (["--source", "{feed}", "--label", "{dir}/two.txt"], 2, "'--label', did you mean --labels"),
        (["--source", "{feed}", "--source", "{dir}"], 2, "--source: is given twice: several sources are a glob"),
        (["--source", "{feed}", "--topics", "drift=a,drift=b"], 2, "--topics: a kind is in it twice, got 'drift=a,d"),
        (["--source", "{feed}", "--labels", "{dir}/gone.txt"], 2, "gone.txt: No such file"),
        (["--source", "{feed}", "--window", "fixed:-60s"], 2, "event_time.window: a duration is a number.* '-60s'"),
        (["--source", "{feed}", "--class-vectors", "{dir}/narrow.safetensors"], 2, "7.* wide|width .*7|7 .*dimensions"),
        (["--source", "{feed}", "--config", "{dir}/key.yaml"], 2, "method.settings.group_sise: unknown key"),
        (["--source", "{feed}", "--config", "{dir}/gone.yaml"], 2, "gone.yaml"),
        ([], 2, r"--source \(source.url\) is needed"),
        (["--source", "{feed}", "--labels", "{dir}/two.txt", "--reference", "{reference}"], 2, "calibrated with model"),
        (["--source", "{feed}", "--reference", "{dir}/gone"], 2, "reference.*gone: .*No such file"),
        (["--source", "{feed}", "--method", "magic"], 2, "invalid choice: 'magic'"),
        (["--source", "{feed}", "--config", "{dir}/method.yaml"], 2, "method.name: .*got 'magic'"),
        (["--source", "{feed}", "--stream-pattern", "(cam"], 2, r"stream_pattern '\(cam' is no regular expression"),
        (["--source", "{feed}", "--stream-pattern", "cam"], 2, r"'cam' has no group .*\(\?P<stream>"),
        (["--source", "{feed}", "--runner", "NoRunner"], 2, "run.runner: there is no 'NoRunner'"),
        (["--source", "simplecache::s3://b/x"], 2, "source: .*chained"),
        (["--source", "{feed}", "--allow-uri", "zip::file:///x"], 2, "source: .*chained"),
        (["--source", "{feed}", "--model", "RN50", "--pretrained", "random"], 2, "RN50 brings no classes: .*--labels"),
    ],
)
@pytest.mark.parametrize("command", ["label", "check"])
def test_what_cannot_be_done_is_named_and_writes_nothing(
    run: Run, feed: Path, given: Path, command: str, arguments: list[str], code: int, said: str
) -> None:
    places = {"{dir}": str(given), "{feed}": str(feed), "{reference}": str(reference_path())}

    def filled(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, place)
        return text

    before = files(given)
    found, out, err = run(command, *map(filled, arguments), "--out", given / "out")
    assert (found, out) == (code, "")
    assert re.search(filled(said), err), err
    assert "Traceback" not in err
    assert not (given / "out").exists()
    assert files(given) == before


@pytest.mark.parametrize("command", ["label", "check"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--slice_recrods=HUNTER4"], "does not know --slice_recrods=(hidden): "),
        (["--tune", "norm"], "does not know --tune (hidden): options of grpo-tta itself come before --"),
        (["HUNTER4"], "does not know (hidden)"),
    ],
)
def test_what_beam_does_not_know_is_not_dropped_in_silence(
    run: Run, feed: Path, tmp_path: Path, command: str, options: list[str], said: str
) -> None:
    code, out, err = run(command, "--source", feed, "--out", tmp_path / "out", "--", *options)
    assert (code, out) == (2, "")
    assert said in err
    assert "HUNTER4" not in err
    assert not list(tmp_path.iterdir())


def test_a_place_without_outputs_has_no_dead_letters_to_send(run: Run, tmp_path: Path) -> None:
    code, _, err = run("dead-letters", "replay", "--from", tmp_path / "typo", "--source", "kafka://127.0.0.1:9/t")
    assert (code, "typo' holds neither dead_letters/ nor labels/" in err) == (1, True)


def test_check_labels_ten_images_and_writes_nothing(run: Run, feed: Path, tmp_path: Path) -> None:
    code, out, err = run("check", "--source", feed)
    assert code == 0
    told = f"warning: the names of {IMAGES} images tell a time, such as 'cam-0"
    assert err.startswith(told)
    assert err.endswith("--time-pattern auto takes the name's\n")
    assert run("check", "--source", feed, "--time-pattern", "auto")[2] == ""
    lines = out.splitlines()
    assert lines[0].startswith("model ")
    assert ", 365 classes, method grpo" in lines[0]
    assert lines[-1] == "10 of 10 images labelled, nothing written"
    assert lines[-3].startswith("6 streams: cam-0")
    assert lines[-2] == "passed over: .json 1, .jsonl 1"
    assert len(lines) == 15
    assert len({line.split()[0] for line in lines[2:12]}) == 6  # of every stream
    assert not list(tmp_path.iterdir())


def test_what_is_passed_over_is_said_once_with_the_way_to_label_videos(run: Run, feed: Path, tmp_path: Path) -> None:
    (tmp_path / "feed/cam").mkdir(parents=True)
    shutil.copy(next(feed.rglob("*.jpg")), tmp_path / "feed/cam")
    (tmp_path / "feed/cam/b.mp4").touch()
    code, out, err = run("label", "--source", tmp_path / "feed", "--out", tmp_path / "out", *FROZEN)
    assert (code, "passed over" in err) == (0, False)
    assert "\npassed over: .mp4 1 (videos: --every 1s)\n" in out
    code, out, err = run("label", "--source", tmp_path / "feed", "--out", tmp_path / "out", *FROZEN)
    assert (code, "images/s" in err, "unknown" in err) == (0, False, False)


def test_check_fails_where_one_of_the_ten_cannot_be_labelled(run: Run, feed: Path, tmp_path: Path) -> None:
    (tmp_path / "feed/cam").mkdir(parents=True)
    shutil.copy(next(feed.rglob("*.jpg")), tmp_path / "feed/cam/a.jpg")
    (tmp_path / "feed/cam/b.jpg").write_text("no picture")
    code, out, _ = run("check", "--source", tmp_path / "feed", "--out", tmp_path / "out", *FROZEN)
    assert code == 1
    assert "b.jpg@" in out
    assert "decode_image" in out
    assert out.endswith("1 of 2 images labelled, nothing written\n")
    assert not (tmp_path / "out").exists()


def test_check_warns_of_streams_that_are_dates_or_of_no_camera(run: Run, feed: Path, tmp_path: Path) -> None:
    for name in ("2026-11-29_backyard/a.jpg", "2026-11-29/b.jpg", "cam/c.jpg"):
        (tmp_path / "feed" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(feed.rglob("*.jpg")), tmp_path / "feed" / name)
    code, out, err = run("check", "--source", tmp_path / "feed", "--out", tmp_path / "out", *FROZEN)
    assert code == 0
    assert "3 streams: " in out
    assert "warning: 1 images are in no folder of a camera, stream 'default': say by --stream-pattern" in err
    assert "warning: 1 streams look like dates, such as '2026-11-29_backyard'" in err


def test_words_that_the_demo_model_does_not_know_are_named(
    run: Run, feed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "words.txt").write_text("cat\naardvark\n")
    flags = ("--out", tmp_path / "out", "--labels", tmp_path / "words.txt", *FROZEN)
    assert run("check", "--source", feed, *flags)[0] == 0
    assert "1 of 2 classes are unknown to the demo model, whose vocabulary is closed: aardvark" in caplog.text


def test_a_job_without_a_single_label_says_why(run: Run, feed: Path, tmp_path: Path) -> None:
    code, out, err = run("label", "--source", feed, "--out", tmp_path / "out", "--time-pattern", "taken(?P<time>.+)x")
    assert code == 0
    assert f"labels 0, dead letters {IMAGES}" in out
    assert re.search(r"no image could be labelled; the first: .+@.+: source: ", err)


@pytest.fixture
def small_probes(tmp_path: Path) -> Path:
    path = tmp_path / "probes.yaml"
    path.write_text("guard: {settings: {probe_frames: 4}}\n")
    return path


def test_calibrate_writes_a_reference_and_counts_what_it_could_not_use(
    run: Run, feed: Path, tmp_path: Path, small_probes: Path
) -> None:
    shutil.copytree(feed, tmp_path / "feed")
    (tmp_path / "feed/cam-01/broken.jpg").write_text("no picture")
    time = r"(?P<time>\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}\.\d{3}Z)_"
    (tmp_path / "feed/cam-01/2026-01-01T06-00-00.000Z_x.jpg").write_text("no picture")
    reference = tmp_path / "clean.safetensors"
    reference.write_text("an older one")
    code, out, _ = run(
        "calibrate", "--source", tmp_path / "feed", "--time-pattern", time, "--config", small_probes,
        "--reference", reference, *FROZEN,
    )  # fmt: skip
    assert code == 0
    assert f"reference of {IMAGES} images written to {reference}; 2 could not be read" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.safetensors", "feed", "probes.yaml"]
    guarded = ("--config", small_probes, "--reference", reference, "--out", tmp_path / "out", *FROZEN)
    assert run("check", "--source", feed, *guarded)[0] == 0


def test_a_reference_that_cannot_be_written_leaves_the_old_one(
    run: Run, feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = tmp_path / "clean.safetensors"
    reference.write_text("an older one")
    made = calibration.Calibrated(b"new", IMAGES, 0, "model")
    monkeypatch.setattr(calibration, "calibrate", lambda config, images, progress: made)

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = run("calibrate", "--source", feed, "--reference", reference)
    assert (code, "No space left" in err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["clean.safetensors"]
    assert reference.read_text() == "an older one"


def test_calibrate_says_what_is_too_few(run: Run, feed: Path, tmp_path: Path) -> None:
    code, _, err = run("calibrate", "--source", feed, "--reference", tmp_path / "r")
    assert (code, f"a reference needs at least 96 images, got {IMAGES}" in err) == (1, True)
    code, _, err = run("calibrate", "--source", feed, "--reference", tmp_path / "gone" / "r")
    assert (code, f"--reference {tmp_path}/gone/r: {tmp_path}/gone is no folder" in err) == (2, True)
    code, _, err = run("calibrate", "--source", feed, "--reference", "/dev/null")
    assert (code, "--reference /dev/null: it is there and no file, give another name" in err) == (2, True)
    code, _, err = run("calibrate", "--source", feed, "--reference", tmp_path / "r", "--max-images", 0)
    assert (code, "--max-images must be >= 1, got 0" in err) == (2, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.jobs
def test_calibrate_writes_what_an_accuracy_estimate_needs_and_says_what_is_missing(
    run: Run, feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "CORRUPTIONS", {"fog": None})
    for module in (accuracy, load):
        monkeypatch.setattr(module, "load_job_classifier", lambda config: tiny_classifier(list(class_prompts())))
    truth = {line["id"]: line["label"] for line in map(json.loads, (feed / "truth.jsonl").read_text().splitlines())}
    for copy in range(21):
        for name in truth:
            path = tmp_path / "normal" / f"{copy}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(feed / name, path)
    lines = [json.dumps({"id": f"{copy}/{name}", "label": truth[name]}) for copy in range(21) for name in truth]
    (tmp_path / "truth.jsonl").write_text("\n".join(lines))
    (tmp_path / "other.jsonl").write_text("\n".join(lines[1:]).replace(f'"{truth[min(truth)]}"', '"sock"'))
    command = ("calibrate", "--source", tmp_path / "normal", "--accuracy", tmp_path / "a.json")
    assert run(*command)[::2] == (2, "bad configuration: --accuracy and --truth go together\n")
    code, _, err = run(*command, "--truth", tmp_path / "other.jsonl")
    assert (code, "no class of the model is called 'sock'" in err) == (1, True)
    code, _, err = run(*command, "--truth", tmp_path / "truth.jsonl", "--max-images", 499)
    assert (code, "at least 500 labelled images that can be read, got 499" in err) == (1, True)
    assert not (tmp_path / "a.json").exists()
    broken = min((tmp_path / "normal").glob("*/*/*.jpg"))
    broken.write_text("no picture")
    monkeypatch.setattr("grpo_tta.pipeline.cli.progress._SECONDS", 0.01)
    code, out, err = run(*command, "--truth", tmp_path / "truth.jsonl")
    written = f"accuracy calibration of 503 labelled images written to {tmp_path / 'a.json'}; 1 could not be read\n"
    assert (code, out.startswith(written)) == (0, True)
    assert re.search(r"\d+/1606 images, \S+/s, \d+ s left\n", err), "503 twice, and 200 at each of three severities"
    made = AccuracyCalibration.load(tmp_path / "a.json")
    assert (made.images, sorted(made.adapted.width.quantiles)) == (503, ["clean", "fog"])
    assert run("label", "--source", feed, "--out", tmp_path / "out")[0] == 0
    record = next(read_records(str(tmp_path / "out"), "monitor", MonitorRecord))
    assert foreign_to(made, (record.model_fingerprint, record.method, record.settings_fingerprint)) is None
    assert run("calibrate", "--source", feed)[0] == 2


def test_the_packaged_calibration_is_of_the_packaged_model_and_the_default_method() -> None:
    made = AccuracyCalibration.load(accuracy_path())
    config = make_config({"source": {"url": "in"}, "output": {"url": "out"}})
    assert made.model_fingerprint == load_job_classifier(config).fingerprint
    assert (made.method, made.settings_fingerprint) == (config.method.name, config.method.fingerprint())
    assert sorted(made.adapted.width.quantiles) == sorted(("clean", *DEVELOPMENT))


def test_a_configuration_may_be_a_pipe_though_it_is_asked_for_twice() -> None:
    end, begin = os.pipe()
    os.write(begin, b"method: {name: tent}\n")
    os.close(begin)
    flags = parsed(["label", "--config", f"/dev/fd/{end}", "--source", "in"])
    for _ in range(2):
        assert job_values(flags, []) == {"method": {"name": "tent"}, "source": {"url": "in"}}
    os.close(end)


def test_a_shown_configuration_is_the_configuration(run: Run, tmp_path: Path) -> None:
    flags = ["--source", "/in", "--out", "/out", "--mode", "episodic", "--window", "session:5m", "--seed", 3]
    code, shown, _ = run("config", "show", *flags)
    assert code == 0
    assert yaml.safe_load(shown)["method"]["settings"]["views"] == 8
    (tmp_path / "job.yaml").write_text(shown)
    assert run("config", "show", "--config", tmp_path / "job.yaml") == (0, shown, "")
    changed = run("config", "show", "--config", tmp_path / "job.yaml", "--seed", 4)[1]
    assert changed == shown.replace("seed: 3", "seed: 4")


def test_the_schema_knows_every_section_that_is_shown(run: Run) -> None:
    code, schema, _ = run("config", "schema")
    assert code == 0
    shown = yaml.safe_load(run("config", "show")[1])
    assert json.loads(schema)["properties"].keys() == shown.keys()
    assert json.loads(schema)["$defs"]["ZeroSettings"]["properties"]["seed"]["description"]  # of the class above it


def test_version_names_what_a_label_depends_on(run: Run) -> None:
    code, out, _ = run("version")
    assert code == 0
    lines = dict(line.split(" ", 1) for line in out.splitlines())
    assert lines.keys() == {"grpo_tta", "python", "torch", "open_clip", "beam"}
    assert lines["torch"] == version("torch")


def test_help_shows_the_flags_that_matter_first_and_all_in_groups_where_asked(run: Run) -> None:
    code, short, _ = run("label", "--help")
    shown = set(re.findall(r"^  (--[a-z-]+)", short, re.MULTILINE))
    assert code == 0
    assert {"--source", "--out", "--labels", "--model"} < shown
    assert len(shown) <= 14
    code, long, _ = run("label", "--help-all")
    assert set(re.findall(r"^  (--[a-z-]+)", long, re.MULTILINE)) > {flag for flag, _, _ in all_flags()}
    assert "\nKafka topics" in long
    assert "\nKafka topics" not in short


def test_what_may_have_been_meant(run: Run) -> None:
    assert "no command 'lable', did you mean label?" in run("--quiet", "lable", "--source", "x")[2]
    assert "'--checkpont', did you mean --checkpoint?" in run("status", "--checkpont", "x")[2]
    assert "unrecognized argument '--sour=x', did you mean --source?" in run("check", "--sour=x")[2]
    code, _, err = run("label", "--source", "x", "--method", "grp")
    assert (code, "--method: invalid choice: 'grp', did you mean grpo? (choose from grpo, " in err) == (2, True)
    assert "what: invalid choice: 'shwo', did you mean show? (choose from show, schema)" in run("config", "shwo")[2]
    assert "--device: invalid choice: 'quantum' (choose from auto, cpu, cuda)" in run("label", "--device", "quantum")[2]


def test_general_flags_stand_anywhere(run: Run, labelled: Path, feed: Path) -> None:
    given = ("status", "--checkpoint", labelled / "checkpoint")
    for line in (("--quiet", *given), (*given, "--quiet"), (given[0], "--log-format", "json", *given[1:])):
        assert run(*line)[0] == 0
    assert run("--quiet", *given, "--verbose")[0] == 2
    code, out, err = run("check", "--source", feed / "gone", "--log-format", "json")
    assert (code, out, "gone" in json.loads(err)["message"]) == (1, "", True)


def test_status_is_within_80_columns(run: Run, labelled: Path) -> None:
    code, out, _ = run("status", "--checkpoint", labelled / "checkpoint")
    assert code == 0
    assert "cam-01  storage" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert re.search(r"frames +updates +newest +guard +last reset\n.*\d\d-\d\d \d\d:\d\d +warm-up +-\n", out)


def test_status_shows_a_warm_up_and_a_reset_of_one_stream(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 80 columns, by the longest cause."""
    stream = StreamStatus(
        stream="cam-01", partition="images-12", frames=123456, updates=7716, newest="2026-01-01T06:00:59+00:00",
        frames_since_reset=12, warming_up=True, resets={"nonfinite": 1}, last_reset="2026-01-01T05:59:00+00:00",
        last_reset_cause="nonfinite", state_bytes=1,
    )  # fmt: skip
    monkeypatch.setattr(checkpoint, "read_status", lambda url: Status(partitions=[], streams=[stream]))
    assert main(["status", "--checkpoint", "x"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.split(" {2,}", line)[-3:] == ["01-01 06:00", "warm-up", "01-01 05:59 nonfinite"]
    assert len(line) <= 80


@pytest.mark.parametrize(
    ("asked", "coloured"),
    [({}, True), ({"NO_COLOR": "1", "COLUMNS": "0"}, False), ({"TERM": "dumb"}, False)],
)
def test_help_has_colours_on_a_terminal_that_wants_them(asked: dict[str, str], coloured: bool) -> None:
    terminal, end = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    command = [sys.executable, "-m", "grpo_tta.pipeline.cli", "status", "--help"]
    subprocess.run(command, stdout=end, env={**kept, "TERM": "xterm-256color", **asked}, check=True)
    said = os.read(terminal, 65536).decode()
    os.close(terminal)
    os.close(end)
    assert "--checkpoint" in said
    assert ("\x1b[36m" in said) == coloured


def test_long_names_lose_their_middle_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [["stream", "frames"], ["a" * 60 + "-north", "12"]]
    for terminal, shown in ((True, "aaaaaaaa\u2026a-north  12"), (False, "a" * 60 + "-north  12")):
        file = io.StringIO()
        monkeypatch.setattr(
            columns, "results", Console(file=file, force_terminal=terminal, no_color=True, width=24, soft_wrap=True)
        )
        print_columns(table, narrow="stream")
        assert re.sub("\x1b\\[[0-9;]*m", "", file.getvalue()).splitlines()[1] == shown


def test_a_completion_script_knows_commands_and_flags(run: Run, tmp_path: Path) -> None:
    code, script, _ = run("completion", "bash")
    assert code == 0
    (tmp_path / "grpo-tta").write_text(script)
    ask = (
        "source grpo-tta; COMP_WORDS=(grpo-tta {words}); COMP_CWORD={at}; "
        'COMPREPLY=(); _shtab_grpo_tta; echo "${COMPREPLY[@]}"'
    )
    for words, at, wanted in (("dead", 1, "dead-letters"), ("label --out-of", 2, "--out-of-range")):
        line = ask.replace("{words}", words).replace("{at}", str(at))
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
        assert wanted in done.stdout.split(), done.stderr


HEAVY = ("torch", "apache_beam", "open_clip", "timm", "torchvision", "pyarrow")
LIGHT = [
    (["--help"], 0),
    (["--version"], 0),
    (["label"], 2),
    (["label", "--sauce", "x"], 2),
    (["check", "--source", "x", "--out", "y", "--method", "none"], 2),
    (["check", "--source", "nowhere"], 1),
    (["label", "--source", "nowhere", "--out", "y"], 1),
    (["label", "--source", ".", "--out", "y", "--runner", "DirectRunner"], 2),
    (["version"], 0),
    (["lable"], 2),
    (["completion", "bash"], 0),
    (["config", "schema"], 0),
    (["config", "show", "--source", "x", "--method", "tent"], 0),
    (["status", "--checkpoint", "CHECKPOINT"], 0),
    (["reset", "--checkpoint", "CHECKPOINT", "--stream", "cam-01"], 0),
    (["evaluate", "--labels", "OUT", "--truth", "TRUTH"], 0),
    (["dead-letters", "replay", "--from", "OUT", "--source", "kafka://127.0.0.1:9/t", "--stage", "sink"], 1),
]
"""Command lines that load no model, with their exit codes."""
ALONE = """
import json, sys
from grpo_tta.pipeline.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    print("\\n>", json.dumps([arguments, code, [name for name in sys.modules if name in {heavy}]]))
"""


def test_what_loads_no_model_imports_neither_torch_nor_beam(labelled: Path, feed: Path) -> None:
    """One after another in one process: what any of them imports is there to the end."""
    places = {"OUT": str(labelled), "CHECKPOINT": str(labelled / "checkpoint"), "TRUTH": str(feed / "truth.jsonl")}
    lines = [([places.get(argument, argument) for argument in arguments], code) for arguments, code in LIGHT]
    alone = ALONE.replace("{heavy}", str(HEAVY))
    given = [sys.executable, "-c", alone, json.dumps([arguments for arguments, _ in lines])]
    done = subprocess.run(given, capture_output=True, text=True)
    said = [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith(">")]
    assert said == [[arguments, code, []] for arguments, code in lines], done.stderr


def test_evaluate_as_json(run: Run, feed: Path, labelled: Path) -> None:
    given = ("--labels", labelled, "--truth", feed / "truth.jsonl")
    code, out, _ = run("evaluate", *given, "--by", "stream", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["all"]["n"] == IMAGES
    assert sum(row["n"] for row in result["groups"]) == IMAGES
    assert result["all"]["gain"] == 0
    assert (result["labels_without_truth"], result["truth_without_label"], result["dead_letters"]) == (0, 0, 0)
    code, table, _ = run("evaluate", *given)
    assert (code, table.split()[:2]) == (0, ["n", "frozen"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--by", "foo"], 2, "--by: cannot group by foo: known are stream, segment"),
        (["--truth", "/gone.jsonl"], 1, "truth file /gone.jsonl"),
        (["--labels", "/gone"], 1, "/gone holds no labels"),
        (["--truth", "{dir}/other.jsonl"], 1, "no label has a truth: the labels' ids are as 'cam-"),
    ],
)
def test_what_cannot_be_evaluated(
    run: Run, feed: Path, labelled: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    (tmp_path / "other.jsonl").write_text('{"id": "elsewhere.jpg", "label": "cat"}\n')
    filled = [argument.replace("{dir}", str(tmp_path)) for argument in arguments]
    found, out, err = run("evaluate", "--labels", labelled, "--truth", feed / "truth.jsonl", *filled)
    assert (found, out) == (code, "")
    assert said in err


def test_of_the_runners_options_the_summary_tells_the_names(run: Run, feed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, err = run(
        "label", "--source", feed, "--out", out, "--method", "zero-shot", "--", "--s3_secret_access_key=HUNTER4"
    )
    assert code == 0, err
    assert "--s3_secret_access_key=(hidden)" in (out / "summary.json").read_text()
    assert not [name for name, data in files(tmp_path).items() if b"HUNTER4" in data]


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP alone tells how it waits")
def test_threads_of_torch_sleep_while_they_wait_unless_the_environment_says_otherwise() -> None:
    """Threads that wait at work took seven eighths of a job's speed beside one other busy process."""
    script = "from grpo_tta.pipeline.cli import main; main(['version']); import torch"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}

    def told(**environment: str) -> str:
        given = {**kept, "OMP_DISPLAY_ENV": "true", **environment}
        return subprocess.run([sys.executable, "-c", script], env=given, capture_output=True, text=True).stderr

    assert "OMP_WAIT_POLICY = 'PASSIVE'" in told()
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in told(OMP_WAIT_POLICY="active")


def test_code_is_kept_for_few_sizes_of_forwards_unless_the_environment_says_otherwise() -> None:
    """That for all sizes took a quarter more memory in a long job than in a short one."""
    script = "import os; from grpo_tta.pipeline.cli import main; main(['version']); print(os.environ[NAME])"
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    kept = {key: value for key, value in os.environ.items() if key != name}

    def last(**environment: str) -> str:
        command = [sys.executable, "-c", f"NAME = {name!r}; {script}"]
        return subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True).stdout.split()[-1]

    assert last() == "64"
    assert last(**{name: "256"}) == "256"
