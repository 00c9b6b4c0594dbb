"""Dockerfile, compose file and manifests: valid by their schemas, and every path, target, command and flag that they
name is there. No image is built here."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_pydantic import ComposeSpecification
from dockerfile_parse import DockerfileParser
from kubernetes_validate import validate

from demo import stream
from grpo_tta.adapters.kafka.address import KafkaSecurity
from grpo_tta.beam.live import make_parser as make_live_parser
from grpo_tta.pipeline.cli.flags import job_values
from grpo_tta.pipeline.cli.parser import parsed
from grpo_tta.pipeline.config.job import make_config

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
MANIFESTS = [one for path in sorted(DOCKER.glob("kubernetes/*.yaml")) for one in yaml.safe_load_all(path.read_text())]


def stages(name: str) -> dict[str, list[tuple[str, str]]]:
    """A Dockerfile's instructions by the stage that they stand in."""
    with (DOCKER / name).open("rb") as file:
        found: dict[str, list[tuple[str, str]]] = {}
        for one in DockerfileParser(fileobj=file).structure:
            if one["instruction"] == "FROM":
                steps = found.setdefault(one["value"].split()[-1], [])
            if found:
                steps.append((one["instruction"], one["value"]))
    return found


STAGES = stages("Dockerfile")


def entrypoint(target: str) -> list[str]:
    """Of an image, without the program."""
    (value,) = [value for name, value in STAGES[target] if name == "ENTRYPOINT"]
    program, *words = json.loads(value)
    assert program == "grpo-tta"
    return words


def configured(words: list[str], config: str | None = None) -> Any:
    """What a ``label`` of these words would be run with."""
    flags = parsed(words)
    assert flags.command == "label"
    if config is not None:
        flags.config = config
    return make_config(job_values(flags, []))


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.beam"])
def test_the_dockerfile_is_clean(name: str) -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program is not None
    done = subprocess.run([program, f"docker/{name}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_the_dockerfile_copies_is_there_and_in_the_context() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for steps in STAGES.values() for name, value in steps if name == "COPY" and "--from" not in value
              for word in value.split()[:-1]]  # fmt: skip
    assert sorted(allowed) == sorted(copied)
    assert [path for path in copied if not (ROOT / path).exists()] == []


def test_the_image_of_beams_workers_has_the_pinned_beam_and_what_the_others_have() -> None:
    ((base, steps),) = stages("Dockerfile.beam").items()
    (pinned,) = re.findall(r"^apache-beam==([\d.]+)", (ROOT / "requirements/run.txt").read_text(), re.MULTILINE)
    assert base == f"apache/beam_python3.11_sdk:{pinned}"
    copied = [value for name, value in steps if name == "COPY"]
    assert copied == [value for name, value in STAGES["build"] if name == "COPY"]


def test_the_last_stages_have_no_build_tools_and_no_root() -> None:
    assert list(STAGES) == ["build", "job", "worker"]
    assert ("USER", "10001") in STAGES["job"]
    assert any(name == "RUN" and "pip uninstall" in value for name, value in STAGES["job"])
    for target in ("job", "worker"):
        assert not [value for name, value in STAGES[target] if name == "RUN" and re.search("apt|pip install", value)]
        assert [value for name, value in STAGES[target] if name == "HEALTHCHECK"]


def test_the_worker_is_asked_where_it_answers() -> None:
    config = configured([*entrypoint("worker"), "--source=kafka://k:1/t", "--out=kafka://k:1/l", "--checkpoint=/c"])
    assert (config.run.metrics_host, config.run.metrics_port) == ("0.0.0.0", 9100)
    (health,) = [value for name, value in STAGES["worker"] if name == "HEALTHCHECK"]
    assert "http://127.0.0.1:9100/healthz" in health
    assert ("EXPOSE", "9100") in STAGES["worker"]
    scraped = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]["dns_sd_configs"]
    assert [(one["names"], one["port"]) for one in scraped] == [(["label"], 9100)]


def test_the_compose_file_is_valid_and_names_what_is_there() -> None:
    ComposeSpecification.model_validate(COMPOSE)
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], (name, mount)
        assert set(service.get("depends_on", [])) <= SERVICES.keys()
        if "build" in service:
            assert service["build"]["target"] in STAGES
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).samefile(
                DOCKER / "Dockerfile"
            )


def test_the_commands_of_the_compose_file_can_be_run() -> None:
    label = SERVICES["label"]
    config = configured([*entrypoint(label["build"]["target"]), *label["command"]])
    assert config.source.url == f"kafka://kafka:9092/{stream.FRAMES}"
    assert SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://kafka:9092"
    assert any(mount.endswith(":/results") for mount in label["volumes"])
    feed = SERVICES["feed"]
    assert feed["entrypoint"] == ["python", "-m", "demo.stream"]
    assert stream.make_parser().parse_args(feed["command"]).send_to == "kafka:9092"


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    (source,) = yaml.safe_load((DOCKER / "grafana/datasource.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((DOCKER / "grafana/dashboards.yaml").read_text())["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/dashboard.json"
    assert f"./prometheus/dashboard.json:{home}:ro" in SERVICES["grafana"]["volumes"]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_a_manifest_is_valid(manifest: dict[str, Any]) -> None:
    validate(manifest, "1.33", strict=True)


def pods() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Of every manifest that makes pods: its pod's spec, and the pod's only container."""
    for manifest in MANIFESTS:
        if "template" in manifest.get("spec", {}):
            spec = manifest["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            yield spec, container


def test_pods_run_the_images_as_their_user_with_commands_that_there_are(tmp_path: Path) -> None:
    (settings,) = [one["data"] for one in MANIFESTS if one["kind"] == "ConfigMap"]
    (tmp_path / "job.yaml").write_text(settings["job.yaml"])
    found = {}
    for spec, container in pods():
        target = container["image"].removeprefix("grpo-tta-").partition(":")[0]
        words = [word.replace("$(JOB_COMPLETION_INDEX)", "3") for word in container["args"]]
        own = str(tmp_path / "job.yaml") if any(word.startswith("--config=") for word in words) else None
        found[target] = configured([*entrypoint(target), *words], own)
        assert spec["securityContext"]["runAsUser"] == 10001
        mounts, volumes = container["volumeMounts"], spec["volumes"]
        assert {mount["name"] for mount in mounts} == {volume["name"] for volume in volumes}
        paths = re.findall(r"/(?:etc|models|checkpoint)[\w./-]*", str(words) + settings["job.yaml"])
        if target == "worker":
            assert all(any(path.startswith(mount["mountPath"]) for mount in mounts) for path in paths)
    assert found["job"].run.shard == "3/4"
    assert found["worker"].kafka.group == "cameras"


def test_shards_probes_and_secrets_fit_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = [one["spec"] for one in MANIFESTS if one["kind"] == "Job"]
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (4, 4, "Indexed")
    (worker,) = [container for _, container in pods() if container["image"].startswith("grpo-tta-worker")]
    assert [one["containerPort"] for one in worker["ports"]] == [9100]
    probes = {key: value["httpGet"] for key, value in worker.items() if key.endswith("Probe")}
    assert {one["path"] for one in probes.values()} == {"/healthz", "/readyz"}
    text = (DOCKER / "kubernetes/worker.yaml").read_text()
    environment = dict.fromkeys(re.findall(r"--from-literal=(\w+)=", text), "x")
    environment |= {one["name"]: one["value"] for one in worker["env"] if "value" in one}
    security = KafkaSecurity.from_environment(environment)
    assert (security.protocol, security.mechanism) == ("SASL_SSL", "SCRAM-SHA-512")
    assert security.username
    assert security.password


def test_torch_takes_as_many_threads_as_a_pod_requests_cores() -> None:
    wanted = {"resourceFieldRef": {"resource": "requests.cpu"}}
    labelling = [one for _, one in pods() if one["image"].startswith("grpo-tta")]
    assert labelling
    for container in labelling:
        assert {one["name"]: one.get("valueFrom") for one in container["env"]}["OMP_NUM_THREADS"] == wanted
        assert int(container["resources"]["requests"]["cpu"]) >= 1


def test_the_commands_that_files_say_to_type_name_files_that_are_there() -> None:
    for path in (DOCKER / "compose.yaml", *DOCKER.glob("kubernetes/*.yaml"), *DOCKER.glob("Dockerfile*")):
        for line in re.findall(r"^#   (?:docker|kubectl) .*-f (\S+)", path.read_text(), re.MULTILINE):
            assert (ROOT / shlex.split(line)[0]).is_file(), (path, line)


def typed(page: Path) -> Iterator[list[str]]:
    """The words of each command of the page's indented blocks, as a shell has them; its operators are words too."""
    for block in re.findall(r"(?:^    .*\n)+", page.read_text(), re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars=True)
            words.whitespace_split = True
            yield list(words)


def test_the_commands_of_the_page_are_single_ones_that_the_programs_take() -> None:
    """A ``;`` that is not quoted ends a command."""
    lives = []
    for words in typed(ROOT / "docs/deploy.md"):
        assert {word for word in words if re.fullmatch("[();<>|&]+", word)} <= {"&&"}, words
        if words[:3] == ["python", "-m", "grpo_tta.beam.live"]:
            lives.append(make_live_parser().parse_args(words[3:]).beam)
    assert [options[0] for options in lives] == [
        "--runner=PortableRunner",
        "--runner=FlinkRunner",
        "--runner=DataflowRunner",
    ]
    assert lives[-1][-1].endswith("count:1;install-nvidia-driver")


@pytest.mark.slow  # downloads all but torch
@pytest.mark.timeout(1800)
def test_the_steps_of_the_images_run_in_an_empty_folder(tmp_path: Path) -> None:
    """But for that which installs torch, which takes gigabytes: this environment's is taken."""
    torch_from = sysconfig.get_path("purelib")
    command = [sys.executable, "docker/check.py", str(tmp_path / "image"), "--torch-from", torch_from]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "usage: grpo-tta label" in done.stdout
