"""Reads what kubectl makes of the overlays."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
NAMESPACE = "instantir"
OVERLAYS = ("cpu", "gpu", "prod")
Manifest = dict[str, Any]
_HASHED = re.compile(r"(.+)-[a-z0-9]{10}")


@cache
def rendered(overlay: str) -> str:
    """The manifests of an overlay as one text."""
    kubectl = Path(sys.executable).parent / "kubectl"
    command = [kubectl, "kustomize", KUBERNETES / "overlays" / overlay]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def without_hashes(overlay: str) -> dict[str, Manifest]:
    """The manifests of an overlay by "Kind/name", generated ones under the name they were given."""
    text = rendered(overlay)
    for each in yaml.safe_load_all(text):
        name = each["metadata"]["name"]
        hashed = _HASHED.fullmatch(name) if each["kind"] in {"ConfigMap", "Secret"} else None
        if hashed:
            text = text.replace(name, hashed[1])
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in yaml.safe_load_all(text)}
