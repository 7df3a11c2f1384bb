"""People meet the API in Swagger UI: in a real browser a file goes in and comes out again, and nobody else is asked."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.units import MIB
from tests.integration.browser import DEADLINE_S, Browser, chromium
from tests.waiting import block_until

pytestmark = pytest.mark.cluster

FILE_ROUTE = "/v1/files/{bucket}/{key}"
FORM_ROUTE = "/v1/files/{bucket}"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    (tmp_path / "downloads").mkdir()
    with chromium(tmp_path) as started:
        yield started


def try_out(browser: Browser, method: str, route: str, **values: str) -> str:
    """Open an operation and fill its path in; the selector of its block."""
    block = f".opblock-{method}:has([data-path='{route}'])"
    browser.click(f"{block} .opblock-summary-path")
    browser.click(f"{block} .try-out__btn")
    for name, value in values.items():
        browser.replace_text(f"{block} tr[data-param-name='{name}'] input", value)
    return block


def open_docs(browser: Browser, url: str, key: str) -> None:
    """Open the page and give a key to its button Authorize."""
    browser.open(f"{url}/docs")
    browser.click(".auth-wrapper .btn.authorize")
    browser.replace_text(".modal-ux .auth-container input", key)
    browser.click(".modal-ux .auth-btn-wrapper .btn.authorize")
    browser.click(".modal-ux .btn-done")


def execute(browser: Browser, block: str) -> str:
    """Send the request; the status that the page shows for the answer."""
    browser.click(f"{block} .btn.execute")
    return browser.text(f"{block} .live-responses-table tr.response .response-col_status").split()[0]


def test_a_file_goes_in_and_out_of_swagger_ui(browser, cluster, gateway, bucket, seed, tmp_path) -> None:
    """Authorize, PUT with a chosen file, then GET and its download link: equal bytes, and no request to any other host."""
    body = random.Random(seed).randbytes(2 * MIB + 3)
    chosen = tmp_path / "chosen.bin"
    chosen.write_bytes(body)
    open_docs(browser, cluster.gateway_url, cluster.root_key)

    put = try_out(browser, "put", FILE_ROUTE, bucket=bucket, key="from-browser.bin")
    browser.choose_file(f"{put} input[type=file]", chosen)
    assert execute(browser, put) == "201"
    browser.save_screenshot(tmp_path / "put.png")
    assert gateway.get(f"/v1/files/{bucket}/from-browser.bin").content == body

    get = try_out(browser, "get", FILE_ROUTE, bucket=bucket, key="from-browser.bin")
    assert execute(browser, get) == "200"
    browser.click(f"{get} .live-responses-table a[download]")
    browser.save_screenshot(tmp_path / "get.png")
    downloads = tmp_path / "downloads"
    block_until(
        lambda: any(path.stat().st_size == len(body) for path in downloads.iterdir() if path.suffix != ".crdownload"),
        "the download is complete",
        DEADLINE_S,
    )
    (downloaded,) = downloads.iterdir()
    assert downloaded.read_bytes() == body
    assert browser.requested_origins() == {cluster.gateway_url}


def test_a_form_of_swagger_ui_stores_a_file_under_its_own_name(browser, cluster, gateway, bucket, tmp_path) -> None:
    """The POST route, as a browser's form sends it."""
    chosen = tmp_path / "form.txt"
    chosen.write_bytes(b"from a form")
    open_docs(browser, cluster.gateway_url, cluster.root_key)
    post = try_out(browser, "post", FORM_ROUTE, bucket=bucket)
    browser.choose_file(f"{post} input[type=file]", chosen)
    assert execute(browser, post) == "201"
    assert gateway.get(f"/v1/files/{bucket}/form.txt").content == b"from a form"


def test_redoc_shows_the_surface_without_any_outside_request(browser, cluster, tmp_path) -> None:
    """The page renders from our own assets alone."""
    browser.open(f"{cluster.gateway_url}/redoc")
    assert browser.text(".api-content h1").startswith("Trivet")
    browser.save_screenshot(tmp_path / "redoc.png")
    assert browser.requested_origins() == {cluster.gateway_url}
