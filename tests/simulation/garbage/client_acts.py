"""What clients begin in a schedule, beside plain uploads and deletions: uploads by parts, versions, copies, tags, slow readers.

Each draws what it asks for from what clients were told, as somebody would who has listed it a while ago. By the time that the
log hears of it, it may not be there any more: then it is refused, and that is counted, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.contracts.metadata import CreateBucket, DeleteBucket, DeleteFile
from shared.contracts.objects import BucketSettings, CopyFile, DeleteFiles, FileToDelete, PutBucketSettings, SetTags
from shared.contracts.uploads import AbortUpload, BeginUpload, CopyPart
from tests.simulation.garbage.gateway import UploadHandle
from tests.simulation.garbage.log import BUCKETS, KEPT_BUCKET, STAMP
from tests.simulation.garbage.objects import HALF_BYTES, Version
from tests.simulation.garbage.reader import Reader

if TYPE_CHECKING:
    from tests.simulation.garbage.world import World

_NUMBERS: Final = (1, 2, 3)
_UPLOADS: Final = 5
"""A client goes on with one of the last so many uploads; seldom with one that is closed by now."""


# --- readers --------------------------------------------------------------------------------------------------------


def read(world: World) -> None:
    """The current version, or another one."""
    version = _a_version(world, prefers_current=True) if world.chance.random() < 0.8 else None
    name, number = (world.draw_file(), None) if version is None else (version.name, version.number)
    if version is not None and version.superseded_s is None and world.chance.random() < 0.8:
        number = None
    gateway, is_slow = world.draw_gateway(), world.chance.random() < 0.4
    world.counts["slow readers"] += is_slow
    world.kernel.spawn(gateway.party, Reader(world, gateway, name, number, is_slow=is_slow).read())


# --- uploads by parts -----------------------------------------------------------------------------------------------


def begin_upload(world: World) -> None:
    """An upload of parts, which may expire soon."""
    bucket, key = world.draw_file()
    nonce = f"{world.draw_name():032x}"
    lifetime_s, is_internal = world.chance.choice([60, 300, 600]), world.chance.random() < 0.5
    world.ask(
        BeginUpload(
            bucket=bucket,
            key=key,
            nonce=nonce,
            content_type="",
            lifetime_s=lifetime_s,
            is_internal=is_internal,
            stamp=STAMP,
        )
    )


def put_part(world: World) -> None:
    """A part, or another one in its place."""
    if (handle := _an_upload(world)) is not None:
        gateway, number, keeps_bytes = world.draw_gateway(), _number(world), world.chance.random() < 0.5
        steps = gateway.put_part(handle, number, world.draw_chunks(), keeps_bytes=keeps_bytes)
        world.kernel.spawn(gateway.party, steps)


def copy_part(world: World) -> None:
    """A part that is a range of a file, of one that was made of parts rather than of another."""
    handle, source = _an_upload(world), _a_version(world)
    composed = [version for version in _versions(world) if version.is_composed]
    if composed and world.chance.random() < 0.6:
        source = world.chance.choice(composed)
    if handle is None or source is None:
        return
    halves = len(source.content)
    first = world.chance.randrange(halves)
    end = world.chance.randrange(first + 1, halves + 1)
    bucket, key = source.name
    world.ask(
        CopyPart(
            upload=handle.upload,
            nonce=handle.nonce,
            number=_number(world),
            source_bucket=bucket,
            source_key=key,
            source_version=source.number,
            range_start=first * HALF_BYTES,
            range_end=end * HALF_BYTES,
            stamp=STAMP,
        )
    )


def complete_upload(world: World) -> None:
    """Make a file of all parts, or of some."""
    if (handle := _an_upload(world)) is not None:
        gateway = world.draw_gateway()
        world.kernel.spawn(gateway.party, gateway.complete(handle, is_whole=world.chance.random() < 0.7))


def abort_upload(world: World) -> None:
    """Give one up."""
    if (handle := _an_upload(world)) is not None:
        world.ask(AbortUpload(upload=handle.upload, nonce=handle.nonce, stamp=STAMP))


def _an_upload(world: World) -> UploadHandle | None:
    uploads = list(world.oracle.objects.uploads.values())[-_UPLOADS:]
    if world.chance.random() < 0.9:
        uploads = [upload for upload in uploads if upload.is_open]
    if not uploads:
        return None
    upload = world.chance.choice(uploads)
    return UploadHandle(upload.index, upload.nonce)


def _number(world: World) -> int:
    return world.chance.choice(_NUMBERS)


# --- versions, copies, tags -----------------------------------------------------------------------------------------


def set_versioning(world: World) -> None:
    """A bucket keeps versions, keeps no more of them, or keeps them for another time."""
    settings = BucketSettings(
        versioning=world.chance.choice(["enabled", "enabled", "suspended"]),
        superseded_retention_s=world.chance.choice([None, None, 0, 30, 120]),
    )
    world.counts[settings.versioning] += 1
    world.ask(PutBucketSettings(bucket=KEPT_BUCKET, settings=settings, stamp=STAMP))


def delete_version(world: World) -> None:
    """One version or marker, for good; the current one as often as all others."""
    version = _a_version(world, with_markers=True, prefers_current=True)
    if version is not None:
        bucket, key = version.name
        world.ask(DeleteFile(bucket=bucket, key=key, version=version.known_as, stamp=STAMP))


def delete_many(world: World) -> None:
    """Files and versions of one bucket in one entry."""
    bucket, _ = world.draw_file()
    versions = [version for version in _versions(world, with_markers=True) if version.name[0] == bucket]
    if world.chance.random() < 0.3:
        versions = [version for version in versions if version.superseded_s is None]
    files = [
        FileToDelete(key=version.name[1], version=world.chance.choice([None, version.number, version.known_as]))
        for version in versions
    ]
    if files:
        some = world.chance.sample(files, min(len(files), world.chance.randrange(1, 5)))
        world.ask(DeleteFiles(bucket=bucket, files=some, stamp=STAMP))


def copy(world: World) -> None:
    """A version under another key, of another bucket perhaps."""
    if (source := _a_version(world)) is not None:
        _copy(world, source, world.draw_file())


def move(world: World) -> None:
    """Only a current version is moved."""
    if (source := _a_version(world, prefers_current=True)) is not None:
        world.counts["moves"] += 1
        _copy(world, source, world.draw_file(), is_move=True)


def restore(world: World) -> None:
    """An older version is current again, under its own key."""
    if (source := _a_version(world)) is not None:
        world.counts["restores"] += 1
        _copy(world, source, source.name)


def _copy(world: World, source: Version, name: tuple[str, str], *, is_move: bool = False) -> None:
    world.ask(
        CopyFile(
            bucket=name[0],
            key=name[1],
            source_bucket=source.name[0],
            source_key=source.name[1],
            source_version=source.number,
            tags=world.chance.choice([None, None, {}, {"copied": str(world.draw_name())}]),
            is_move=is_move,
            stamp=STAMP,
        )
    )


def tag(world: World) -> None:
    """Tags change beside their version."""
    if (version := _a_version(world, prefers_current=True)) is not None:
        bucket, key = version.name
        number = world.chance.choice([None, version.number])
        tags = {"tagged": str(world.draw_name())} if world.chance.random() < 0.8 else None
        world.ask(SetTags(bucket=bucket, key=key, version=number, tags=tags, stamp=STAMP))


def _versions(world: World, *, with_markers: bool = False) -> list[Version]:
    return [version for version in world.oracle.objects.all_versions() if with_markers or not version.is_marker]


def _a_version(world: World, *, with_markers: bool = False, prefers_current: bool = False) -> Version | None:
    versions = _versions(world, with_markers=with_markers)
    if prefers_current and world.chance.random() < 0.5:
        versions = [version for version in versions if version.superseded_s is None]
    return world.chance.choice(versions) if versions else None


# --- buckets --------------------------------------------------------------------------------------------------------


def make_bucket_again(world: World) -> None:
    """A bucket is emptied, deleted and created again, while uploads into it are under way."""
    bucket = world.chance.choice(BUCKETS)
    objects = world.oracle.objects
    for upload in list(objects.open_uploads()):
        if upload.name[0] == bucket and not upload.is_internal:
            world.propose(AbortUpload(upload=upload.index, nonce=upload.nonce, stamp=STAMP))
    for key in list(objects.buckets[bucket].keys):
        for version in reversed(objects.versions_of((bucket, key))):
            world.propose(DeleteFile(bucket=bucket, key=key, version=version.number, stamp=STAMP))
    world.propose(DeleteBucket(bucket=bucket, stamp=STAMP))
    world.propose(CreateBucket(bucket=bucket, stamp=STAMP))
