"""Buckets, keys, nodes, profiles and the doctor from the command line."""

from __future__ import annotations

import json
import os
import stat
import subprocess

import pytest

from tests.chance import random_bytes
from tests.free_ports import free_port_offset

pytestmark = pytest.mark.cluster


@pytest.fixture
def key(trivet, bucket):
    """A file with a key that may read and list the bucket, its id and its identity's."""
    made = trivet("keys", "create", "reader", "--allow", f"read,list@{bucket}", "--expires", "30d", "--json").document
    path = trivet.folder / "reader.key"
    path.write_text(made["line"])
    yield path, made["key"], made["identity"]
    trivet("keys", "delete", made["identity"], "--yes")


def test_buckets_are_made_set_up_and_deleted(trivet, bucket) -> None:
    name = f"{bucket}-2"
    assert trivet("mb", name, "--versioning", "--json").document["action"] == "made"
    trivet("mb", name)
    settings = trivet(
        "buckets", "settings", name, "--keep-versions-for", "30d", "--quota", "1GiB", "--quota-files", "9", "--json"
    ).document
    assert settings["versioning"] == "enabled"
    assert (settings["superseded_retention_s"], settings["quota_bytes"], settings["quota_files"]) == (
        2_592_000,
        1 << 30,
        9,
    )
    settings = trivet(
        "buckets", "settings", name, "--keep-versions-for", "forever", "--quota", "none", "--json"
    ).document
    assert (settings["superseded_retention_s"], settings["quota_bytes"], settings["quota_files"]) == (None, None, 9)
    (trivet.folder / "x").write_bytes(b"x")
    trivet("cp", "x", f"{name}/x")
    assert trivet("stat", name, "--json").document["used_bytes"] == 1
    assert "trivet rb --force" in trivet("rb", name, ends_with=4).err
    assert "--yes" in trivet("rb", name, "--force", ends_with=2).err
    trivet("rb", name, "--force", "--yes")
    assert f"trivet mb {name}" in trivet("ls", name, ends_with=3).err


def test_a_key_may_do_what_it_was_given(trivet, bucket, key) -> None:
    """And everything else ends with the code for that."""
    path, key_id, _ = key
    (trivet.folder / "x").write_bytes(b"x")
    trivet("cp", "x", f"{bucket}/x")
    assert trivet("--key", path, "cat", f"{bucket}/x").out == "x"
    assert "trivet keys whoami" in trivet("--key", path, "rm", f"{bucket}/x", ends_with=5).err
    me = trivet("--key", path, "keys", "whoami", "--json").document
    assert (me["name"], me["key"]) == ("reader", key_id)
    assert f"read,list@{bucket}/" in trivet("--key", path, "keys", "whoami").out


def test_a_key_is_replaced_without_a_gap(trivet, bucket, key) -> None:
    """The secret goes to standard output and nothing else does; the old one works until it is deleted."""
    path, key_id, identity = key
    rotated = trivet("keys", "rotate", key_id)
    (trivet.folder / "new.key").write_text(rotated.out)
    assert rotated.out.count("\n") == 1
    assert rotated.out.strip() not in rotated.err
    for file in (path, "new.key"):
        assert trivet("--key", file, "ls", bucket).out == ""
    listed = {row["key"] for row in trivet("keys", "list", "--json").rows if row["identity"] == identity}
    assert listed == {key_id, rotated.out.split(".")[0]}
    assert "secret" not in trivet("keys", "list", "--json").out
    trivet("keys", "delete", key_id, "--yes")
    assert trivet("--key", path, "ls", bucket, ends_with=5).err
    assert trivet("--key", "new.key", "ls", bucket).out == ""


def test_a_key_can_be_disabled_and_ends(trivet, bucket, key) -> None:
    path, key_id, _ = key
    trivet("keys", "disable", key_id)
    assert trivet("--key", path, "ls", bucket, ends_with=5).err
    trivet("keys", "enable", key_id)
    assert trivet("--key", path, "ls", bucket).out == ""
    assert trivet("keys", "expire", key_id, "never", "--json").document["expires"] is None
    assert (
        trivet("keys", "expire", key_id, "2031-05-01", "--json").document["expires"].startswith("2031-05-01T00:00:00")
    )


def test_an_identity_has_limits_that_all_of_its_keys_share(trivet, bucket) -> None:
    """What is not named stays; a quota that is used up is a refusal, and taken away it is none."""
    allowed = ("--allow", f"read,write,list@{bucket}")
    made = trivet("keys", "create", "bounded", *allowed, "--quota", "1KiB", "--quota-files", "9", "--json").document
    (trivet.folder / "bounded.key").write_text(made["line"])
    for name, size_bytes in (("small", 1000), ("large", 1000)):
        (trivet.folder / name).write_bytes(bytes(size_bytes))
    trivet("--key", "bounded.key", "cp", "small", f"{bucket}/small")
    assert "quota_exceeded" in trivet("--key", "bounded.key", "cp", "large", f"{bucket}/large", ends_with=4).err
    shown = trivet("keys", "limit", made["key"], "--quota", "none", "--bytes-per-s", "1MiB", "--json").document
    assert shown == {
        "name": "bounded",
        "identity": made["identity"],
        "used_bytes": 1000,
        "files": 1,
        "quota_bytes": None,
        "quota_files": 9,
        "requests_per_s": None,
        "bytes_per_s": 1 << 20,
    }
    assert trivet("keys", "limit", made["identity"], "--json").document == shown
    trivet("--key", "bounded.key", "cp", "large", f"{bucket}/large")
    assert "SIZE" in trivet("keys", "limit", made["key"], "--quota", "much", ends_with=2).err.upper()
    trivet("keys", "delete", made["identity"], "--yes")


def test_a_profile_says_which_store_it_is(trivet, monkeypatch) -> None:
    """With a key by the path of its file, whatever folder the program is called in; the file of profiles is private."""
    url, key = trivet.environment["TRIVET_URL"], trivet.environment["TRIVET_KEY"]
    for name in ("TRIVET_URL", "TRIVET_OPERATIONS_URL", "TRIVET_KEY"):
        monkeypatch.delenv(name)
    os.link(key, trivet.folder / "my.key")
    trivet("profile", "add", "home", "--url", url, "--key", "my.key")
    trivet("profile", "add", "other", "--url", "http://127.0.0.1:1")
    rows = {row["name"]: row for row in trivet("profile", "list", "--json").rows}
    assert (rows["home"]["is_default"], rows["other"]["is_default"]) == (True, False)
    assert rows["home"]["key"] == str(trivet.folder / "my.key")
    monkeypatch.chdir("/")
    assert trivet("ls").code == 0
    assert "cannot be reached" in trivet("ls", "--profile", "other", ends_with=6).err
    trivet("profile", "use", "other")
    trivet("ls", ends_with=6)
    trivet("profile", "remove", "other")
    assert trivet("ls", "--profile", "other", ends_with=2).err
    assert stat.S_IMODE((trivet.folder / "config.toml").stat().st_mode) == 0o600


def test_the_cluster_is_shown(trivet) -> None:
    status = trivet("cluster", "status", "--json").document
    assert status["is_well"] is True
    assert {node["id"] for node in trivet("cluster", "nodes", "--json").rows} == {
        node["id"] for node in status["nodes"]
    }
    plain = trivet("cluster", "status").lines
    assert [line[0] for line in plain] == ["cluster"] + ["node"] * 3 + ["member"] * 3


def test_a_drain_that_would_leave_too_few_nodes_is_refused(trivet) -> None:
    """Nothing has changed, and cancelling what does not drain says so."""
    assert trivet("cluster", "drain", "storage-9", ends_with=3).err
    assert "too_few_nodes" in trivet("cluster", "drain", "storage-3", ends_with=4).err
    assert trivet("cluster", "status", "--json").document["is_well"] is True


def test_a_node_may_join_and_is_taken_out_again(trivet) -> None:
    """Asking first: nobody can answer here."""
    assert trivet("cluster", "add", "storage-7", "--json").document == {"id": "storage-7", "created": True}
    assert "storage-7 may join" in trivet("doctor", ends_with=1).out
    assert "--yes" in trivet("cluster", "remove", "storage-7", ends_with=2).err
    assert trivet("cluster", "remove", "storage-7", "--yes", "--json").document["id"] == "storage-7"


def test_a_verify_reads_everything(trivet, bucket) -> None:
    (trivet.folder / "x").write_bytes(random_bytes(100_000))
    trivet("cp", "x", f"{bucket}/x")
    found = trivet("cluster", "verify", "--wait", "--json").document
    assert (found["state"], found["is_clean"]) == ("finished", True)
    assert found["checked_chunks"] >= 3
    shown = trivet("cluster", "verify", "--show").out
    assert "clean" in shown
    assert f"the log has {found['objects']['versions']} version" in shown


def findings(answer) -> dict[str, str]:
    document = answer.document
    assert document["exit_code"] == answer.code
    return {row["check"]: row["level"] for row in document["findings"]}


def test_the_doctor_finds_a_healthy_store(trivet) -> None:
    """A clock without time servers is worth a note."""
    found = findings(trivet("doctor", "--json"))
    assert set(found.values()) <= {"good", "note"}
    assert {"connection", "key", "consensus", "nodes", "replicas", "readiness"} <= set(found)


def test_the_doctor_finds_a_wrong_key(trivet, tmp_path) -> None:
    wrong = tmp_path / "wrong.key"
    wrong.write_text("TVAAAAAAAAAAAAAAAAAA." + "x" * 40)
    assert findings(trivet("doctor", "--json", "--key", wrong, ends_with=5))["key"] == "error"
    assert "Set --key or TRIVET_KEY" in trivet("doctor", "--key", wrong, ends_with=5).out


def test_the_doctor_finds_no_store_and_no_configuration(trivet) -> None:
    nowhere = f"http://127.0.0.1:{8080 + free_port_offset()}"
    assert findings(trivet("doctor", "--json", "--url", nowhere, ends_with=6)) == {"connection": "error"}
    assert findings(trivet("doctor", "--json", "--profile", "none", ends_with=2)) == {"configuration": "error"}


def test_a_shell_completes_commands_buckets_and_keys(trivet, bucket) -> None:
    """As bash calls it, with the words so far; a folder ends with its slash, and takes no space behind it."""
    (trivet.folder / "cat.jpg").touch()
    trivet("cp", "cat.jpg", f"{bucket}/2026/cat.jpg")
    script = trivet("completion", "bash").out

    def completed(*typed: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in typed)
        call = f"COMP_WORDS=({line}); COMP_CWORD={len(typed) - 1}; _trivet_completion {trivet.program}"
        shell = f"{script}\n{call}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        return subprocess.run(
            ["bash", "-c", shell], capture_output=True, text=True, timeout=30, check=True
        ).stdout.split()

    assert completed("trivet", "vers") == ["versions"]
    assert completed("trivet", "cat", bucket[:-1]) == [f"{bucket}/"]
    assert completed("trivet", "cat", f"{bucket}/2") == [f"{bucket}/2026/"]
    assert completed("trivet", "cat", f"//{bucket}/2026/c") == [f"//{bucket}/2026/cat.jpg"], "behind trivet:"
    assert completed("trivet", "cluster", "drain", "storage-") == ["storage-1", "storage-2", "storage-3"]
    assert "compopt -o nospace" in script
    for shell in ("zsh", "fish"):
        assert "_TRIVET_COMPLETE" in trivet("completion", shell).out


def test_json_errors_are_documents(trivet, bucket) -> None:
    answer = trivet("cat", f"{bucket}/nothing", "--json", ends_with=3)
    error = json.loads(answer.err)["error"]
    assert (error["exit_code"], error["problem"]["code"]) == (3, "file_not_found")
