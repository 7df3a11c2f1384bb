"""pyarrow: the C++ SDK of AWS, as Parquet, Arrow datasets and Ray use it."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import dataset
from pyarrow import fs as arrow_fs

from shared.units import MIB

pytestmark = pytest.mark.cluster


def open_files(server) -> arrow_fs.S3FileSystem:
    return arrow_fs.S3FileSystem(
        access_key=server.key,
        secret_key=server.secret,
        region=server.region,
        endpoint_override=server.address,
        scheme="http",
        request_timeout=30,
        connect_timeout=10,
        retry_strategy=arrow_fs.AwsStandardS3RetryStrategy(max_attempts=server.attempts),
    )


@pytest.fixture
def files(s3) -> arrow_fs.S3FileSystem:
    return open_files(s3)


def test_files_are_written_read_in_part_moved_and_removed(files, bucket, seed) -> None:
    """A file system's calls; a folder is a marker that ends with a slash."""
    body = random.Random(seed).randbytes(64 * MIB)
    files.create_dir(f"{bucket}/dir")
    with files.open_output_stream(f"{bucket}/dir/large", metadata={"Content-Type": "text/x-own"}) as stream:
        for start in range(0, len(body), 3 * MIB):
            stream.write(body[start : start + 3 * MIB])
    with files.open_input_file(f"{bucket}/dir/large") as file:
        assert file.size() == len(body)
        assert file.read_at(100, 10 * MIB - 50) == body[10 * MIB - 50 : 10 * MIB + 50]
        assert file.metadata()["Content-Type"] == b"text/x-own"
        assert file.read() == body
    files.copy_file(f"{bucket}/dir/large", f"{bucket}/other")
    files.move(f"{bucket}/other", f"{bucket}/dir/moved")
    shown = files.get_file_info(arrow_fs.FileSelector(bucket, recursive=True))
    assert {(info.path, info.type.name) for info in shown} == {
        (f"{bucket}/dir", "Directory"),
        (f"{bucket}/dir/large", "File"),
        (f"{bucket}/dir/moved", "File"),
    }
    files.delete_dir_contents(bucket + "/dir")
    assert [info.path for info in files.get_file_info(arrow_fs.FileSelector(bucket, recursive=True))] == [
        f"{bucket}/dir"
    ]
    assert files.get_file_info(f"{bucket}/dir/large").type is arrow_fs.FileType.NotFound


def test_a_dataset_in_partitions_is_written_and_filtered(files, bucket) -> None:
    """Keys with `=` in them, footers read by ranges."""
    table = pa.table({"year": [2024, 2024, 2025], "n": [1, 2, 3]})
    pq.write_to_dataset(table, f"{bucket}/sales", partition_cols=["year"], filesystem=files)
    found = dataset.dataset(f"{bucket}/sales", filesystem=files, partitioning="hive")
    assert found.to_table(filter=dataset.field("year") == 2024)["n"].to_pylist() == [1, 2]


def test_a_wrong_key_and_a_wrong_bucket_are_errors(s3, files, bucket) -> None:
    """And nothing is stored."""
    with pytest.raises(OSError, match=r"ACCESS_DENIED|SIGNATURE"):
        open_files(s3.with_wrong_secret).get_file_info(arrow_fs.FileSelector(bucket))
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        files.get_file_info(arrow_fs.FileSelector("nobody-has-this"))
