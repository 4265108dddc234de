"""Objects of KEDA and of the Prometheus operator, against small schemas of the parts in use."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.helm.overlays import OVERLAYS, Manifest
from deploy.kubernetes.make_rules import OBJECT, RULES, rules_object
from tests.deploy.manifests import one

COUNT = {"type": "integer", "minimum": 0}
TEXT = {"type": "string"}
DURATION = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}


def _closed(required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


QUERY = _closed(
    "serverAddress query threshold",
    serverAddress={"type": "string", "pattern": r"^https?://"},
    query=TEXT,
    threshold=TEXT,  # metadata of a trigger is text, numbers included
    activationThreshold=TEXT,
    ignoreNullValues={"enum": ["true", "false"]},
)
SCALED = _closed(
    "scaleTargetRef triggers",
    scaleTargetRef=_closed("name", name=TEXT, kind=TEXT, apiVersion=TEXT),
    minReplicaCount=COUNT,
    maxReplicaCount=COUNT,
    pollingInterval=COUNT,
    cooldownPeriod=COUNT,
    advanced=_closed(
        "", horizontalPodAutoscalerConfig=_closed("behavior", behavior={"type": "object"})
    ),
    triggers={
        "type": "array",
        "minItems": 1,
        "items": _closed("type metadata", type={"const": "prometheus"}, metadata=QUERY),
    },
)
ENDPOINT = _closed("port", port=TEXT, path=TEXT, interval=DURATION)
MONITORED = _closed(
    "selector podMetricsEndpoints",
    selector=_closed("matchLabels", matchLabels={"type": "object"}),
    podMetricsEndpoints={"type": "array", "minItems": 1, "items": ENDPOINT},
)
TEXTS = {"type": "object", "additionalProperties": TEXT}
RECORDED = _closed("record expr", record=TEXT, expr=TEXT, labels=TEXTS)
ALERT = _closed(
    "alert expr", alert=TEXT, expr=TEXT, labels=TEXTS, annotations=TEXTS, **{"for": DURATION}
)
GROUP = _closed(
    "name rules",
    name=TEXT,
    rules={"type": "array", "minItems": 1, "items": {"oneOf": [RECORDED, ALERT]}},
)
RULED = _closed("groups", groups={"type": "array", "minItems": 1, "items": GROUP})
OBJECTS = [
    ("keda.sh/v1alpha1", "ScaledObject", "instantir-worker", SCALED),
    ("monitoring.coreos.com/v1", "PodMonitor", "instantir-api", MONITORED),
    ("monitoring.coreos.com/v1", "PrometheusRule", "instantir", RULED),
]
each_object = pytest.mark.parametrize(("version", "kind", "name", "schema"), OBJECTS)


def _check(manifest: Manifest, schema: dict[str, Any]) -> None:
    jsonschema.validate(manifest["spec"], schema)


@pytest.mark.parametrize("overlay", OVERLAYS)
@each_object
def test_an_object_of_an_operator_has_the_fields_it_needs_and_no_others(
    overlay: str, version: str, kind: str, name: str, schema: dict[str, Any]
) -> None:
    manifest = one(overlay, kind, name)
    assert manifest["apiVersion"] == version
    _check(manifest, schema)


@each_object
def test_a_field_that_an_operator_does_not_know_is_refused(
    version: str, kind: str, name: str, schema: dict[str, Any]
) -> None:
    broken = deepcopy(one("cpu", kind, name))
    assert broken["apiVersion"] == version
    broken["spec"]["minReplicas"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplicas"):
        _check(broken, schema)


def test_a_number_where_keda_wants_text_is_refused() -> None:
    broken = deepcopy(one("cpu", "ScaledObject", "instantir-worker"))
    broken["spec"]["triggers"][0]["metadata"]["threshold"] = 4
    with pytest.raises(jsonschema.ValidationError, match="not of type 'string'"):
        _check(broken, SCALED)


def test_the_object_of_rules_is_made_from_the_rules_as_they_are() -> None:
    assert OBJECT.read_text(encoding="utf-8") == rules_object(), "`make chart` makes it anew"


def _on_one_line(rules: Manifest) -> str:
    """Kustomize adds empty lines to queries, where spaces mean nothing."""
    return re.sub(r"(\\n|\s)+", " ", json.dumps(rules, sort_keys=True))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_leaves_rules_and_alerts_as_they_are(overlay: str) -> None:
    spec = one(overlay, "PrometheusRule", "instantir")["spec"]
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    assert _on_one_line(spec) == _on_one_line(rules)
