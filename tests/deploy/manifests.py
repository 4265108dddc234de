"""Reads what kubectl makes of an overlay, and says which pods a selector or policy is about."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from deploy.helm.overlays import Manifest, rendered

VERSIONS = ("1.33.0", "1.37.0")
TOOLS = Path(sys.executable).parent
COMPONENT = "app.kubernetes.io/component"


def validated(text: str, version: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the schemas of a version of Kubernetes say of manifests."""
    file = folder / "rendered.yaml"
    file.write_text(text, encoding="utf-8")
    command = [TOOLS / "kubernetes-validate", "--strict", "--quiet", "-k", version, file]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def manifests(overlay: str, kind: str = "") -> list[Manifest]:
    """The manifests of an overlay, all or of one kind."""
    found: list[Manifest] = [*yaml.safe_load_all(rendered(overlay))]
    return [one for one in found if kind in ("", one["kind"])]


def one(overlay: str, kind: str, name: str) -> Manifest:
    """The manifest of that kind and name."""
    (found,) = (each for each in manifests(overlay, kind) if each["metadata"]["name"] == name)
    return found


def templates(overlay: str) -> dict[str, Manifest]:
    """The pods that an overlay makes, by component."""
    specs = [each.get("spec", {}) for each in manifests(overlay)]
    pods = [spec["template"] for spec in specs if "template" in spec]
    return {pod["metadata"]["labels"][COMPONENT]: pod for pod in pods}


def container(pod: Manifest) -> Manifest:
    """The container of a pod of ours, which has one."""
    (only,) = pod["spec"]["containers"]
    return only


def selected(overlay: str, selector: Manifest) -> set[str]:
    """The components whose pods a selector matches."""
    wanted: dict[str, list[str]] = {
        name: [value] for name, value in selector.get("matchLabels", {}).items()
    }
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        wanted[expression["key"]] = expression["values"]
    return {
        component
        for component, pod in templates(overlay).items()
        if all(pod["metadata"]["labels"].get(key) in values for key, values in wanted.items())
    }


def may_reach(overlay: str, source: str, target: str) -> bool:
    """Whether the policies let pods of `source` open a connection to those of `target`."""
    return _passes(overlay, "Egress", source, target) and _passes(
        overlay, "Ingress", target, source
    )


def _passes(overlay: str, direction: str, owner: str, peer: str) -> bool:
    about = [
        policy["spec"]
        for policy in manifests(overlay, "NetworkPolicy")
        if owner in selected(overlay, policy["spec"]["podSelector"])
        and direction in policy["spec"]["policyTypes"]
    ]
    side = "to" if direction == "Egress" else "from"
    peers = [
        each
        for spec in about
        for rule in spec.get(direction.lower(), [])
        for each in rule[side]
        if "podSelector" in each and "namespaceSelector" not in each
    ]
    return not about or any(peer in selected(overlay, each["podSelector"]) for each in peers)
