"""The container files: linted, consistent with the project, and run where an engine can be had."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

OURS = ("init", "api", "watcher", "train", "mlflow")


@pytest.fixture(scope="module")
def compose(repository: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((repository / "docker-compose.yml").read_text())
    return loaded


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def test_hadolint_finds_nothing(repository: Path) -> None:
    lint = subprocess.run(
        [tool("hadolint"), "--failure-threshold", "info", "Dockerfile"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )

    assert lint.returncode == 0, lint.stdout


def test_compose_lint_finds_nothing(repository: Path) -> None:
    lint = subprocess.run(
        [tool("compose-lint"), "check", "--fail-on", "low", "docker-compose.yml"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )

    assert lint.returncode == 0, lint.stdout


def test_the_scripts_are_valid_shell(repository: Path) -> None:
    for script in (repository / "deploy").glob("*.sh"):
        shell = "bash" if "bash" in script.read_text().splitlines()[0] else "sh"
        subprocess.run([shell, "-n", str(script)], check=True)


def test_training_needs_no_root_that_can_be_written_and_no_user_by_name(repository: Path) -> None:
    train = (repository / "Dockerfile").read_text().split(" AS train\n")[1].split(" AS serve\n")[0]

    # DVC keeps its locks below /var/tmp and asks who it is; both failed in a container.
    assert {"DVC_SITE_CACHE_DIR=/tmp/dvc", "USER=pigeonhole", "HOME=/tmp"} <= set(train.split())


def test_every_image_that_is_pulled_has_its_digest(compose: dict[str, Any]) -> None:
    pulled = {
        name: service["image"] for name, service in compose["services"].items() if name not in OURS
    }
    pulled["base"] = compose["x-pigeonhole"]["build"]["args"]["PYTHON_IMAGE"]

    for name, image in pulled.items():
        assert re.search(r":[\w.-]+@sha256:[0-9a-f]{64}\}$", image), (name, image)


def test_dockerfile_and_compose_file_name_the_same_base(
    repository: Path, compose: dict[str, Any]
) -> None:
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", (repository / "Dockerfile").read_text(), re.M)

    assert compose["x-pigeonhole"]["build"]["args"]["PYTHON_IMAGE"] == f"${{PYTHON_IMAGE:-{base}}}"


def test_every_service_is_hardened(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service["user"].startswith(("0", "root")), name
        assert {"mem_limit", "cpus", "pids_limit"} <= set(service), name
        assert service["cpus"] <= 2, f"{name}: an engine with fewer cores refuses to start it"


def test_ports_are_published_on_loopback_alone(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports), ports


def test_whatever_stays_up_says_whether_it_is_well(compose: dict[str, Any]) -> None:
    # The api has the healthcheck of the image.
    staying = set(compose["services"]) - {"init", "train", "api"}

    for name in staying:
        assert compose["services"][name]["healthcheck"]["test"][0] == "CMD", name


def test_a_healthcheck_needs_no_shell(repository: Path, compose: dict[str, Any]) -> None:
    dockerfile = (repository / "Dockerfile").read_text()
    checks = [service.get("healthcheck", {}) for service in compose["services"].values()]

    assert '["python", "-m", "monitoring.healthcheck"' in dockerfile
    assert not [check for check in checks if check.get("test", ["CMD"])[0] == "CMD-SHELL"]


def test_no_secret_is_in_the_environment(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            is_secret = re.search(r"PASSWORD|API_KEY|SECRET_KEY", variable)
            assert not is_secret or "_FILE" in variable or value == "true", (name, variable)


def test_the_image_gets_every_package_that_the_wheel_ships(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    copied = set(re.findall(r"^COPY (\w+) \1$", (repository / "Dockerfile").read_text(), re.M))
    let_in = set(re.findall(r"^!(\w+)$", (repository / ".dockerignore").read_text(), re.M))

    assert packages <= copied
    assert packages <= let_in


def test_prometheus_is_pointed_at_every_replica_by_name(repository: Path) -> None:
    config = yaml.safe_load((repository / "monitoring/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}

    for name, port in {"api": 8000, "watcher": 9108}.items():
        (discovery,) = jobs[name]["dns_sd_configs"]
        assert (discovery["names"], discovery["type"], discovery["port"]) == ([name], "A", port)


def test_prepare_makes_secrets_once_and_keeps_them(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    script = shutil.copy(repository / "deploy/prepare.sh", tmp_path / "deploy")
    secrets = tmp_path / "secrets"

    subprocess.run([script], check=True, capture_output=True)
    first = {file.name: file.read_text() for file in secrets.iterdir()}
    subprocess.run([script], check=True, capture_output=True)

    assert first == {file.name: file.read_text() for file in secrets.iterdir()}
    assert set(first) == {"api_key", "grafana_password", "postgres_password", "pgpass"}
    assert len(first["api_key"].strip()) == 40
    assert secrets.stat().st_mode & 0o077 == 0
    assert (tmp_path / "var/docker/inbox").is_dir()


@pytest.fixture
def engine() -> dict[str, str]:
    """The environment in which deploy/try-compose.sh finds a Docker engine."""
    if os.environ.get("ENGINE"):
        return dict(os.environ)
    docker = shutil.which("docker")
    asked = docker and subprocess.run(
        [docker, "version", "--format", "{{.Server.Version}}"], capture_output=True, check=False
    )
    if not asked or asked.returncode:
        pytest.skip(
            "NOT TESTED: the containers were not started, for no Docker engine answers here. "
            "Start one, or name one in ENGINE (see deploy/try-compose.sh)."
        )
    return dict(os.environ)


@pytest.mark.timeout(1200)
def test_the_compose_file_runs_and_does_its_work(repository: Path, engine: dict[str, str]) -> None:
    tried = subprocess.run(
        [repository / "deploy/try-compose.sh"],
        env=engine,
        capture_output=True,
        text=True,
        check=False,
    )

    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert tried.stdout.splitlines()[-1] == "all of it worked"
