"""`benchmarks.cluster.stack_samples` and `flame_graph`: whose code a sample was in, and how it is drawn."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from benchmarks.cluster.flame_graph import draw_flame_graph
from benchmarks.cluster.stack_samples import owner_of, parse, shares_by_frame, shares_by_owner

SITE = "/tree/.venv/lib/python3.11/site-packages"
DOCUMENT = {
    "shared": {
        "frames": [
            {"name": "main", "file": "/tree/services/gateway/main.py", "line": 3},
            {"name": "run", "file": f"{SITE}/uvicorn/server.py", "line": 9},
            {"name": "run", "file": f"{SITE}/uvicorn/server.py", "line": 12},
            {"name": "dumps<T>", "file": "/usr/lib/python3.11/json/__init__.py", "line": 1},
        ]
    },
    "profiles": [
        {"type": "sampled", "samples": [[0, 1], [0, 2, 3], [0, 1]], "weights": [1, 1, 1]},
        {"type": "sampled", "samples": [[0]], "weights": [1]},
    ],
}


@pytest.mark.parametrize(
    ("file", "owner"),
    [
        ("/tree/services/storage/chunk_store.py", "services.storage.chunk_store"),
        ("/services/work/shared/units.py", "shared.units"),
        (f"{SITE}/starlette/routing.py", "starlette"),
        (f"{SITE}/typing_extensions.py", "typing_extensions"),
        (f"{SITE}/shared/x.py", "shared"),
        ("/usr/lib/python3.11/asyncio/runners.py", "standard library"),
        ("<frozen runpy>", "standard library"),
    ],
)
def test_code_belongs_to_a_module_of_ours_a_library_or_python(file, owner) -> None:
    """By its path, wherever the checkout lies."""
    assert owner_of(file) == owner


def test_lines_of_one_function_are_one_frame() -> None:
    """Samples of all threads count together."""
    stacks = parse(DOCUMENT)
    assert stacks.total() == 4
    assert len(stacks) == 3


def test_own_and_total_shares_are_of_all_samples() -> None:
    """An owner that calls itself counts once per sample."""
    shares = {share.name: (share.own, share.total) for share in shares_by_owner(parse(DOCUMENT))}
    assert shares == {
        "uvicorn": (0.5, 0.75),
        "services.gateway.main": (0.25, 1.0),
        "standard library": (0.25, 0.25),
    }
    assert shares_by_frame(parse(DOCUMENT))[0].name == "run (uvicorn)"


def test_a_flame_graph_is_one_box_per_call_as_wide_as_its_share() -> None:
    """Names are escaped, or a browser shows nothing."""
    svg = ET.fromstring(draw_flame_graph(parse(DOCUMENT), "gateway <1>"))
    names = {"svg": "http://www.w3.org/2000/svg"}
    titles = [title.text for title in svg.iterfind("svg:g/svg:title", names)]
    assert titles == [
        "main (services.gateway.main): 100.0%",
        "run (uvicorn): 75.0%",
        "dumps<T> (standard library): 25.0%",
    ]
    widths = [float(box.get("width")) for box in svg.iterfind("svg:g/svg:rect", names)]
    assert widths == [pytest.approx(share * 1600, abs=1) for share in (1, 0.75, 0.25)]


def test_a_process_that_was_never_busy_has_an_empty_graph() -> None:
    """And no share of anything."""
    nothing = parse({"shared": {"frames": []}, "profiles": []})
    assert shares_by_owner(nothing) == []
    assert "0 samples" in draw_flame_graph(nothing, "clock-1")
