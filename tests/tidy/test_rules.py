"""Each rule of `rules.py` finds a violation that is planted in a made-up tree, and lets the right thing pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tidy import rules


def plant(root: Path, **files: str) -> Path:
    """A tree of files by their paths."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("docstring", "is_found"),
    [
        ("One request goes through `api`.", False),
        ("One request goes through `api.Answer` and `inner.deep`.", False),
        ("One request goes through `inner`, then `shared.units.KIB`.", False),
        ("`PUT /v1/files` is no name.", False),
        ("One request goes through `files`.", True),
        ("One request goes through `api.Nobody`.", True),
        ("One request goes through `shared.units.NOTHING`.", True),
    ],
)
def test_a_package_map_names_what_is_there(tmp_path: Path, docstring: str, is_found: bool) -> None:
    """Modules, definitions in them, packages below and dotted paths resolve; a module that was moved away does not."""
    files = {
        "services/gateway/__init__.py": f'"""{docstring}"""',
        "services/gateway/api.py": "class Answer: ...",
        "services/gateway/inner/deep.py": "",
        "shared/units.py": "KIB = 1024",
    }
    assert bool(rules.wrong_package_maps(plant(tmp_path, **files))) is is_found


def test_a_dotted_name_of_ours_is_there(tmp_path: Path) -> None:
    """`shared.moved` in any docstring is found when nothing is there; names of libraries are nobody's business."""
    plant(tmp_path, **{"shared/units.py": '"""See `shared.units`, `redis.asyncio`, `shared.moved`."""'})
    assert rules.dead_module_names(tmp_path) == ["shared/units.py names `shared.moved`, which is not there"]


@pytest.mark.parametrize(
    ("link", "is_found"),
    [
        ("[a](docs/api.md)", False),
        ("[a](docs/api.md#two-words)", False),
        ("[a](#top)", False),
        ("[a](https://example.org/x)", False),
        ("```\n[a](nowhere.md)\n```", False),
        ("[a](docs/nowhere.md)", True),
        ("[a](docs/api.md#three-words)", True),
    ],
)
def test_a_link_leads_somewhere(tmp_path: Path, link: str, is_found: bool) -> None:
    """To a file, and to a heading in it. Code blocks and other sites are not followed."""
    plant(tmp_path, **{"README.md": f"# Top\n{link}\n", "docs/api.md": "## Two `words`\n"})
    assert bool(rules.dead_links(tmp_path)) is is_found


@pytest.mark.parametrize(
    ("path", "is_found"),
    [
        ("docs/api.md", False),
        ("docs/", False),
        ("shared/*.py", False),
        ("shared/{units,errors}.py", False),
        ("units.py", False),
        ("and/or", False),
        ("docs/gone.md", True),
        ("shared/{units,gone}.py", True),
        ("gone.py", True),
    ],
)
def test_a_path_in_backticks_exists(tmp_path: Path, path: str, is_found: bool) -> None:
    """Whatever begins with a folder of ours, or names a Python file, is looked for."""
    plant(tmp_path, **{"README.md": f"See `{path}`.", "docs/api.md": "", "shared/units.py": "", "shared/errors.py": ""})
    assert bool(rules.dead_paths(tmp_path)) is is_found


@pytest.mark.parametrize("name", ["shared/a.py", "docs/a.md", "shared/census.py"])
def test_an_old_word_is_found(tmp_path: Path, name: str) -> None:
    """In code, in prose, and in the name of a file."""
    plant(tmp_path, **{name: "x = 1" if "census" in name else "the Census of replicas"})
    assert rules.old_words(tmp_path, {"(?i)census": "replica check"})
    assert not rules.old_words(tmp_path, {"(?i)keeper": "idempotency store"})


def test_a_class_name_given_twice_is_found(tmp_path: Path) -> None:
    """Also when one of the two stands inside a function; the same name in tests is another matter."""
    plant(tmp_path, **{"shared/a.py": "class A: ...", "services/b.py": "def f():\n    class A: ...", "tests/c.py": ""})
    assert rules.repeated_class_names(tmp_path) == ["A is defined in services/b.py, shared/a.py"]
    plant(tmp_path, **{"services/b.py": "class B: ...", "tests/c.py": "class A: ..."})
    assert not rules.repeated_class_names(tmp_path)


def test_a_setting_that_nobody_reads_is_found(tmp_path: Path) -> None:
    """Another object's attribute of the same name, or setting it, is no reading of it."""
    settings = "class XSettings:\n    a: int\n    b: int\n    c: int\n    def f(self): return self.b\n"
    reader = "def f(settings, other):\n    settings.c = 1\n    return settings.a, other.c\n"
    message = {"shared/contracts/b.py": "class YSettings:\n    d: int\n"}
    plant(tmp_path, **{"services/x/settings.py": settings, "services/x/main.py": reader, **message})
    assert rules.unread_settings(tmp_path) == ["services/x/settings.py: no code reads c"]


def test_chance_without_a_seed_is_found_in_tests(tmp_path: Path) -> None:
    """Of the product and of benchmarks nobody wants to repeat it."""
    plant(tmp_path, **{"tests/a.py": "import os\nx = os.urandom(8)", "benchmarks/b.py": "x = os.urandom(8)"})
    assert rules.unseeded_chance(tmp_path) == ["tests/a.py:2 calls os.urandom; take tests.chance.random_bytes"]


def test_dependencies_and_imports_that_disagree_are_found(tmp_path: Path) -> None:
    """Undeclared, unused, and declared for development or for another service only while the product needs it."""
    project = (
        '[project]\ndependencies = ["httpx>=0.28", "unused"]\n[dependency-groups]\n'
        'dev = [{include-group = "x"}, "pytest", "blake3"]\nx = ["tool"]\nred = ["redis"]\nblue = ["ntplib"]\n'
    )
    plant(
        tmp_path,
        **{
            "pyproject.toml": project,
            "shared/a.py": "import httpx, json, shared.b\nfrom blake3 import blake3",
            "services/red/__init__.py": "import httpx, redis",
            "services/blue/__init__.py": "import redis",
            "tests/test_a.py": "import pytest, yaml, helper",
            "tests/helper.py": "",
        },
    )
    assert rules.wrong_dependencies(tmp_path, {"tool": "a command"}) == [
        "blake3 is imported by `shared` and not declared for every service",
        "redis is imported by blue and not declared",
        "pyyaml is imported and not declared",
        "blake3 is declared and not imported",
        "ntplib is declared and not imported",
        "unused is declared and not imported",
    ]
