"""Scripts of .ci, which are no modules of a package."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from local_cluster.settings import PROJECT_ROOT


def script(name: str) -> ModuleType:
    """A script of .ci as a module."""
    spec = importlib.util.spec_from_file_location(name, PROJECT_ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    """The script that `make check` runs."""
    return script("check_containers")
