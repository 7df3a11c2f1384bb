"""Rules about the tree that no linter knows. Each is a function from a folder to findings: one sentence each.

They read files only, so that a planted violation can be tried on a made-up tree; `test_tree.py` runs them on this one.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

PRODUCT = ("services", "shared", "local_cluster")
CODE = (*PRODUCT, "benchmarks", "tests", ".ci")
MADE_BY_RUNS = ("benchmarks/out", "k8s/secrets")
"""Not in the repository."""

TOP_LEVEL = (*CODE, "compose", "docs", "k8s", "observability")

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_TICKED = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"[\w.{},*/-]+")


def wrong_package_maps(root: Path, packages: Iterable[str] = PRODUCT) -> list[str]:
    """A name in backticks in a package's docstring is a module, class or function of the package, or a dotted path."""
    findings = []
    for init in _sources(root, packages, "__init__.py"):
        docstring = ast.get_docstring(ast.parse(init.read_text())) or ""
        local = _names_of_package(init.parent)
        findings += [
            f"{init.relative_to(root)} names `{name}`, which is not there"
            for name in _TICKED.findall(docstring)
            if _IDENTIFIER.fullmatch(name) and not _resolves(root, init.parent, name, local)
        ]
    return findings


def _names_of_package(package: Path) -> set[str]:
    names = {package.name}
    for entry in package.iterdir():
        names.add(entry.stem)
        if entry.suffix == ".py":
            names |= set(_definitions(entry))
    return names


def _definitions(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def _resolves(root: Path, package: Path, name: str, local: set[str]) -> bool:
    """In the package, or in one that holds it: `replicas.writer` said in `services/gateway/transfers` is found."""
    first, *rest = name.split(".")
    if first in local and (not rest or rest[-1] in local):
        return True
    folders = [package, *(folder for folder in package.parents if folder.is_relative_to(root))]
    return any(_is_dotted(folder, name) for folder in folders)


def _is_dotted(folder: Path, name: str) -> bool:
    """Whether `name` is a module below `folder`, or a definition in one."""
    parts = name.split(".")
    for at in range(len(parts), 0, -1):
        base = folder.joinpath(*parts[:at])
        module = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
        if module.is_file() or base.is_dir():
            rest = parts[at:]
            return not rest or (module.is_file() and rest[0] in set(_definitions(module)))
    return False


def dead_module_names(root: Path, packages: Iterable[str] = CODE) -> list[str]:
    """A dotted name in backticks that begins with a package of ours is a module or a definition in one."""
    findings = []
    starts = tuple(f"{package}." for package in PRODUCT)
    for path in _outside_of_here(root, _sources(root, packages, "*.py")):
        findings += [
            f"{path.relative_to(root)} names `{name}`, which is not there"
            for name in _TICKED.findall(path.read_text())
            if name.startswith(starts) and _IDENTIFIER.fullmatch(name) and not _is_dotted(root, name)
        ]
    return findings


def dead_links(root: Path) -> list[str]:
    """Every relative link in Markdown leads to a file, and its anchor to a heading."""
    findings = []
    for page in _pages(root):
        for target in _LINK.findall(_FENCE.sub("", page.read_text())):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            if not linked.exists():
                findings.append(f"{page.relative_to(root)} links to {target}, which is not there")
            elif anchor and linked.suffix == ".md" and anchor not in _anchors(linked):
                findings.append(f"{page.relative_to(root)} links to {target}, which has no such heading")
    return findings


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_paths(root: Path) -> list[str]:
    """A path in backticks in Markdown that begins with a folder of ours, or ends in `.py`, exists."""
    findings = []
    for page in _pages(root):
        findings += [
            f"{page.relative_to(root)} names `{text}`, which is not there"
            for text in _TICKED.findall(_FENCE.sub("", page.read_text()))
            if _PATH.fullmatch(text) and not _path_exists(root, page, text)
        ]
    return findings


def _path_exists(root: Path, page: Path, text: str) -> bool:
    is_ours = "/" in text and text.split("/", maxsplit=1)[0] in TOP_LEVEL
    if text.startswith(MADE_BY_RUNS) or (not is_ours and not text.endswith(".py")):
        return True
    patterns = [text.rstrip("/")]
    if braces := re.search(r"\{([^{}]*)\}", text):
        patterns = [text.replace(braces[0], part).rstrip("/") for part in braces[1].split(",")]
    folders = (root, page.parent)
    found = (any(any(folder.glob(pattern)) for folder in folders) for pattern in patterns)
    return all(found) or (not is_ours and any(_sources(root, CODE, Path(text).name, suffix=text)))


def old_words(root: Path, words: Mapping[str, str]) -> list[str]:
    """No line of code or prose matches one of the expressions in `words`; each maps to what is said instead."""
    findings = []
    expressions = [(re.compile(word), instead) for word, instead in words.items()]
    for path in _outside_of_here(root, [*_sources(root, CODE, "*.py"), *_pages(root)]):
        for number, line in enumerate([path.stem, *path.read_text().splitlines()]):
            for expression, instead in expressions:
                if found := expression.search(line):
                    findings.append(f"{path.relative_to(root)}:{number} says {found[0]!r}; say {instead}")
    return findings


def repeated_class_names(root: Path, packages: Iterable[str] = PRODUCT) -> list[str]:
    """No two classes of the product have one name, or grep finds the wrong one."""
    places = defaultdict(list)
    for path in _sources(root, packages, "*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(root)))
    return [f"{name} is defined in {', '.join(found)}" for name, found in sorted(places.items()) if len(found) > 1]


def unread_settings(root: Path, packages: Iterable[str] = PRODUCT) -> list[str]:
    """Every field of a settings class is read by some code as `settings.field`, or as `self.field` in its own module.

    Settings of a bucket and the like are messages (`shared/contracts`), whose fields a client may send and read.
    """
    fields: dict[str, list[Path]] = defaultdict(list)
    read: set[str] = set()
    for path in _sources(root, packages, "*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            is_message = path.is_relative_to(root / "shared/contracts")
            if isinstance(node, ast.ClassDef) and node.name.endswith("Settings") and not is_message:
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        fields[field.target.id].append(path)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                name = (
                    owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
                )
                if name.endswith("settings") or (name == "self" and path.name == "settings.py"):
                    read.add(node.attr)
    return [
        f"{path.relative_to(root)}: no code reads {field}"
        for field, paths in sorted(fields.items())
        if field not in read
        for path in paths
    ]


def unseeded_chance(root: Path) -> list[str]:
    """No test draws what no seed repeats, or a failure by chance cannot be run again (`tests.chance`)."""
    return [
        f"{path.relative_to(root)}:{number} calls os.urandom; take tests.chance.random_bytes"
        for path in _outside_of_here(root, _sources(root, ("tests",), "*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "os.urandom(" in line
    ]


OPTIONAL: Final = ("backup", "telemetry")


def wrong_dependencies(root: Path, tools: Mapping[str, str]) -> list[str]:
    """What is imported is declared, and what is declared is imported, or is in `tools` with the reason why not.

    A service may import what every service needs, and what the group of its name adds; `shared` only the former. What only
    some installations need is in one of `OPTIONAL`, and imported where it is used.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())
    needed = {_distribution(text) for text in project["project"]["dependencies"]}
    groups = {
        name: {_distribution(text) for text in group if isinstance(text, str)}
        for name, group in project.get("dependency-groups", {}).items()
    }
    services = sorted(path.parent.name for path in (root / "services").glob("*/__init__.py"))
    own = {name: groups.pop(name, set()) for name in services}
    optional = set().union(*(groups.pop(name, set()) for name in OPTIONAL))
    imported = {name: set(_imported_distributions(root, (f"services/{name}",))) for name in own}
    shared = set(_imported_distributions(root, ("shared",)))
    found_optional = optional & shared.union(*imported.values())
    shared -= optional
    imported = {name: found - optional for name, found in imported.items()}
    elsewhere = set(_imported_distributions(root, ("local_cluster", "benchmarks", "tests", ".ci")))
    findings = [
        f"{name} is imported by `shared` and not declared for every service" for name in sorted(shared - needed)
    ]
    for service, found in imported.items():
        findings += [
            f"{name} is imported by {service} and not declared" for name in sorted(found - needed - own[service])
        ]
    grouped = set().union(*groups.values())
    declared = needed | grouped | optional | set().union(*own.values())
    findings += [f"{name} is imported and not declared" for name in sorted(elsewhere - declared)]
    unused = (needed - shared.union(*imported.values())) | (grouped - elsewhere)
    unused |= optional - found_optional
    for service, names in own.items():
        unused |= names - imported[service]
    findings += [f"{name} is declared and not imported" for name in sorted(unused - set(tools))]
    return findings


def _distribution(requirement: str) -> str:
    return _normalised(re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0])


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported_distributions(root: Path, folders: Iterable[str]) -> Iterator[str]:
    known = packages_distributions()
    ours = {path.name for path in (*root.iterdir(), *root.glob("client/src/*"))}
    for path in _sources(root, folders, "*.py"):
        for module in _imported_modules(path):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top in ours or (path.parent / f"{top}.py").exists():
                continue
            yield _normalised(known.get(top, [top])[0])


def _imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _outside_of_here(root: Path, paths: Iterable[Path]) -> Iterator[Path]:
    """These rules and their tests name what must not be."""
    return (path for path in paths if not path.is_relative_to(root / "tests/tidy"))


def _pages(root: Path) -> list[Path]:
    pages = [*root.glob("*.md"), *_sources(root, TOP_LEVEL, "*.md")]
    return sorted(pages)


def _sources(root: Path, folders: Iterable[str], pattern: str, *, suffix: str = "") -> list[Path]:
    found = (path for folder in folders for path in (root / folder).rglob(pattern))
    return sorted(path for path in found if "__pycache__" not in path.parts and str(path).endswith(suffix))
