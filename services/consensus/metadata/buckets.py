"""What commands change in buckets. Every check comes before the first write."""

from __future__ import annotations

from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.rows import BucketRow
from shared.contracts.calls import NoResult
from shared.contracts.metadata import CreateBucket, CreatedBucket, DeleteBucket
from shared.contracts.names import DEFAULT_BUCKET, check_bucket_name
from shared.errors import BucketNotEmptyError, BucketProtectedError, TooManyBucketsError


def create_bucket(context: ApplyContext, command: CreateBucket) -> CreatedBucket:
    """Make it, unless it exists. Raises InvalidNameError, TooManyBucketsError."""
    name = check_bucket_name(command.bucket)
    if (bucket := context.bucket(name)) is not None:
        return CreatedBucket(created=False, incarnation=bucket.incarnation)
    if command.limit is not None and context.tables.bucket_count() >= command.limit:
        raise TooManyBucketsError("There are as many buckets as there may be; delete one first.", limit=command.limit)
    insert_bucket(context, name)
    return CreatedBucket(created=True, incarnation=context.index)


def delete_bucket(context: ApplyContext, command: DeleteBucket) -> NoResult:
    """Take an empty one away. Raises BucketProtectedError, BucketNotFoundError, BucketNotEmptyError."""
    if command.bucket == DEFAULT_BUCKET:
        raise BucketProtectedError(f"The bucket {DEFAULT_BUCKET!r} always exists.", bucket=DEFAULT_BUCKET)
    bucket = context.existing_bucket(command.bucket)
    if context.tables.has_files(bucket.incarnation):
        raise BucketNotEmptyError("The bucket still holds files; delete them first.", bucket=bucket.name)
    context.tables.end_bucket(bucket, context.index)
    context.buckets[bucket.name] = None
    return NoResult()


def insert_bucket(context: ApplyContext, name: str) -> None:
    """A bucket of this entry."""
    context.buckets[name] = bucket = BucketRow(context.index, name, context.stamp.approximate_ns)
    context.tables.insert_bucket(bucket)
