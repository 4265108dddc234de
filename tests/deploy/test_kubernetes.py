"""The manifests of every overlay: valid, and naming only what the code knows."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.helm.overlays import KUBERNETES, OVERLAYS, ROOT, Manifest, rendered
from service import cli as command_line
from service import metrics, worker
from service.api import ops
from service.queue import JobQueue
from service.settings import Settings
from tests.deploy.manifests import (
    TOOLS,
    VERSIONS,
    container,
    manifests,
    may_reach,
    one,
    selected,
    templates,
    validated,
)

OURS = ("api", "worker", "engines")
CACHE = "/var/cache/instantir"
SETTINGS = {f"INSTANTIR_{name.upper()}" for name in Settings.model_fields} | {"REDIS_URL"}
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def _stage(image: str) -> str:
    name = image.split("/")[-1].split(":")[0]
    return DOCKERFILE.split(f" AS {name}\n")[1].split("\nFROM ")[0]


@pytest.mark.slow
@each_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_an_overlay_follows_the_schemas_of_a_version(
    overlay: str, version: str, tmp_path: Path
) -> None:
    done = validated(rendered(overlay), version, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    without = re.findall(r"schema for kind (\w+)", done.stdout + done.stderr)
    assert sorted(without) == ["PodMonitor", "PrometheusRule", "ScaledObject"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("terminationGracePeriodSeconds:", "terminationGraceSeconds:"),
        ("containerPort: 8000", "containerPort: http"),
    ],
)
def test_a_broken_manifest_is_refused(right: str, wrong: str, tmp_path: Path) -> None:
    broken = rendered("cpu").replace(right, wrong)
    assert broken != rendered("cpu")
    done = validated(broken, VERSIONS[0], tmp_path)
    assert done.returncode != 0


@pytest.mark.slow
def test_the_pod_that_models_are_copied_through_follows_the_schemas(tmp_path: Path) -> None:
    text = (KUBERNETES / "models" / "pod.yaml").read_text(encoding="utf-8")
    done = validated(text, VERSIONS[1], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@each_overlay
def test_our_images_are_targets_of_the_dockerfile_in_the_version_of_the_package(
    overlay: str,
) -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    for component in OURS:
        image = container(templates(overlay)[component])["image"]
        name, tag = image.split("/")[-1].split(":")
        assert f" AS {name}\n" in DOCKERFILE
        assert tag == version[1]


@each_overlay
@pytest.mark.parametrize("component", ["api", "worker"])
def test_a_pod_without_a_command_runs_that_of_its_image(overlay: str, component: str) -> None:
    pod = container(templates(overlay)[component])
    assert "command" not in pod
    assert f'CMD ["instantir", "{component}"]' in _stage(pod["image"])


@each_overlay
def test_workers_and_their_engines_run_one_image_and_share_the_folder_of_the_image(
    overlay: str,
) -> None:
    pods = [container(templates(overlay)[component]) for component in ("worker", "engines")]
    assert pods[0]["image"] == pods[1]["image"]
    assert f"INSTANTIR_ENGINE_CACHE={CACHE}/engines" in _stage(pods[0]["image"])
    for pod in pods:
        assert CACHE in [mount["mountPath"] for mount in pod["volumeMounts"]]


@each_overlay
@pytest.mark.parametrize("component", OURS)
def test_every_variable_is_a_setting(overlay: str, component: str) -> None:
    pod = container(templates(overlay)[component])
    config = one(overlay, "ConfigMap", pod["envFrom"][0]["configMapRef"]["name"])
    names = {*config["data"], *(entry["name"] for entry in pod.get("env", []))}
    names |= set(re.findall(r"\$\((\w+)\)", str(pod.get("command"))))
    assert len(names) >= 2
    assert names - SETTINGS == set()


@each_overlay
def test_the_configuration_is_accepted_by_settings(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = container(templates(overlay)["worker"])["envFrom"][0]["configMapRef"]["name"]
    data = one(overlay, "ConfigMap", name)["data"]
    for variable, value in data.items():
        monkeypatch.setenv(variable, value)
    assert Settings().model == data["INSTANTIR_MODEL"]


@each_overlay
@pytest.mark.parametrize("component", OURS)
def test_no_pod_gets_variables_of_services_which_settings_would_refuse(
    overlay: str, component: str
) -> None:
    assert templates(overlay)[component]["spec"]["enableServiceLinks"] is False


def test_settings_refuse_the_variable_that_a_service_link_would_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INSTANTIR_API_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(ValueError, match="INSTANTIR_API_SERVICE_HOST"):
        Settings()


@each_overlay
def test_probes_and_scrapes_ask_paths_and_ports_that_the_api_has(overlay: str) -> None:
    pod = container(templates(overlay)["api"])
    (port,) = pod["ports"]
    (scrape,) = one(overlay, "PodMonitor", "instantir-api")["spec"]["podMetricsEndpoints"]
    asked = [pod["readinessProbe"]["httpGet"], pod["livenessProbe"]["httpGet"], scrape]
    assert port["containerPort"] == Settings.model_fields["port"].default
    assert {each["port"] for each in asked} == {port["name"]}
    paths = {getattr(route, "path", None) for route in ops.router.routes}
    assert {each["path"] for each in asked} <= paths


@each_overlay
def test_the_api_takes_jobs_while_no_worker_is_there_to_be_woken(overlay: str) -> None:
    probe = container(templates(overlay)["api"])["readinessProbe"]["httpGet"]
    assert probe["path"] == "/livez"


def _names_in(query: str) -> set[str]:
    return set(re.findall(r"\binstantir_\w+", query))


@each_overlay
def test_workers_are_scaled_on_metrics_that_the_api_exports(overlay: str) -> None:
    (trigger,) = one(overlay, "ScaledObject", "instantir-worker")["spec"]["triggers"]
    exported = {each.name for each in vars(metrics).values() if isinstance(each, metrics.Metric)}
    asked = _names_in(trigger["metadata"]["query"])
    assert asked == {"instantir_queue_depth", "instantir_jobs_running"}
    assert asked <= exported
    assert metrics.QUEUE_DEPTH.labels == ("priority",)


@each_overlay
def test_a_worker_is_added_for_as_many_jobs_as_one_has_slots(overlay: str) -> None:
    (trigger,) = one(overlay, "ScaledObject", "instantir-worker")["spec"]["triggers"]
    name = container(templates(overlay)["worker"])["envFrom"][0]["configMapRef"]["name"]
    slots = one(overlay, "ConfigMap", name)["data"]["INSTANTIR_SLOTS"]
    assert trigger["metadata"]["threshold"] == slots


@each_overlay
def test_one_job_wakes_a_worker_and_a_silent_server_stops_none(overlay: str) -> None:
    (trigger,) = one(overlay, "ScaledObject", "instantir-worker")["spec"]["triggers"]
    assert trigger["metadata"]["activationThreshold"] == "0"
    assert trigger["metadata"]["ignoreNullValues"] == "false"


@each_overlay
@pytest.mark.parametrize("name", ["instantir-api", "instantir-worker"])
def test_what_is_scaled_has_no_number_of_its_own(overlay: str, name: str) -> None:
    assert "replicas" not in one(overlay, "Deployment", name)["spec"]
    kind = "HorizontalPodAutoscaler" if name.endswith("api") else "ScaledObject"
    assert one(overlay, kind, name)["spec"]["scaleTargetRef"]["name"] == name


@each_overlay
@pytest.mark.parametrize(
    ("kind", "name", "component"),
    [
        ("Deployment", "instantir-api", "api"),
        ("Deployment", "instantir-worker", "worker"),
        ("PodDisruptionBudget", "instantir-api", "api"),
        ("PodDisruptionBudget", "instantir-worker", "worker"),
        ("PodMonitor", "instantir-api", "api"),
    ],
)
def test_a_selector_matches_its_pods_alone(
    overlay: str, kind: str, name: str, component: str
) -> None:
    assert selected(overlay, one(overlay, kind, name)["spec"]["selector"]) == {component}


@each_overlay
def test_services_lead_to_pods_and_ports_that_exist(overlay: str) -> None:
    services = manifests(overlay, "Service")
    assert services
    for service in services:
        (component,) = selected(overlay, {"matchLabels": service["spec"]["selector"]})
        ports = {port["name"] for port in container(templates(overlay)[component])["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@each_overlay
def test_pods_are_spread_over_pods_of_their_own_kind(overlay: str) -> None:
    for component in ("api", "worker"):
        constraints = templates(overlay)[component]["spec"]["topologySpreadConstraints"]
        assert all(selected(overlay, each["labelSelector"]) == {component} for each in constraints)


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
@pytest.mark.parametrize(
    ("source", "target", "open_"),
    [
        ("api", "redis", True),
        ("worker", "redis", True),
        ("engines", "redis", False),
        ("redis", "api", False),
        ("worker", "api", False),
        ("api", "worker", False),
    ],
)
def test_inside_the_cluster_only_redis_is_reached_by_those_who_need_it(
    overlay: str, source: str, target: str, open_: bool
) -> None:
    assert may_reach(overlay, source, target) is open_


@each_overlay
def test_all_pods_are_denied_what_no_policy_names(overlay: str) -> None:
    spec = one(overlay, "NetworkPolicy", "default-deny")["spec"]
    assert selected(overlay, spec["podSelector"]) == set(templates(overlay))
    assert set(spec) == {"podSelector", "policyTypes"}
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}


def test_only_the_worker_and_its_engines_ask_for_a_gpu() -> None:
    asking = {
        component
        for component, pod in templates("gpu").items()
        if container(pod)["resources"]["limits"].get("nvidia.com/gpu") == 1
        and pod["spec"]["tolerations"]
        and pod["spec"]["nodeSelector"]
    }
    assert asking == {"worker", "engines"}
    assert "nvidia.com/gpu" not in rendered("cpu")


@each_overlay
def test_a_worker_has_time_to_end_or_give_back_its_jobs(overlay: str) -> None:
    grace_s = templates(overlay)["worker"]["spec"]["terminationGracePeriodSeconds"]
    claim_s = goodbye_s = worker._LAST_CLAIM_S
    assert grace_s >= claim_s + worker.DRAIN_S + goodbye_s + 10


@each_overlay
def test_an_api_pod_has_time_for_its_pause_and_its_streams(overlay: str) -> None:
    pod = templates(overlay)["api"]
    pause_s = container(pod)["lifecycle"]["preStop"]["sleep"]["seconds"]
    streams_s = command_line._GRACEFUL_S
    probe = container(pod)["readinessProbe"]
    assert pause_s >= 5
    assert pod["spec"]["terminationGracePeriodSeconds"] >= pause_s + streams_s + 10
    assert probe["timeoutSeconds"] < pod["spec"]["terminationGracePeriodSeconds"]


@each_overlay
def test_an_update_waits_longer_than_a_worker_may_build_engines(overlay: str) -> None:
    limit_s = one(overlay, "Deployment", "instantir-worker")["spec"]["progressDeadlineSeconds"]
    assert limit_s > worker._LOAD_TIMEOUT_S


@each_overlay
def test_the_ingress_lets_the_largest_upload_and_the_longest_wait_pass(overlay: str) -> None:
    annotations: dict[str, str] = one(overlay, "Ingress", "instantir")["metadata"]["annotations"]
    told = {name.split("/")[1]: value for name, value in annotations.items()}
    limit = int(told["proxy-body-size"].removesuffix("m")) * 2**20
    base64 = Settings.model_fields["max_upload_bytes"].default * 4 / 3 + 2**18
    assert base64 < limit < 1.5 * base64
    assert int(told["proxy-read-timeout"]) > Settings.model_fields["max_wait_s"].default
    assert told["proxy-buffering"] == "off"


@each_overlay
def test_pods_are_locked_down(overlay: str) -> None:
    for pod in templates(overlay).values():
        spec, own = pod["spec"], container(pod)["securityContext"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= set(container(pod)["resources"])


@each_overlay
@pytest.mark.parametrize("component", OURS)
def test_our_pods_run_as_the_user_of_the_image(overlay: str, component: str) -> None:
    context = templates(overlay)[component]["spec"]["securityContext"]
    image = container(templates(overlay)[component])["image"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in _stage(image)


@each_overlay
def test_every_claim_and_configuration_that_a_pod_mounts_exists(overlay: str) -> None:
    kinds = ("PersistentVolumeClaim", "ConfigMap")
    there = {each["metadata"]["name"] for kind in kinds for each in manifests(overlay, kind)}
    for pod in templates(overlay).values():
        volumes: list[Manifest] = pod["spec"].get("volumes", [])
        claims = [
            each["persistentVolumeClaim"]["claimName"]
            for each in volumes
            if "persistentVolumeClaim" in each
        ]
        files = [each["configMap"]["name"] for each in volumes if "configMap" in each]
        assert {*claims, *files} <= there


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_the_address_of_redis_leads_to_the_server_of_the_overlay(overlay: str) -> None:
    (variable,) = (
        each for each in container(templates(overlay)["api"])["env"] if each["name"] == "REDIS_URL"
    )
    reference: dict[str, Any] = variable["valueFrom"]["secretKeyRef"]
    assert reference["key"] in one(overlay, "Secret", reference["name"])["data"]
    arguments = " ".join(container(templates(overlay)["redis"])["args"])
    assert "--appendonly yes" in arguments
    assert "--maxmemory-policy noeviction" in arguments


def test_production_brings_neither_a_redis_nor_its_address() -> None:
    assert "redis" not in templates("prod")
    assert manifests("prod", "Secret") == []
    keys = container(templates("prod")["worker"])["env"][0]["valueFrom"]["secretKeyRef"]
    assert keys == {"name": "instantir-redis", "key": "url"}


def _built(overlay: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = container(templates(overlay)["engines"])["command"]
    told = [word.replace("$(INSTANTIR_MODEL)", "nano") for word in words]
    return subprocess.run(
        [TOOLS / told[0], *told[1:]],
        env={"INSTANTIR_ENGINE_CACHE": str(folder), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_command_of_the_job_builds_engines_into_the_shared_folder(tmp_path: Path) -> None:
    done = _built("cpu", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 engines of nano" in done.stdout
    assert len([*tmp_path.glob("*/model.blob")]) == 3  # beside the files they were made from


@pytest.mark.slow
def test_the_command_of_the_gpu_job_is_understood(tmp_path: Path) -> None:
    done = _built("gpu", tmp_path)
    assert "usage:" not in done.stderr
    assert done.returncode == 0 or "instantir: error:" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "loaded", "status"),
    [(socket.gethostname(), True, 0), (socket.gethostname(), False, 1), ("other", True, 1)],
)
async def test_the_probe_of_a_worker_tells_whether_its_own_model_is_loaded(
    queue: JobQueue, settings: Settings, host: str, loaded: bool, status: int
) -> None:
    await queue.beat(f"{host}-7-abcdef", {"ready": loaded})
    assert settings.redis_url is not None
    done = subprocess.run(
        [sys.executable, KUBERNETES / "base" / "worker_ready.py"],
        env={"REDIS_URL": settings.redis_url, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == status


def test_the_guide_names_overlays_and_settings_that_exist() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert set(re.findall(r"INSTANTIR_[A-Z_]+[A-Z]", text)) <= SETTINGS
    paths = re.findall(r"deploy/kubernetes/[\w/.]+\w", text)
    assert len(paths) >= 3
    assert [path for path in paths if not (ROOT / path).exists()] == []
