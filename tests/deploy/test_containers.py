"""The container files: well formed, and naming only what the code knows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
BALANCER = ROOT / "deploy" / "compose" / "haproxy.cfg"
HAPROXY = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
PROMETHEUS = ROOT / "deploy" / "compose" / "prometheus.yml"
TOOLS = Path(sys.executable).parent


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )


def _compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def _instructions(name: str) -> list[str]:
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{name}\s+(.*)$", text, flags=re.MULTILINE)


def _variables() -> set[str]:
    """Return the names of all environment variables that both files set for our processes."""
    names = set(re.findall(r"\b(INSTANTIR_[A-Z_]+)", DOCKERFILE.read_text(encoding="utf-8")))
    for service in ("api", "worker"):
        names |= set(_compose()["services"][service]["environment"])
    return names


def test_hadolint_accepts_the_dockerfile() -> None:
    done = _run(TOOLS / "hadolint", DOCKERFILE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_follows_the_compose_schema() -> None:
    done = _run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_schema_refuses_a_misspelled_key(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(COMPOSE.read_text(encoding="utf-8").replace("healthcheck:", "healthchek:"))
    done = _run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", broken)
    assert done.returncode != 0


def test_every_variable_is_a_setting() -> None:
    known = {f"INSTANTIR_{name.upper()}" for name in Settings.model_fields} | {"REDIS_URL"}
    variables = _variables()
    assert len(variables) >= 4
    assert variables - known == set()


def test_the_port_is_the_settings_default_everywhere() -> None:
    port = str(Settings.model_fields["port"].default)
    services = _compose()["services"]
    assert _instructions("EXPOSE") == [port]
    assert services["api"]["environment"]["INSTANTIR_PORT"] == port
    assert services["balancer"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f":{port}/livez" in "".join(_instructions("HEALTHCHECK"))
    assert f"server-template api 16 api:{port}\n" in BALANCER.read_text(encoding="utf-8")
    scraped = yaml.safe_load(PROMETHEUS.read_text(encoding="utf-8"))["scrape_configs"][0]
    assert scraped["dns_sd_configs"][0]["port"] == int(port)


def test_both_configurations_of_haproxy_say_the_same_without_an_api() -> None:
    ours, other = (
        [line for line in path.read_text(encoding="utf-8").splitlines() if "http-error" in line]
        for path in (BALANCER, HAPROXY)
    )
    assert len(ours) == 3
    assert ours == other


def test_every_file_that_compose_mounts_is_there() -> None:
    volumes = [v for s in _compose()["services"].values() for v in s.get("volumes", [])]
    ours = [volume.split(":")[0] for volume in volumes if volume.startswith("./")]
    assert len(ours) >= 4
    assert [path for path in ours if not (ROOT / path).exists()] == []


def test_prometheus_finds_its_rules_where_compose_mounts_them() -> None:
    prometheus = _compose()["services"]["prometheus"]
    mounts = dict(v.split(":")[:2] for v in prometheus["volumes"] if v.startswith("./"))
    config = mounts["./deploy/compose/prometheus.yml"]
    (rules,) = yaml.safe_load(PROMETHEUS.read_text(encoding="utf-8"))["rule_files"]
    assert f"--config.file={config}" in prometheus["command"]
    found = os.path.normpath(Path(config).parent / rules)
    assert found == mounts["./deploy/prometheus/rules.yml"]


def test_images_that_are_pulled_have_a_version() -> None:
    images = [s["image"] for s in _compose()["services"].values() if "image" in s]
    assert len(images) >= 4
    assert [name for name in images if not re.search(r":v?\d+\.\d+", name)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("haproxy", ["-c", "-f", BALANCER]),
        ("promtool", ["check", "config", PROMETHEUS]),
    ],
)
def test_what_compose_mounts_is_accepted_by_its_program(program: str, words: list[Any]) -> None:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip(f"needs {program}")
    done = _run(found, *words)
    assert done.returncode == 0, done.stdout + done.stderr


def test_images_run_as_a_numeric_user_other_than_root() -> None:
    users = _instructions("USER")
    assert len(users) == 3
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)


@pytest.mark.parametrize("service", ["api", "worker", "worker-gpu"])
def test_compose_builds_a_stage_that_exists(service: str) -> None:
    stages = [line.split(" AS ")[1] for line in _instructions("FROM")]
    assert _compose()["services"][service]["build"]["target"] in stages


def test_the_api_image_carries_neither_engine_nor_torch() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    stage = text.split("AS api-build")[1].split("\nFROM ")[0]
    assert "engines" not in stage
    assert "torch" not in stage
    lock = (ROOT / "requirements" / "api.lock").read_text(encoding="utf-8")
    heavy = r"^(torch|numpy|diffusers|transformers|onnxruntime)\b"
    assert re.findall(heavy, lock, flags=re.MULTILINE) == []


def test_the_api_starts_with_nothing_but_what_its_lock_has() -> None:
    lock = (ROOT / "requirements" / "api.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, flags=re.MULTILINE))
    missing = [
        module
        for module, owners in packages_distributions().items()
        if module != "service"
        and not locked & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
    ]
    assert {"torch", "engines"} <= set(missing)
    program = f"import sys; sys.modules.update(dict.fromkeys({missing}))\n"
    program += "import service.cli, service.api.app"
    done = _run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr


def test_redis_keeps_jobs_on_disk_and_never_evicts() -> None:
    redis = _compose()["services"]["redis"]
    assert "--appendonly yes" in redis["command"]
    assert "--maxmemory-policy noeviction" in redis["command"]
    assert redis["volumes"]
    assert "healthcheck" in redis


@pytest.mark.parametrize("lock", ["api", "runtime", "dev"])
def test_every_locked_package_has_a_hash_and_no_lock_names_an_index(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[a-z])", text)[1:]
    assert len(blocks) > 20
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert "://" not in text
    assert not re.search(r"^(torch|torchvision|nvidia)", text, flags=re.MULTILINE)


def test_set_up_images_and_metadata_name_one_version_of_torch() -> None:
    places = ("pyproject.toml", "scripts/setup.sh", "Dockerfile")
    texts = [(ROOT / place).read_text(encoding="utf-8") for place in places]
    versions = [set(re.findall(r"torch==(\d+\.\d+\.\d+)", text)) for text in texts]
    assert all(len(found) == 1 for found in versions), versions
    assert len(set.union(*versions)) == 1, versions
