#!/usr/bin/env python3
"""Writes the PrometheusRule of k8s/ from observability/alerts.yaml: kustomize reads no file outside its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PROJECT_ROOT: Final = Path(__file__).resolve().parent.parent
RULES: Final = PROJECT_ROOT / "observability" / "alerts.yaml"
MANIFEST: Final = PROJECT_ROOT / "k8s" / "components" / "prometheus-operator" / "prometheus-rule.yaml"
_HEAD: Final = """\
# Written by `make reference` from observability/alerts.yaml; change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: trivet
  labels: { app.kubernetes.io/part-of: trivet }
spec:
"""


def manifest() -> str:
    """The rules as the prometheus-operator takes them."""
    text = RULES.read_text(encoding="utf-8")
    rules = text[text.index("groups:") :].splitlines()
    return _HEAD + "".join(f"  {line}".rstrip() + "\n" for line in rules)


if __name__ == "__main__":
    MANIFEST.write_text(manifest(), encoding="utf-8")
