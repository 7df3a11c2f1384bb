"""Lists of S3 against a model: 10,000 random keys, under random prefixes, delimiters and page sizes, in all three forms."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote

from services.consensus.metadata.entries import CommittedEntry, encode_proposal
from services.gateway.s3.version_ids import VersionIds
from shared.contracts.files import Durability, FileContent
from shared.contracts.metadata import CreateBucket, DeleteFile, Proposal, PublishFile
from shared.contracts.objects import BucketSettings, PutBucketSettings
from tests.unit.gateway.access.scene import REALM, Scene
from tests.unit.gateway.s3.asking import S3Client

SEED = 20_261_129
BUCKET = "photos"
KEYS = 10_000
CASES = 100
VERSION_CASES = 60
PAGES_MAX = 25
"""Of one list: the rest of a long one in small pages adds nothing."""

PIECES = (
    *("a", "b", "c", "0", "z", "photos", "2026", "Ä", "é", "\U0001f600", "\U0010ffff", "\u4e2d"),
    *(" ", "+", "%", "%2F", "&", "<", ">", '"', "'", "=", "?", "#", "\\", ".", "..", "~", "*"),
    *("\x01", "\x0b", "\x1f", "\x7f", "\x85", "\t", "\n", "\r", "\ufffe", "\uffff"),
)
DELIMITERS = (
    None,
    None,
    "/",
    "/",
    "/",
    "//",
    "a",
    "photos",
    "a/",
    "/a",
    "\U0001f600",
    "\x01",
    "\x85",
    "%",
    "\n",
    "zzzz",
)
LIMITS = (1, 2, 3, 7, 50, 333, 1000, 5000)
EMPTY = FileContent(size_bytes=0, chunk_size_bytes=4096, chunk_digests=b"", digest="0" * 64)

Item = tuple[str, str]
"""`key` or `prefix`, and its name."""


def random_keys(chance: random.Random, count: int) -> list[str]:
    """Distinct keys, many of which begin alike, in the order of their bytes."""
    folders = [""]
    keys: set[str] = set()
    while len(keys) < count:
        key = chance.choice(folders) + "".join(chance.choices(PIECES, k=chance.randint(0, 3)))
        if chance.random() < 0.3 and len(folders) < 400:
            folders.append(f"{key}{chance.choice(('/', '/', '//', ''))}")
            key = chance.choice((key, folders[-1]))
        if 0 < len(key.encode()) <= 1024:
            keys.add(key)
    return sorted(keys, key=str.encode)


def common_prefix(key: str, prefix: str, delimiter: str | None) -> str | None:
    at = -1 if delimiter is None else key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter or "")]


def expected(keys: Sequence[str], prefix: str, delimiter: str | None, after: str = "") -> list[Item]:
    """What a list shows, as S3 says: names behind `after`, and each common prefix that is behind it once."""
    items: dict[Item, None] = {}
    behind = after.encode()
    for key in keys:
        if key.startswith(prefix):
            common = common_prefix(key, prefix, delimiter)
            item = ("key", key) if common is None else ("prefix", common)
            if item[1].encode() > behind:
                items[item] = None
    return list(items)


_REFERENCE = re.compile("&(?:#x([0-9a-fA-F]+)|#([0-9]+)|(lt|gt|amp|quot|apos));")
_NAMED = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}


@dataclass(frozen=True)
class Page:
    """A document, whose names are decoded. It is taken apart here: no parser of XML takes all that S3 sends."""

    text: str
    is_encoded: bool

    def name(self, text: str) -> str:
        """A key, prefix or marker."""
        plain = _REFERENCE.sub(
            lambda match: _NAMED[match[3]] if match[3] else chr(int(match[1], 16) if match[1] else int(match[2])),
            text,
        )
        return unquote(plain) if self.is_encoded else plain

    def value(self, element: str) -> str | None:
        """What of the page itself is named so."""
        match = re.search(f"<{element}>(.*?)</{element}>", self._head, re.DOTALL)
        return None if match is None else self.name(match[1])

    def is_truncated(self) -> bool:
        return {"true": True, "false": False}[self.value("IsTruncated") or ""]

    @cached_property
    def _head(self) -> str:
        return re.sub("<(Contents|CommonPrefixes|Version|DeleteMarker)>.*</\\1>", "", self.text, flags=re.DOTALL)

    def items(self) -> list[Item]:
        """Keys and common prefixes, in the order of all of them."""
        keys = re.findall("<Contents><Key>(.*?)</Key>", self.text, re.DOTALL)
        prefixes = re.findall("<CommonPrefixes><Prefix>(.*?)</Prefix>", self.text, re.DOTALL)
        found = [("key", self.name(key)) for key in keys] + [("prefix", self.name(each)) for each in prefixes]
        return sorted(found, key=lambda item: item[1].encode())

    def versions(self) -> list[tuple[str, str, str, bool]]:
        """Kind, key, version id, and whether it is the latest; of common prefixes the name alone."""
        rows = re.findall(
            "<(Version|DeleteMarker)><Key>(.*?)</Key><VersionId>(.*?)</VersionId><IsLatest>(.*?)</IsLatest>",
            self.text,
            re.DOTALL,
        )
        found = [(kind, self.name(key), version, latest == "true") for kind, key, version, latest in rows]
        prefixes = re.findall("<CommonPrefixes><Prefix>(.*?)</Prefix>", self.text, re.DOTALL)
        found += [("prefix", self.name(each), "", False) for each in prefixes]
        return sorted(found, key=lambda row: row[1].encode())  # stable: the versions of a key stay as they came


class Case:
    """One list, and how it is asked for."""

    def __init__(self, chance: random.Random, keys: Sequence[str]) -> None:
        key = chance.choice(keys)
        self.prefix = chance.choice(("", "", key[: chance.randint(0, len(key))], key, f"{key}?"))
        self.delimiter = chance.choice(DELIMITERS)
        self.limit = chance.choice(LIMITS)
        self.is_encoded = chance.random() < 0.5
        self.after = chance.choice(("", "", chance.choice(keys), key[: chance.randint(0, len(key))], f"{key}\x01"))

    @property
    def page_size(self) -> int:
        return min(self.limit, 1000)

    def query(self, more: Mapping[str, str | None]) -> dict[str, str]:
        values: dict[str, str | None] = {
            "prefix": self.prefix or None,
            "delimiter": self.delimiter,
            "max-keys": str(self.limit),
            "encoding-type": "url" if self.is_encoded else None,
            **more,
        }
        return {name: value for name, value in values.items() if value is not None}

    def __str__(self) -> str:
        return f"seed {SEED}: {vars(self)}"


async def page_of(s3: S3Client, case: Case, more: Mapping[str, str | None]) -> Page:
    answer = await s3("GET", BUCKET, query=case.query(more))
    assert answer.status == 200, (str(case), answer.body)
    return Page(answer.body.decode("utf-8", "surrogatepass"), case.is_encoded)


async def walk(s3: S3Client, case: Case, form: int) -> list[list[Item]]:
    """The pages of a list, the first ones if they are many."""
    pages: list[list[Item]] = []
    marker, token = case.after or None, None
    for _ in range(PAGES_MAX):
        if form == 1:
            page = await page_of(s3, case, {"marker": marker})
        else:
            place = {"start-after": case.after or None, "continuation-token": token}
            page = await page_of(s3, case, {"list-type": "2", **place})
            assert page.value("KeyCount") == str(len(page.items())), str(case)
        pages.append(page.items())
        if not page.is_truncated():
            break
        marker, token = page.value("NextMarker"), page.value("NextContinuationToken")
        if form == 1:
            assert (marker is not None) == (case.delimiter is not None), str(case)
            marker = pages[-1][-1][1] if marker is None else marker
        else:
            assert token, str(case)
    return pages


async def test_objects_are_listed_as_the_model_says(scene: Scene, s3: S3Client) -> None:
    """Each key and each common prefix once, in the order of their bytes, in full pages, by markers and by tokens."""
    chance = random.Random(SEED)
    keys = random_keys(chance, KEYS)
    await fill(scene, keys)
    for form in itertools.islice(itertools.cycle((1, 2)), CASES):
        case = Case(chance, keys)
        items = expected(keys, case.prefix, case.delimiter, case.after)
        pages = await walk(s3, case, form)
        wanted = [items[at : at + case.page_size] for at in range(0, len(items), case.page_size)] or [[]]
        assert pages == wanted[:PAGES_MAX], f"{case} form {form}"


# --- versions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A version or a marker."""

    version: int
    is_marker: bool
    is_null: bool


class Versions:
    """A bucket with versions: what is done to it, and what is there then, by key, the latest first."""

    def __init__(self, scene: Scene, incarnation: int) -> None:
        self._scene = scene
        self._incarnation = incarnation
        self._ids = VersionIds(REALM)
        self.versioning = "off"
        self.keys: dict[str, list[Kept]] = {}

    async def set(self, versioning: str) -> None:
        settings = BucketSettings.model_validate({"versioning": versioning})
        stamp = self._scene.clock.stamp()
        await self._scene.metadata.propose(PutBucketSettings(bucket=BUCKET, settings=settings, stamp=stamp))
        self.versioning = versioning

    async def put(self, key: str) -> None:
        made = await self._scene.metadata.propose(publish(self._scene, self._incarnation, key))
        self._add(key, Kept(made.result.version.version, is_marker=False, is_null=self.versioning != "enabled"))

    async def delete(self, key: str) -> None:
        command = DeleteFile(bucket=BUCKET, key=key, stamp=self._scene.clock.stamp())
        made = await self._scene.metadata.propose(command)
        if self.versioning != "off":
            self._add(key, Kept(made.result.version, is_marker=True, is_null=self.versioning != "enabled"))

    async def remove(self, key: str, kept: Kept) -> None:
        command = DeleteFile(bucket=BUCKET, key=key, version=kept.version, stamp=self._scene.clock.stamp())
        await self._scene.metadata.propose(command)
        self.keys[key].remove(kept)

    def _add(self, key: str, kept: Kept) -> None:
        others = self.keys.get(key, [])
        if kept.is_null:
            others = [each for each in others if not each.is_null]
        self.keys[key] = [kept, *others]

    def expected(self, case: Case) -> list[tuple[str, str, str, bool]]:
        rows: dict[tuple[str, str, str, bool], None] = {}
        for key in sorted((key for key, kept in self.keys.items() if kept), key=str.encode):
            if not key.startswith(case.prefix):
                continue
            common = common_prefix(key, case.prefix, case.delimiter)
            if common is not None:
                rows["prefix", common, "", False] = None
                continue
            for each in self.keys[key]:
                kind = "DeleteMarker" if each.is_marker else "Version"
                version_id = self._ids.seal(each.version, is_null=each.is_null)
                rows[kind, key, version_id, each is self.keys[key][0]] = None
        return [row for row in rows if row[1].encode() > case.after.encode()]


async def test_versions_are_listed_as_the_model_says(scene: Scene, s3: S3Client) -> None:
    """Those of a key from the latest on, markers among them, each once over all pages."""
    chance = random.Random(SEED)
    keys = random_keys(chance, 150)
    versions = Versions(scene, await make_bucket(scene))
    for versioning in ("off", "enabled", "suspended", "enabled"):
        if versioning != "off":
            await versions.set(versioning)
        for _ in range(250):
            key = chance.choice(keys)
            kept = versions.keys.get(key, [])
            if kept and chance.random() < 0.15:
                await versions.remove(key, chance.choice(kept))
            elif kept and not kept[0].is_marker and versioning != "off" and chance.random() < 0.25:
                await versions.delete(key)
            else:
                await versions.put(key)
    for _ in range(VERSION_CASES):
        case = Case(chance, keys)
        rows = versions.expected(case)
        wanted = [rows[at : at + case.page_size] for at in range(0, len(rows), case.page_size)] or [[]]
        pages = [page async for page in version_pages(s3, case)]
        assert pages == wanted[:PAGES_MAX], str(case)


async def version_pages(s3: S3Client, case: Case) -> AsyncIterator[list[tuple[str, str, str, bool]]]:
    """The first pages of a list of versions."""
    key_marker, version_marker = case.after or None, None
    for _ in range(PAGES_MAX):
        place = {"key-marker": key_marker, "version-id-marker": version_marker}
        page = await page_of(s3, case, {"versions": "", **place})
        yield page.versions()
        if not page.is_truncated():
            return
        key_marker, version_marker = page.value("NextKeyMarker"), page.value("NextVersionIdMarker")
        assert key_marker is not None, str(case)


# --- filling --------------------------------------------------------------------------------------------------------


def publish(scene: Scene, incarnation: int, key: str) -> PublishFile:
    return PublishFile(
        bucket=BUCKET,
        incarnation=incarnation,
        key=key,
        content=EMPTY,
        content_type="text/plain",
        user_metadata={},
        etag="e" * 32,
        start_index=1,
        epoch=scene.metadata.store.node_map().epoch,
        durability=Durability(target=3, acknowledged=3, nodes=[]),
        stamp=scene.clock.stamp(),
    )


async def make_bucket(scene: Scene) -> int:
    """Its incarnation."""
    return (await scene.metadata.propose(CreateBucket(bucket=BUCKET, stamp=scene.clock.stamp()))).log_index


async def fill(scene: Scene, keys: Sequence[str]) -> None:
    """An object under each of `keys`."""
    incarnation, store = await make_bucket(scene), scene.metadata.store
    mixed = random.Random(SEED).sample(keys, len(keys))
    for at in range(0, len(mixed), 500):
        first = store.last_applied + 1
        results = store.apply_batch(
            [
                CommittedEntry(
                    first + number,
                    1,
                    encode_proposal(
                        Proposal(request_id=f"fill{at + number}", command=publish(scene, incarnation, key))
                    ),
                )
                for number, key in enumerate(mixed[at : at + 500])
            ]
        )
        assert [result.problem for result in results if result is not None and result.problem is not None] == []
