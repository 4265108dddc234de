"""Writes the Helm chart of the overlays, in which fields of the manifests are values: `make chart`.

An action of Helm is written ⟦so⟧ until a manifest is text: braces in a manifest (alerts have some)
are no action, and are escaped.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
import tomllib
from collections import ChainMap
from collections.abc import Iterable
from copy import deepcopy
from difflib import unified_diff
from pathlib import Path
from typing import Any, cast

import yaml

from deploy.helm.fields import BLOCKS, BY_REDIS, FIELDS, SWITCHES, VALUES, Field, Schema
from deploy.helm.overlays import NAMESPACE, OVERLAYS, ROOT, Manifest, without_hashes

CHART = ROOT / "build" / "chart" / "instantir"
NOTES = Path(__file__).with_name("NOTES.txt")
_BUNDLED = "redis.bundled"
_ENGINES = "instantir.engines"
_NAME_OF_JOB = f'⟦printf "%s-%s" "{{}}" (include "{_ENGINES}" . | sha256sum | trunc 8)⟧'
_CHECKSUM = '⟦include (print .Template.BasePath "/config.yaml") . | sha256sum | toJson⟧'
Values = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are."""


def _represent_text(_: _Dumper, text: str) -> yaml.Node:
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _yaml(data: object, *, sort: bool = False) -> str:
    return yaml.dump(data, Dumper=_Dumper, allow_unicode=True, sort_keys=sort, width=10**6)


def _key(node: Any, part: str) -> Any:
    return int(part) if isinstance(node, list) else part.replace("~1", "/")


def place(manifest: Manifest, path: str) -> tuple[Any, Any]:
    """What contains the field at a path, and its key there; KeyError if nothing does."""
    node: Any = manifest
    *folders, last = path.split("/")[1:]
    for part in folders:
        node = node[_key(node, part)]
    return node, _key(node, last)


def _take(manifest: Manifest, field: Field) -> Any:
    """The value of a field, in whose place an action is put; None where there is no such field."""
    try:
        parent, key = place(manifest, field.path)
    except KeyError:
        return None
    value: Any = parent[key] if isinstance(key, int) else parent.get(key, field.empty)
    name = f".Values.{field.value}"
    if field.path.endswith("/image"):
        repository, tag = value.rsplit(":", 1)
        value = {"repository": repository, "tag": tag}
        parent[key] = f'⟦printf "%s:%s" {name}.repository {name}.tag | toJson⟧'
    elif field.empty is not None:
        parent[key] = f"⟦if {name}⟧⟦toJson {name}⟧"
    elif value is not None:
        parent[key] = f"⟦toJson {name}⟧"
    return value


def _store(values: Values, name: str, value: Any) -> None:
    """Keeps a value; two fields that take the same value have to agree."""
    if name in VALUES:
        known = values.setdefault(name, value)
    else:
        group, _, key = name.rpartition(".")
        known = values[group][key]
    if known != value:
        raise ValueError(f"the manifests say both {known} and {value} for {name}")


def _make_conditional(manifest: Manifest, value: str, path: str) -> None:
    """Makes a block one line, which is left out while the value is empty."""
    parent, key = place(manifest, path)
    flow = json.dumps(parent[key], ensure_ascii=False, separators=(",", ":"))
    inside = flow.replace('"⟦', "⟦").replace('⟧"', "⟧")
    parent[key] = f"⟦if .Values.{value}⟧{inside}"


def _make_installable(manifest: Manifest) -> None:
    """Puts what Helm does in the place of what Kustomize does: namespaces, restarts on changes."""
    metadata, spec = manifest["metadata"], manifest.get("spec", {})
    if "namespace" in metadata:
        metadata["namespace"] = "⟦toJson .Release.Namespace⟧"
    if manifest["kind"] == "Job":  # which cannot be changed, so another one is made
        metadata["name"] = _NAME_OF_JOB.format(metadata["name"])
    if "template" in spec and "envFrom" in spec["template"]["spec"]["containers"][0]:
        told = spec["template"]["metadata"].setdefault("annotations", {})
        told["checksum/config"] = _CHECKSUM


def _taken(overlay: str) -> tuple[dict[str, Manifest], Values]:
    """The manifests of an overlay with actions in the place of values, and these values."""
    manifests = deepcopy(without_hashes(overlay))
    del manifests[f"Namespace/{NAMESPACE}"]
    values: Values = {_BUNDLED: "StatefulSet/redis" in manifests, **dict.fromkeys(SWITCHES, True)}
    for field in FIELDS:
        for manifest in _matching(manifests, field.objects):
            if (value := _take(manifest, field)) is not None:
                _store(values, field.value, value)
    for block in BLOCKS:
        for manifest in _matching(manifests, block.objects):
            _make_conditional(manifest, block.value, block.path)
    for manifest in manifests.values():
        _make_installable(manifest)
    return manifests, values


def _matching(manifests: dict[str, Manifest], objects: str) -> list[Manifest]:
    return [each for key, each in manifests.items() if re.fullmatch(objects, key)]


def _template(manifest: Manifest) -> str:
    """A manifest as text, with actions as Helm writes them."""
    if manifest["kind"] == "Job":
        spec = textwrap.indent(_actions(_yaml(manifest["spec"], sort=True)), "  ")
        rest = {key: each for key, each in manifest.items() if key != "spec"}
        define = f'{{{{- define "{_ENGINES}" }}}}\n{spec}{{{{- end }}}}\n'
        return (
            f'{define}{_actions(_yaml(rest, sort=True))}spec:\n{{{{- include "{_ENGINES}" . }}}}\n'
        )
    return _actions(_yaml(manifest, sort=True))


def _actions(text: str) -> str:
    text = text.replace("{{", '{{ "{{" }}')
    text = text.replace(f'namespace="{NAMESPACE}"', 'namespace="⟦.Release.Namespace⟧"')
    line = re.compile(r"^( *)(\w+: )⟦(if .+?)⟧(.*)$", re.MULTILINE)
    text = line.sub(r"\1⟦- \3⟧\n\1\2\4\n\1⟦- end⟧", text)
    return text.replace("⟦- ", "{{- ").replace("⟦", "{{ ").replace("⟧", " }}")


def _only(key: str, texts: Iterable[str]) -> str:
    """The text that overlays have in common once their differences are values."""
    first, *others = dict.fromkeys(texts)
    for other in others:
        lines = unified_diff(first.splitlines(), other.splitlines(), n=0, lineterm="")
        raise ValueError("\n".join([f"no value for what differs in {key}:", *lines]))
    return first


def _if(value: str, text: str, other: str = "") -> str:
    other = other and f"{{{{- else }}}}\n{other}"
    return f"{{{{- if .Values.{value} }}}}\n{text}{other}{{{{- end }}}}\n"


def _templates(manifests: dict[str, dict[str, Manifest]], bundled: set[str]) -> dict[str, str]:
    """The files of templates: one per object, but what pods are configured by in one."""
    made: dict[str, str] = {}
    for key in dict.fromkeys(key for each in manifests.values() for key in each):
        texts = {
            overlay: _template(each[key]) if key in each else ""
            for overlay, each in manifests.items()
        }
        if re.fullmatch(BY_REDIS, key):
            inside = _only(key, [texts[overlay] for overlay in texts if overlay in bundled])
            outside = _only(key, [texts[overlay] for overlay in texts if overlay not in bundled])
            text = _if(_BUNDLED, inside, outside)
        else:
            text = _only(key, texts.values())
        for value, objects in SWITCHES.items():
            text = _if(value, text) if re.fullmatch(objects, key) else text
        kind, name = key.lower().split("/")
        file = "config.yaml" if kind in {"configmap", "secret"} else f"{kind}-{name}.yaml"
        made[file] = f"{made[file]}---\n{text}" if file in made else text
    return made


def _values_text(values: Values) -> str:
    """A file of values, each with a line about it."""
    parts: list[str] = []
    before: list[str] = []
    for name, value in values.items():
        *groups, last = name.split(".")
        for depth, group in enumerate(groups):
            if groups[: depth + 1] != before[: depth + 1]:
                parts.append(f"{'  ' * depth}{group}:\n")
        before = groups
        leaf = f"# {VALUES[name].about}\n{_yaml({last: value})}"
        parts.append(textwrap.indent(leaf, "  " * len(groups)))
    return "".join(parts)


def schema() -> Schema:
    """What values.yaml may say: nothing that is not in the table."""
    root = _closed()
    root["properties"]["global"] = {"type": "object"}
    for name, value in VALUES.items():
        node = root
        *groups, last = name.split(".")
        for group in groups:
            node = node["properties"].setdefault(group, _closed())
        node["properties"][last] = {"description": value.about, **value.schema}
        node["required"].append(last)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **root}


def _closed() -> Schema:
    return {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


def _changes(value: Any, base: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: each for key, each in cast(Values, value).items() if base.get(key) != each}


def _about() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = {
        "apiVersion": "v2",
        "name": "instantir",
        "description": project["description"],
        "type": "application",
        "version": project["version"],
        "appVersion": project["version"],
        "kubeVersion": ">=1.33.0-0",
    }
    return _yaml(about)


def _files() -> dict[str, str]:
    """The files of the chart by their paths in it."""
    taken = {overlay: _taken(overlay) for overlay in OVERLAYS}
    values = {overlay: taken[overlay][1] for overlay in OVERLAYS}
    first, *others = OVERLAYS
    bundled = {overlay for overlay in OVERLAYS if values[overlay][_BUNDLED]}
    texts = _templates({overlay: taken[overlay][0] for overlay in OVERLAYS}, bundled)
    found = ChainMap(*values.values())
    base = {name: found[name] for name in VALUES}
    own = {
        f"values-{overlay}.yaml": {
            name: _changes(values[overlay][name], base[name])
            for name in VALUES
            if name in values[overlay] and values[overlay][name] != base[name]
        }
        for overlay in others
    }
    return {
        "Chart.yaml": _about(),
        "values.yaml": f"# As of the overlay {first}.\n{_values_text(base)}",
        "values.schema.json": json.dumps(schema(), indent=2) + "\n",
        "templates/NOTES.txt": NOTES.read_text(encoding="utf-8"),
        **{name: _values_text(each) for name, each in own.items()},
        **{f"templates/{name}": text for name, text in texts.items()},
    }


def write(folder: Path) -> None:
    """Writes the chart into a folder."""
    for name, text in _files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    shutil.rmtree(CHART, ignore_errors=True)
    write(CHART)
    sys.stdout.write(f"{CHART.relative_to(ROOT)}: values.yaml says what can be changed\n")
