"""The values of the chart: what each is, and which fields of the manifests take it."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.settings import ENV_PREFIX, Settings

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
TEXT_OR_NONE: Schema = {"type": "string"}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
LIST_OF_TEXT: Schema = {"type": "array", "items": TEXT, "minItems": 1}
LIST_OF_OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
COUNT_FROM_1: Schema = {"type": "integer", "minimum": 1}
AMOUNTS: Schema = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
IMAGE: Schema = {
    "type": "object",
    "properties": {"repository": TEXT, "tag": TEXT},
    "required": ["repository", "tag"],
    "additionalProperties": False,
}
_SECRETS = {"redis_url", "api_keys", "operator_key", "webhook_secret"}  # not for a ConfigMap
_NAMES = [f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields if name not in _SECRETS]
SETTINGS: Schema = {
    "type": "object",
    "properties": {"INSTANTIR_SLOTS": {"type": "string", "pattern": "^[1-9][0-9]*$"}},
    "required": ["INSTANTIR_MODEL", "INSTANTIR_SLOTS"],
    "propertyNames": {"enum": _NAMES},
    "additionalProperties": {"type": "string"},
}


class Value(NamedTuple):
    """What values.yaml says of a value, and what may be given for it."""

    about: str
    schema: Schema


VALUES = {
    "api.image": Value("Where the image of the API is.", IMAGE),
    "api.replicas.min": Value("Processes of the API that are always there.", COUNT_FROM_1),
    "api.replicas.max": Value("The most there may be.", COUNT_FROM_1),
    "api.resources.requests": Value("What a process is sure to get.", AMOUNTS),
    "api.resources.limits": Value("The most it may take.", AMOUNTS),
    "worker.image": Value("Where the image of workers is: worker-cpu or worker-gpu.", IMAGE),
    "worker.replicas.min": Value("Workers that are there when there is nothing to do.", COUNT),
    "worker.replicas.max": Value("The most there may be.", COUNT_FROM_1),
    "worker.resources.requests": Value("For workers, and for the Job of their engines.", AMOUNTS),
    "worker.resources.limits": Value("The same; a GPU is asked for in both.", AMOUNTS),
    "worker.nodeSelector": Value("Labels of the nodes that workers run on.", TEXTS),
    "worker.tolerations": Value("Taints of nodes that workers do not mind.", LIST_OF_OBJECTS),
    "worker.rollingUpdate": Value("Where no GPU is free, take one away before adding.", AMOUNTS),
    "engines.command": Value("Builds the engines before workers ask for them.", LIST_OF_TEXT),
    "settings": Value("Of API and workers, as text. SLOTS jobs make one more worker.", SETTINGS),
    "storage.accessModes": Value("ReadWriteMany where workers run on many nodes.", LIST_OF_TEXT),
    "storage.className": Value("Class of both volumes; the cluster's own if empty.", TEXT_OR_NONE),
    "storage.engines": Value("Size of the volume of built engines.", TEXT),
    "storage.models": Value("Size of the volume of models.", TEXT),
    "redis.bundled": Value("If false, the Secret instantir-redis says where one is.", FLAG),
    "redis.cidr": Value("Where a Redis that is not bundled is; narrow it.", TEXT),
    "redis.image": Value("Where the image of the bundled server is.", IMAGE),
    "redis.storage": Value("Size of its volume.", TEXT),
    "redis.className": Value("Class of its volume; the cluster's own if empty.", TEXT_OR_NONE),
    "ingress.enabled": Value("Whether there is a way in from outside of the cluster.", FLAG),
    "ingress.className": Value("Which controller makes it.", TEXT),
    "ingress.namespace": Value("Where the controller runs; it may reach the API.", TEXT),
    "ingress.host": Value("Name of the service.", TEXT),
    "ingress.tlsSecret": Value("Secret of its certificate; no TLS if empty.", TEXT_OR_NONE),
    "ingress.annotations": Value("What the controller is told.", TEXTS),
    "ingress.metricsAnnotations": Value("What keeps /metrics from the public.", TEXTS),
    "monitoring.enabled": Value("PodMonitor and PrometheusRule, for the operator.", FLAG),
    "monitoring.labels": Value("Labels of both; some operators ask for one.", TEXTS),
    "monitoring.namespace": Value("Where Prometheus runs; it may reach the API.", TEXT),
    "monitoring.prometheus": Value("Its address, where KEDA asks for the queue.", TEXT),
    "priorityClasses.enabled": Value("False for a second release in one cluster.", FLAG),
}


class Field(NamedTuple):
    """A field that takes a value, in every object whose "Kind/name" matches."""

    value: str
    objects: str
    path: str  # as in patches of Kustomize
    empty: Any = None  # while the value is this, the field is left out


class Block(NamedTuple):
    """What is left out while a value of fields inside of it is empty."""

    value: str
    objects: str
    path: str


_API = "Deployment/instantir-api"
_WORKERS = "(Deployment/instantir-worker|Job/instantir-engines)"
_SCALED = "ScaledObject/instantir-worker"
_TRIGGER = "/spec/triggers/0/metadata"
_POD = "/spec/template/spec"
_FIRST = f"{_POD}/containers/0"
_SOURCE = "/spec/ingress/0/from"
_IN_NAMESPACE = "namespaceSelector/matchLabels/kubernetes.io~1metadata.name"
_SIZE = "/spec/resources/requests/storage"
_MONITORING = "(PodMonitor|PrometheusRule)/.*"

FIELDS = (
    Field("api.image", _API, f"{_FIRST}/image"),
    Field("api.replicas.min", "HorizontalPodAutoscaler/instantir-api", "/spec/minReplicas"),
    Field("api.replicas.max", "HorizontalPodAutoscaler/instantir-api", "/spec/maxReplicas"),
    Field("api.resources.requests", _API, f"{_FIRST}/resources/requests"),
    Field("api.resources.limits", _API, f"{_FIRST}/resources/limits"),
    Field("worker.image", _WORKERS, f"{_FIRST}/image"),
    Field("worker.replicas.min", _SCALED, "/spec/minReplicaCount"),
    Field("worker.replicas.max", _SCALED, "/spec/maxReplicaCount"),
    Field("worker.resources.requests", _WORKERS, f"{_FIRST}/resources/requests"),
    Field("worker.resources.limits", _WORKERS, f"{_FIRST}/resources/limits"),
    Field("worker.nodeSelector", _WORKERS, f"{_POD}/nodeSelector", {}),
    Field("worker.tolerations", _WORKERS, f"{_POD}/tolerations", []),
    Field("worker.rollingUpdate", "Deployment/instantir-worker", "/spec/strategy/rollingUpdate"),
    Field("engines.command", "Job/instantir-engines", f"{_FIRST}/command"),
    Field("settings", "ConfigMap/instantir", "/data"),
    Field("settings.INSTANTIR_SLOTS", _SCALED, f"{_TRIGGER}/threshold"),
    Field("storage.accessModes", "PersistentVolumeClaim/.*", "/spec/accessModes"),
    Field("storage.className", "PersistentVolumeClaim/.*", "/spec/storageClassName", ""),
    Field("storage.engines", "PersistentVolumeClaim/instantir-engines", _SIZE),
    Field("storage.models", "PersistentVolumeClaim/instantir-models", _SIZE),
    Field("redis.cidr", "NetworkPolicy/reach-redis", "/spec/egress/0/to/0/ipBlock/cidr"),
    Field("redis.image", "StatefulSet/redis", f"{_FIRST}/image"),
    Field("redis.storage", "StatefulSet/redis", f"/spec/volumeClaimTemplates/0{_SIZE}"),
    Field(
        "redis.className",
        "StatefulSet/redis",
        "/spec/volumeClaimTemplates/0/spec/storageClassName",
        "",
    ),
    Field("ingress.className", "Ingress/.*", "/spec/ingressClassName"),
    Field("ingress.namespace", "NetworkPolicy/to-api", f"{_SOURCE}/0/{_IN_NAMESPACE}"),
    Field("ingress.host", "Ingress/.*", "/spec/rules/0/host"),
    Field("ingress.host", "Ingress/.*", "/spec/tls/0/hosts/0"),
    Field("ingress.tlsSecret", "Ingress/.*", "/spec/tls/0/secretName"),
    Field("ingress.annotations", "Ingress/instantir", "/metadata/annotations"),
    Field("ingress.metricsAnnotations", "Ingress/instantir-no-metrics", "/metadata/annotations"),
    Field("monitoring.labels", _MONITORING, "/metadata/labels"),
    Field("monitoring.namespace", "NetworkPolicy/to-api", f"{_SOURCE}/1/{_IN_NAMESPACE}"),
    Field("monitoring.prometheus", _SCALED, f"{_TRIGGER}/serverAddress"),
)

BLOCKS = (Block("ingress.tlsSecret", "Ingress/.*", "/spec/tls"),)

# Objects of which redis.bundled chooses those of one overlay or another.
BY_REDIS = (
    "(Service|ServiceAccount|StatefulSet)/redis|Secret/instantir-redis|NetworkPolicy/.*-redis"
)
# Objects that are there only while a value is true.
SWITCHES = {
    "ingress.enabled": "Ingress/.*",
    "monitoring.enabled": _MONITORING,
    "priorityClasses.enabled": "PriorityClass/.*",
}
