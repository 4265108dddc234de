"""The Helm chart: it installs what Kustomize makes, and each of its values does something."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from deploy.helm.fields import FIELDS, VALUES, Field, Schema
from deploy.helm.make_chart import place, schema, write
from deploy.helm.overlays import NAMESPACE, OVERLAYS, Manifest, without_hashes
from tests.deploy.manifests import VERSIONS, validated

if TYPE_CHECKING:
    from helm_python import Chart

Values = dict[str, Any]
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
each_value = pytest.mark.parametrize("name", VALUES)
CLOSED = ["api.image", "settings", *{name.rpartition(".")[0] for name in VALUES}]
OTHER: dict[str, Any] = {"string": "other", "integer": 7}
WRONG: dict[str, Any] = {"string": 7, "integer": "7", "boolean": "true", "array": "a", "object": 7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as it is written."""
    made = tmp_path_factory.mktemp("chart") / "instantir"
    write(made)
    return made


@pytest.fixture(scope="module")
def chart(folder: Path) -> Iterator[Chart]:
    """The chart as Helm reads it, which is there for some platforms only."""
    helm = pytest.importorskip("helm_python")
    with helm.Chart.load(folder) as loaded:
        yield loaded


def _values_of(folder: Path, overlay: str) -> Values:
    file = folder / f"values-{overlay}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}


def _set(values: Values, name: str, value: Any) -> Values:
    changed = deepcopy(values)
    node = changed
    *groups, last = name.split(".")
    for group in groups:
        node = node.setdefault(group, {})
    node[last] = value
    return changed


def _text(chart: Chart, values: Values, namespace: str) -> str:
    files = chart.render(values, name="some", namespace=namespace)
    return "\n---\n".join(text for name, text in files.items() if not name.endswith("NOTES.txt"))


def _installed(chart: Chart, values: Values, namespace: str = NAMESPACE) -> dict[str, Manifest]:
    """What Helm installs, by kind and name, the latter without the checksum of a Job."""
    found = [each for each in yaml.safe_load_all(_text(chart, values, namespace)) if each]
    named = {f"{each['kind']}/{each['metadata']['name']}": each for each in found}
    assert len(named) == len(found)
    return {re.sub(r"^(Job/.+)-[0-9a-f]{8}$", r"\1", key): each for key, each in named.items()}


def _refusal(chart: Chart, values: Values) -> str:
    """What Helm says against values that are wrong."""
    from helm_python import HelmValuesError

    with pytest.raises(HelmValuesError) as refused:
        chart.render(values, name="some")
    return str(refused.value)


def _checksum(manifest: Manifest) -> str | None:
    pod: Manifest = manifest.get("spec", {}).get("template", {})
    told: dict[str, str] = pod.get("metadata", {}).get("annotations", {})
    assert told.keys() <= {"checksum/config"}
    return told.get("checksum/config")


def _other(value: Schema, now: Any = None) -> Any:
    """A right value that is not the one there is."""
    if "repository" in value.get("properties", {}):
        return {"repository": "registry.example.org/other", "tag": "7"}
    if value["type"] == "object":
        return {value.get("propertyNames", {"enum": ["other"]})["enum"][0]: "7"}
    if value["type"] == "array":
        return [{"key": "other"}] if value["items"]["type"] == "object" else ["other"]
    return OTHER.get(value["type"], not now)


def _says(found: Any, value: Any) -> bool:
    if isinstance(value, dict) and isinstance(found, str):
        return found == f"{value['repository']}:{value['tag']}"
    return value.items() <= found.items() if isinstance(value, dict) else found == value


def _now(values: Values, name: str) -> Any:
    for part in name.split("."):
        values = values[part]
    return values


def test_lint_finds_nothing_but_that_there_is_no_icon(folder: Path) -> None:
    report = pytest.importorskip("helm_python").lint(folder, strict=True)
    assert [each["error"] for each in report["messages"]] == ["icon is recommended"]


def test_the_chart_has_the_version_of_the_package(chart: Chart) -> None:
    image = chart.values["api"]["image"]
    assert chart.metadata["version"] == chart.metadata["appVersion"] == image["tag"]


@each_overlay
def test_it_installs_what_kustomize_makes_of_an_overlay(
    chart: Chart, folder: Path, overlay: str
) -> None:
    expected = without_hashes(overlay)
    del expected[f"Namespace/{NAMESPACE}"]
    installed = _installed(chart, _values_of(folder, overlay))
    for key, manifest in installed.items():
        manifest["metadata"]["name"] = key.split("/")[1]
        if _checksum(manifest):
            del manifest["spec"]["template"]["metadata"]["annotations"]
    assert installed.keys() == expected.keys()
    assert [key for key in expected if installed[key] != expected[key]] == []


def test_everything_is_in_the_namespace_of_the_release(chart: Chart) -> None:
    here, there = (_installed(chart, {}, namespace) for namespace in (NAMESPACE, "there"))
    own = {key for key, each in here.items() if each["metadata"].get("namespace") == NAMESPACE}
    assert {key.split("/")[0] for key in here.keys() - own} == {"PriorityClass"}
    assert {there[key]["metadata"]["namespace"] for key in own} == {"there"}


def test_workers_are_scaled_on_the_jobs_of_their_own_namespace(chart: Chart) -> None:
    scaled = _installed(chart, {}, "there")["ScaledObject/instantir-worker"]
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert re.findall(r'namespace="(.*?)"', query) == ["there", "there"]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.value} {field.path}")
def test_a_value_reaches_its_fields(chart: Chart, folder: Path, field: Field) -> None:
    value = _other(VALUES[field.value].schema) if field.value in VALUES else "7"
    base = _values_of(folder, "prod" if field.value == "redis.cidr" else "cpu")
    installed = _installed(chart, _set(base, field.value, value))
    taking = [each for key, each in installed.items() if re.fullmatch(field.objects, key)]
    assert taking
    for manifest in taking:
        parent, key = place(manifest, field.path)
        assert _says(parent[key], value)


@each_value
def test_a_value_has_an_effect_where_its_overlay_has_a_use_for_it(
    chart: Chart, folder: Path, name: str
) -> None:
    value = _other(VALUES[name].schema, _now(chart.values, name))
    bases = [_values_of(folder, overlay) for overlay in OVERLAYS]
    assert any(
        _installed(chart, base) != _installed(chart, _set(base, name, value)) for base in bases
    )


@each_value
def test_a_value_of_a_wrong_type_is_refused(chart: Chart, name: str) -> None:
    wrong = _set({}, name, WRONG[VALUES[name].schema["type"]])
    assert f"want {VALUES[name].schema['type']}" in _refusal(chart, wrong)


@each_value
def test_a_value_that_is_taken_away_is_refused(chart: Chart, name: str) -> None:
    assert "missing property" in _refusal(chart, _set({}, name, None))


@pytest.mark.parametrize("group", sorted(CLOSED))
def test_an_unknown_value_is_refused(chart: Chart, group: str) -> None:
    unknown = _set({}, f"{group}.unknown".strip("."), "7")
    assert "'unknown'" in _refusal(chart, unknown)


@pytest.mark.parametrize("slots", [4, "0", "four"])
def test_slots_are_a_number_as_text(chart: Chart, slots: Any) -> None:
    refusal = _refusal(chart, {"settings": {"INSTANTIR_SLOTS": slots}})
    assert "at '/settings/INSTANTIR_SLOTS'" in refusal


def test_no_secret_can_be_given_as_a_setting(chart: Chart) -> None:
    refusal = _refusal(chart, {"settings": {"INSTANTIR_OPERATOR_KEY": "key"}})
    assert "invalid propertyName 'INSTANTIR_OPERATOR_KEY'" in refusal


@pytest.mark.parametrize("name", ["api.replicas.max", "worker.image", "engines.command"])
def test_overlays_may_differ_in_values_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    others = [field for field in FIELDS if field.value != name]
    monkeypatch.setattr("deploy.helm.make_chart.FIELDS", others)
    with pytest.raises(ValueError, match="no value for what differs in "):
        write(tmp_path)


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(schema())


def test_a_chart_that_has_this_one_inside_may_have_values_for_all(chart: Chart) -> None:
    assert _installed(chart, {"global": {"other": 7}}) == _installed(chart, {})


@pytest.mark.parametrize(
    "values", [{"settings": {"INSTANTIR_LOG_LEVEL": "DEBUG"}}, {"redis": {"bundled": False}}]
)
def test_a_change_of_what_pods_are_told_restarts_ours_alone(chart: Chart, values: Values) -> None:
    before, after = _installed(chart, {}), _installed(chart, values)
    pods = {key for key in before.keys() & after.keys() if "template" in after[key].get("spec", {})}
    changed = {key for key in pods if _checksum(before[key]) != _checksum(after[key])}
    assert changed == {key for key in pods if not key.endswith("/redis")}


@pytest.mark.parametrize(
    ("name", "value", "another"),
    [("worker.image.tag", "7", True), ("worker.replicas.max", 7, False)],
)
def test_the_job_which_cannot_be_changed_is_another_one_when_it_has_to_be(
    chart: Chart, name: str, value: Any, another: bool
) -> None:
    before = _installed(chart, {})["Job/instantir-engines"]["metadata"]["name"]
    after = _installed(chart, _set({}, name, value))["Job/instantir-engines"]["metadata"]["name"]
    assert (before != after) is another


@pytest.mark.parametrize(
    ("name", "key", "path"),
    [
        ("ingress.tlsSecret", "Ingress/instantir", "/spec/tls"),
        ("storage.className", "PersistentVolumeClaim/instantir-models", "/spec/storageClassName"),
    ],
)
def test_what_has_no_value_is_left_out(chart: Chart, name: str, key: str, path: str) -> None:
    parent, last = place(_installed(chart, _set({}, name, ""))[key], path)
    assert last not in parent


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("redis.bundled", {"StatefulSet", "Secret"}),
        ("ingress.enabled", {"Ingress"}),
        ("monitoring.enabled", {"PodMonitor", "PrometheusRule"}),
        ("priorityClasses.enabled", {"PriorityClass"}),
    ],
)
def test_what_is_switched_off_is_not_installed(chart: Chart, name: str, gone: set[str]) -> None:
    kinds = [
        {key.split("/")[0] for key in _installed(chart, v)} for v in ({}, _set({}, name, False))
    ]
    assert kinds[0] - kinds[1] == gone


@pytest.mark.slow
@each_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_what_it_installs_follows_the_schemas_of_a_version(
    chart: Chart, folder: Path, overlay: str, version: str, tmp_path: Path
) -> None:
    text = _text(chart, _values_of(folder, overlay), NAMESPACE)
    done = validated(text, version, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_what_it_installs_with_and_without_the_optional_follows_the_schemas(
    chart: Chart, tmp_path: Path
) -> None:
    values = {
        "worker": {"nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "busy"}]},
        "storage": {"className": "shared"},
        "redis": {"className": "fast"},
        "ingress": {"tlsSecret": ""},
        "monitoring": {"labels": {"release": "prometheus"}},
    }
    done = validated(_text(chart, values, NAMESPACE), VERSIONS[-1], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
