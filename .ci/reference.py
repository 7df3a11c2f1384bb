#!/usr/bin/env python3
"""Write docs/settings.md, docs/metrics.md and docs/s3.md from the code; tests/tidy holds the files against it.

A setting is a field of a settings class; its meaning stands in the class' docstring, under `Attributes`. A metric is a call of
one of prometheus_client's classes, read without running it: who would have to be scraped for all of them is a whole cluster.
An operation of S3 is a row of the gateway's table.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Final, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

if TYPE_CHECKING:
    from services.gateway.s3.operation_table import Operation

ROOT: Final = Path(__file__).parents[1]

UNITS: Final = {
    "_bytes_per_s": "bytes/s",
    "_bytes": "bytes",
    "_ms": "ms",
    "_us": "µs",
    "_s": "s",
    "_percent": "%",
}
TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "text", Path: "path", SecretStr: "secret"}

SETTINGS_HEAD: Final = """# Settings

Written by `make reference` from the code; change it there. Settings come from the environment, or from the file that
`TRIVET_ENV_FILE` names. All are checked together at start: a process whose settings are wrong ends with status 78 and one
sentence for each mistake. Lists are separated by commas, services written as `id=http://host:port`. A secret is given as such
or, better, as the path of a file (`…_FILE`), not both.
"""

METRICS_HEAD: Final = """# Metrics

Written by `make reference` from the code; change it there. Every service shows its own at `/metrics` of its operations port
([operations.md](operations.md)), with those of the Python process (`process_…`, `python_…`) that prometheus_client adds. The
samples of a histogram end in `_bucket`, `_sum`, `_count`; those of a summary in `_sum`, `_count`.
"""


S3_HEAD: Final = """# S3

Written by `make reference` from the table of operations in the gateway; change it there.

A gateway speaks S3 on a port of its own (`TRIVET_S3_PORT`, 9000), over the same buckets and files as `/v1`: what is put by one
door is read by the other. Requests are signed with AWS Signature Version 4 by an access key of Trivet, of which the part before
the dot is the key id and the part behind it the secret; version 2 and 4A of the signature are not offered. The bucket is the
first part of the path; with `TRIVET_S3_DOMAINS` it may also stand before the host's name. There is one region
(`TRIVET_S3_REGION`); a signature may name any other one, unless `TRIVET_S3_STRICT_REGION` is set.

What a key may do is said by its scopes ([security.md](security.md)); the column *needs* has the action that an operation asks
for. Both doors have the same buckets and rights: a scope whose bucket is `*` covers every one of them, also those made later
and `default`, which always exists. That is so by decision; name the buckets in the scopes of whoever is not to have that one.
Every bucket and file has the same owner, the cluster's first root identity. A missing file is `NoSuchKey` for those who may
list the bucket; others are told `AccessDenied`. A change with a condition on what is there, such as `If-Match`, needs the right
to read or to list the file as well, or its answer would tell.

Errors are S3's: an XML document with a code, and the id of the request that is also in the header `x-amz-request-id`, in the
access log and in the audit trail. A HEAD has its status alone. `503 SlowDown` and `503 ServiceUnavailable` say that nothing
happened; after `500 InternalError` that is not known, and an equal request may be repeated. A full cluster answers
`507 InsufficientStorage`, and a key, identity or bucket at its quota `403 QuotaExceeded`.

A request that names an operation which is not answered here gets `501 NotImplemented`, and so does one with a header that
would change what is stored and is not understood. One that names a sub-resource with a method that it has not gets
`405 MethodNotAllowed`, and one that names two of them `400 InvalidArgument`: neither is ever taken for the plain operation.
A parameter that begins with `x-amz-` is a header that an SDK moved into a link; those that would change what is done are 501.
Other parameters of a query are signed and ignored.

Not offered: signatures of version 2 and 4A, temporary keys and IAM over HTTP, tenants, external key management, MFA delete,
Select, torrents, restore and archive tiers, append, analytics, inventory, metrics of requests, intelligent tiering, requester
pays, S3 Express sessions, acceleration, replication, access points, object lambda and batch operations.

"""


class UndocumentedError(Exception):
    """Something in the code that a reader of the reference would look for in vain."""


# --- settings -----------------------------------------------------------------------------------------------------


def settings_reference() -> str:
    """The text of docs/settings.md. Raises UndocumentedError."""
    from local_cluster.settings import LocalSettings
    from services.clock.settings import ClockSettings
    from services.consensus.backup.__main__ import FullBackupSettings
    from services.consensus.rescue.__main__ import BackupSettings, SealSettings
    from services.consensus.settings import ConsensusSettings
    from services.consensus.tools.change_members import OperatorSettings
    from services.consensus.tools.initialise import InitialiseSettings
    from services.gateway.settings import GatewaySettings
    from services.storage.settings import StorageSettings
    from shared.settings import ServiceSettings

    common = set(ServiceSettings.model_fields)
    parts = [SETTINGS_HEAD, _settings_section("Every service", ServiceSettings, set())]
    services: tuple[tuple[str, type[BaseSettings]], ...] = (
        ("Gateway", GatewaySettings),
        ("Storage node", StorageSettings),
        ("Consensus member", ConsensusSettings),
        ("Clock service", ClockSettings),
    )
    for title, kind in services:
        same = {name for name in common if _row(name, kind) == _row(name, ServiceSettings)}
        parts.append(_settings_section(title, kind, same))
    commands: tuple[tuple[str, type[BaseSettings]], ...] = (
        ("A cluster on one machine (`make run`)", LocalSettings),
        ("`python -m services.consensus.tools.initialise`", InitialiseSettings),
        ("`python -m services.consensus.tools.change_members`", OperatorSettings),
        ("`python -m services.consensus.rescue`", BackupSettings),
        ("`python -m services.consensus.rescue check` and `restore`", SealSettings),
        ("`python -m services.consensus.backup`", FullBackupSettings),
    )
    parts += [_settings_section(title, kind, set()) for title, kind in commands]
    return "\n".join(parts)


def _settings_section(title: str, kind: type[BaseSettings], left_out: set[str]) -> str:
    rows = [_row(name, kind) for name in kind.model_fields if name not in left_out]
    return f"## {title}\n\n| setting | type | unit | default | meaning |\n|---|---|---|---|---|\n" + "".join(rows)


def _row(name: str, kind: type[BaseSettings]) -> str:
    info = kind.model_fields[name]
    unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")
    cells = (f"`TRIVET_{name.upper()}`", _type(info), unit, _default(info), _meaning(name, kind))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _type(info: FieldInfo) -> str:
    annotation = info.annotation
    if get_origin(annotation) in {Union, UnionType}:
        (annotation,) = (part for part in get_args(annotation) if part is not NoneType)
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) is list:
        text = "list"
    else:
        assert isinstance(annotation, type)
        text = TYPES[annotation]
    bounds = _bounds(info)
    return f"{text}, {bounds}" if bounds else text


def _bounds(info: FieldInfo) -> str:
    found = []
    for bound in info.metadata:
        found += [
            f"{sign} {getattr(bound, attribute)}"
            for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
            if hasattr(bound, attribute)
        ]
    return ", ".join(found)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if isinstance(value, Path) and value.is_absolute():
        value = value.relative_to(ROOT)
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _meaning(name: str, kind: type[BaseSettings]) -> str:
    for owner in kind.__mro__:
        for names, meaning in _attributes(owner.__doc__ or ""):
            if any(re.fullmatch(pattern.strip().replace("*", ".*"), name) for pattern in names.split(",")):
                return meaning[0].upper() + meaning[1:]
    if name.endswith("_file") and name.removesuffix("_file") in kind.model_fields:
        return f"The path of a file with `TRIVET_{name.removesuffix('_file').upper()}`."
    raise UndocumentedError(f"{kind.__module__}.{kind.__name__}: say under `Attributes` what {name} means")


def _attributes(docstring: str) -> list[tuple[str, str]]:
    """(names, meaning) of the entries of a docstring's `Attributes`."""
    _, _, section = docstring.partition("Attributes:\n")
    lines = textwrap.dedent(section).split("\n\n", 1)[0]
    entries = re.split(r"\n(?=\S)", lines.strip("\n"))
    return [(names, " ".join(meaning.split())) for names, _, meaning in (entry.partition(":") for entry in entries)]


# --- metrics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Family:
    """One metric."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


KINDS: Final = {
    "Counter": "counter",
    "CounterMetricFamily": "counter",
    "Gauge": "gauge",
    "GaugeMetricFamily": "gauge",
    "Histogram": "histogram",
    "HistogramMetricFamily": "histogram",
    "Summary": "summary",
}
PLACES: Final = (
    ("Every service", ("shared",)),
    ("Gateway", ("services/gateway",)),
    ("Storage node", ("services/storage",)),
    ("Consensus member", ("services/consensus",)),
    ("Clock service", ("services/clock",)),
)


def metrics_reference(root: Path = ROOT) -> str:
    """The text of docs/metrics.md. Raises UndocumentedError."""
    parts = [METRICS_HEAD]
    for title, folders in PLACES:
        paths = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
        families = sorted({family for path in paths for family in families_of(path.read_text(), str(path))})
        rows = (
            f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.meaning} |\n"
            for one in families
        )
        parts.append(f"## {title}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n" + "".join(rows))
    return "\n".join(parts)


def families_of(source: str, path: str) -> list[Family]:
    """The metrics that a module makes. Raises UndocumentedError for one whose name or meaning cannot be read from it."""
    if "prometheus_client" not in source:
        return []
    module = _Module(ast.parse(source), path)
    return [family for call in module.calls_of_prometheus() for family in module.families(call)]


@dataclass
class _Module:
    tree: ast.Module
    path: str
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def calls_of_prometheus(self) -> Iterator[ast.Call]:
        imported = {
            alias.name
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prometheus_client")
            for alias in node.names
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in imported & set(KINDS):
                yield node

    def families(self, call: ast.Call) -> Iterator[Family]:
        assert isinstance(call.func, ast.Name)
        kind = KINDS[call.func.id]
        labels = _labels(call)
        for name, meaning in self._texts(call, tuple(call.args[:2])):
            # As Prometheus shows it.
            shown = f"{name.removesuffix('_total')}_total" if kind == "counter" else name
            yield Family(shown, kind, labels, f"{meaning.strip().rstrip('.')}.".replace("|", "\\|"))

    def _texts(self, at: ast.AST | None, expressions: tuple[ast.expr, ...]) -> Iterator[tuple[str, ...]]:
        """What these expressions can be, together: constants, with names that a loop or the callers of a function give."""
        free = {name for expression in expressions for name in _names(expression)}
        if not free:
            yield tuple(_text(expression, {}) for expression in expressions)
            return
        for there, values in self._bindings(at, free):
            for texts in self._texts(there, tuple(values.values())):
                known = dict(zip(values, texts, strict=True))
                yield tuple(_text(expression, known) for expression in expressions)

    def _bindings(self, at: ast.AST | None, names: set[str]) -> Iterator[tuple[ast.AST | None, dict[str, ast.expr]]]:
        """Every set of expressions that these names can stand for, each with the place where it is written."""
        node = at
        while node is not None:
            if isinstance(node, ast.For) and names <= set(_names(node.target)):
                yield from ((self.parents.get(node), row) for row in self._rows(node, names))
                return
            if isinstance(node, ast.FunctionDef) and names <= {argument.arg for argument in node.args.args}:
                places = {argument.arg: index for index, argument in enumerate(node.args.args)}
                for call in ast.walk(self.tree):
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == node.name:
                        yield call, {name: call.args[places[name]] for name in names}
                return
            node = self.parents.get(node)
        raise UndocumentedError(
            f"{self.path}: write the metric so that the value of {', '.join(sorted(names))} can be read"
        )

    def _rows(self, loop: ast.For, names: set[str]) -> Iterator[dict[str, ast.expr]]:
        target: ast.expr = loop.target
        table: ast.expr | None = loop.iter
        if isinstance(table, ast.Call) and isinstance(table.func, ast.Name) and table.func.id == "zip":
            assert isinstance(target, ast.Tuple)
            target, table = target.elts[0], table.args[0]
        if isinstance(table, ast.Name):
            table = self._assigned(table.id)
        if not isinstance(table, ast.Tuple | ast.List) or not isinstance(target, ast.Tuple):
            raise UndocumentedError(f"{self.path}:{loop.lineno}: loop over a written table, so that names can be read")
        for row in table.elts:
            assert isinstance(row, ast.Tuple)
            found = {
                part.id: value for part, value in zip(target.elts, row.elts, strict=True) if isinstance(part, ast.Name)
            }
            yield {name: found[name] for name in names}

    def _assigned(self, name: str) -> ast.expr | None:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return node.value
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                return node.value
        return None


def _labels(call: ast.Call) -> tuple[str, ...]:
    given = [keyword.value for keyword in call.keywords if keyword.arg in {"labels", "labelnames"}] or call.args[2:3]
    if not given or not isinstance(given[0], ast.List | ast.Tuple):
        return ()
    return tuple(_text(label, {}) for label in given[0].elts)


def _names(expression: ast.expr) -> list[str]:
    return [node.id for node in ast.walk(expression) if isinstance(node, ast.Name)]


def _text(expression: ast.expr, known: dict[str, str]) -> str:
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        return expression.value
    if isinstance(expression, ast.Name) and expression.id in known:
        return known[expression.id]
    if isinstance(expression, ast.FormattedValue):
        return _text(expression.value, known)
    if isinstance(expression, ast.JoinedStr):
        return "".join(_text(part, known) for part in expression.values)
    raise UndocumentedError(f"line {expression.lineno}: the name and the meaning of a metric are written as text")


# --- S3 -----------------------------------------------------------------------------------------------------------


def s3_reference() -> str:
    """The text of docs/s3.md."""
    from services.gateway.s3.operation_table import OPERATIONS

    lines = ["| operation | request | needs | IAM action | answered |", "|---|---|---|---|---|"]
    for row in OPERATIONS:
        needs = "" if row.action is None else f"`{row.action.value}`"
        iam = f"`{row.iam_action}`" if row.iam_action else ""
        answered = ", ".join(filter(None, ("501" if row.handler is None else "yes", row.note)))
        lines.append(f"| {row.name} | {_request(row)} | {needs} | {iam} | {answered} |")
    return S3_HEAD + "\n".join(lines) + "\n"


def _request(row: Operation) -> str:
    path = {"service": "/", "bucket": "/bucket", "object": "/bucket/key"}[row.level]
    parameters = [name for name in (row.subresource, *row.needs) if name is not None and not name.startswith("x-amz-")]
    headers = [name for name in row.needs if name.startswith("x-amz-")]
    target = f"{path}?{'&'.join(parameters)}" if parameters else path
    return ", ".join((f"`{row.method} {target}`", *(f"`{name}`" for name in headers)))


def main() -> None:
    """Rewrite the files."""
    (ROOT / "docs" / "settings.md").write_text(settings_reference(), encoding="utf-8")
    (ROOT / "docs" / "metrics.md").write_text(metrics_reference(), encoding="utf-8")
    (ROOT / "docs" / "s3.md").write_text(s3_reference(), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
