"""No secret leaves where it belongs: logs, answers, metrics, arguments, data folders and backups are searched for all of them.

The cluster logs as much as it can, and is asked rightly and wrongly. What a search finds at all is held by
tests/unit/local_cluster/test_secret_search.py.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from local_cluster.cluster import Cluster
from local_cluster.plan import Kind
from shared.access_keys import SECRET_MIN, bearer_of, draw_key_id, draw_secret
from shared.links import SIGNATURE
from tests.free_ports import free_port_offset
from tests.integration.conftest import OVERRIDES
from tests.secret_search import Place, files_below, found_secrets, process_places

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

FILE = "/v1/files/default/searched"


@dataclass
class Scene:
    """A cluster that was used, the secrets that it knows, and the answers that it gave."""

    cluster: Cluster
    secrets: dict[str, str] = field(default_factory=dict)
    answers: list[Place] = field(default_factory=list)

    def ask(self, method: str, url: str, **request: Any) -> httpx.Response:
        """A request whose answer is searched: what it says, and what its headers say."""
        answer = httpx.request(method, url, timeout=30, trust_env=False, **request)
        self.answers.append((f"answer {answer.status_code} to {method} {urlsplit(url).path}", answer.content))
        self.answers.append((f"headers of {method} {urlsplit(url).path}", repr(answer.headers.raw).encode()))
        return answer

    def keep(self) -> Iterator[Path]:
        """Where secrets are kept on purpose."""
        yield self.cluster.layout.secrets
        yield self.cluster.layout.curl_config


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    overrides = {**OVERRIDES, "*": {"TRIVET_LOG_LEVEL": "debug"}}
    cluster = Cluster(tmp_path_factory.mktemp("searched"), free_port_offset(), overrides)
    try:
        asyncio.run(cluster.start())
        found = Scene(cluster)
        for path in sorted(cluster.layout.secrets.iterdir()):
            if path.suffix != ".conf" and path.name != "cluster-id":
                # A file of peer keys has the names of roles beside each key.
                words = [word.rpartition(".")[2] for word in path.read_text().split()]
                for number, word in enumerate(word for word in words if len(word) >= SECRET_MIN):
                    found.secrets[f"{path.name}, {number + 1}"] = word
        use_keys(found)
        use_links(found)
        use_what_is_wrong(found)
        yield found
    finally:
        cluster.kill_all()


def use_keys(scene: Scene) -> None:
    """An identity with a key that a gateway drew and one that was brought along; both work."""
    operations, bearer = scene.cluster.operations_url("gateway-1"), scene.cluster.bearer
    body = {"name": "searched", "scopes": [{"actions": ["read", "write"], "bucket": "default"}]}
    identity = httpx.post(f"{operations}/v1/identities", json=body, headers=bearer, timeout=30, trust_env=False)
    assert identity.status_code == 201, identity.text
    keys = f"{operations}/v1/identities/{identity.json()['id']}/keys"
    brought = {"id": draw_key_id(), "secret": draw_secret()}
    for name, asked in (("drawn", {}), ("brought along", brought)):
        # The one answer that has the secret.
        created = httpx.post(keys, json=asked, headers=bearer, timeout=30, trust_env=False)
        assert created.status_code == 201, created.text
        scene.secrets[f"a key that was {name}"] = created.json()["secret"]
        own = {"authorization": bearer_of(f"{created.json()['id']}.{created.json()['secret']}")}
        assert scene.ask("PUT", f"{scene.cluster.gateway_url}{FILE}", content=b"x", headers=own).is_success
    for path in ("/v1/identities", f"/v1/identities/{identity.json()['id']}", f"/v1/keys/{created.json()['id']}"):
        assert scene.ask("GET", f"{operations}{path}", headers=bearer).status_code == 200


def use_links(scene: Scene) -> None:
    """Links that work, that are changed, and that are asked for what is not there: their signatures open files."""
    url, bearer = scene.cluster.gateway_url, scene.cluster.bearer
    asked = {"method": "GET", "bucket": "default", "key": "searched", "expires_in_s": 600}
    made = httpx.post(f"{url}/v1/links", json=asked, headers=bearer, timeout=30, trust_env=False)
    assert made.is_success, made.text
    link = url + made.json()["path"]
    scene.secrets["signature of a link"] = parse_qs(urlsplit(link).query)[SIGNATURE][0]
    assert scene.ask("GET", link).content == b"x"
    for method, wrong in (("PUT", link), ("GET", f"{link}&version=1"), ("GET", link.replace("searched", "absent"))):
        assert scene.ask(method, wrong).status_code in {400, 401, 403}


def use_what_is_wrong(scene: Scene) -> None:
    """Right secrets in wrong places: cut, repeated, with another id, in the query, in the name of a file."""
    url, operations, key = scene.cluster.gateway_url, scene.cluster.operations_url("gateway-1"), scene.cluster.root_key
    key_id, _, secret = key.partition(".")
    for authorization in (
        f"Bearer {key_id}.{secret}x",
        f"Bearer TV{'X' * 18}.{secret}",
        f"Basic {key}",
        f"Bearer {secret}",
    ):
        for base, path in ((url, FILE), (operations, "/v1/cluster")):
            assert scene.ask("GET", base + path, headers={"authorization": authorization}).status_code in {400, 401}
    twice = [("authorization", f"Bearer {key}"), ("authorization", f"Bearer {key}")]
    assert scene.ask("GET", f"{url}{FILE}", headers=twice).status_code == 400
    assert scene.ask("GET", f"{url}/v1/time").status_code == 401
    for base in (url, operations):
        for path in ("/openapi.json", "/healthz", "/readyz"):
            scene.ask("GET", base + path)


def test_no_secret_is_in_a_log_or_a_data_folder(scene: Scene) -> None:
    """Of any process: Raft logs and tables of members, catalogs, Redis' files, what was written about processes."""
    places = list(files_below(scene.cluster.layout.root, without=scene.keep()))
    names = {Path(where).name for where, _ in places}
    assert {"metadata.sqlite", "raft_log.sqlite", "catalog.sqlite", "gateway-1.log", "consensus-1.log"} <= names
    assert found_secrets(scene.secrets, places) == []


def test_no_secret_is_in_a_backup(scene: Scene, tmp_path: Path) -> None:
    """Of the folder of a member that was stopped; there are the sealed secrets in it, or nothing was looked for."""
    victim, folder = "consensus-3", tmp_path / "backup"
    asyncio.run(scene.cluster.stop([victim]))
    try:
        source = scene.cluster.layout.data_dir(victim)
        command = [sys.executable, "-m", "services.consensus.rescue", "backup", "--to", folder, "--from", source]
        done = subprocess.run([*command, "--without-seal"], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    finally:
        asyncio.run(scene.cluster.start([victim]))
    places = list(files_below(folder))
    assert any(scene.cluster.root_key.partition(".")[0].encode() in content for _, content in places)
    assert found_secrets(scene.secrets, places) == []


def test_no_secret_is_in_an_answer(scene: Scene) -> None:
    """Right and wrong requests of both listeners, metrics of every process, the descriptions of the API."""
    for spec in scene.cluster.plan.processes:
        if spec.kind is not Kind.REDIS:
            scene.ask("GET", f"{spec.operations_url}/metrics")
            scene.ask("GET", f"{spec.url}/openapi.json")
    statuses = {where.split()[1] for where, _ in scene.answers if where.startswith("answer")}
    assert {"200", "401"} <= statuses
    assert found_secrets(scene.secrets, scene.answers) == []


def test_no_secret_is_among_arguments_or_in_an_environment(scene: Scene) -> None:
    """Of the processes as they run."""
    places = list(process_places(scene.cluster))
    assert len(places) == 2 * len(scene.cluster.names())
    assert found_secrets(scene.secrets, places) == []


@pytest.mark.parametrize("where", ["log", "data"])
def test_the_search_finds_what_is_planted(scene: Scene, where: str) -> None:
    """In a log, and in a folder of data."""
    folder = scene.cluster.layout.root / where
    planted = folder / "planted"
    for name, secret in scene.secrets.items():
        planted.write_text(f"the caller showed {secret}\n")
        found = found_secrets({name: secret}, files_below(scene.cluster.layout.root, without=scene.keep()))
        assert found == [f"{name} in {where}/planted"]
    planted.unlink()
