"""The libraries that people open `trivet://` with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pytest
import xarray as xr
import zarr

from trivet.filesystem import TrivetFileSystem

pytestmark = pytest.mark.cluster


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"number": range(1000), "word": [f"w{number % 7}" for number in range(1000)]})


@pytest.mark.parametrize("kind", ["parquet", "csv", "json", "feather", "pickle"])
def test_pandas_writes_and_reads_by_url(storage_options, bucket, frame, kind) -> None:
    """With `storage_options`, and nothing else of Trivet."""
    url = f"trivet://{bucket}/frame.{kind}"
    options = {"csv": {"index": False}}.get(kind, {})
    getattr(frame, f"to_{kind}")(url, storage_options=storage_options, **options)
    read = getattr(pd, f"read_{kind}")(url, storage_options=storage_options)
    pd.testing.assert_frame_equal(read, frame, check_dtype=kind != "json")


def test_pandas_reads_some_columns_and_rows_of_a_folder(storage_options, bucket, frame) -> None:
    """Partitions are folders."""
    url = f"trivet://{bucket}/frame"
    frame.to_parquet(url, partition_cols=["word"], storage_options=storage_options)
    read = pd.read_parquet(url, columns=["number"], filters=[("word", "==", "w3")], storage_options=storage_options)
    assert sorted(read["number"]) == list(range(3, 1000, 7))


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_pandas_compresses(storage_options, bucket, frame, suffix) -> None:
    """The end of the compressed bytes is there."""
    url = f"trivet://{bucket}/frame.csv.{suffix}"
    frame.to_csv(url, index=False, storage_options=storage_options)
    pd.testing.assert_frame_equal(pd.read_csv(url, storage_options=storage_options), frame, check_dtype=False)


def test_pyarrow_wraps_the_file_system(fs, bucket) -> None:
    """Its own names for the same: files, folders, streams."""
    files = pa.fs.PyFileSystem(pa.fs.FSSpecHandler(fs))
    with files.open_output_stream(f"{bucket}/a/b.bin") as stream:
        stream.write(b"0123456789")
    with files.open_append_stream(f"{bucket}/a/b.bin") as stream:
        stream.write(b"abc")
    with files.open_input_file(f"{bucket}/a/b.bin") as file:
        assert (file.size(), file.read_at(3, 9)) == (13, b"9ab")
    files.copy_file(f"{bucket}/a/b.bin", f"{bucket}/a/c.bin")
    files.move(f"{bucket}/a/c.bin", f"{bucket}/c.bin")
    found = files.get_file_info(pa.fs.FileSelector(bucket, recursive=True))
    assert {(info.path, info.type) for info in found} == {
        (f"{bucket}/a", pa.fs.FileType.Directory),
        (f"{bucket}/a/b.bin", pa.fs.FileType.File),
        (f"{bucket}/c.bin", pa.fs.FileType.File),
    }
    assert all(info.mtime is not None for info in found if info.is_file)
    files.delete_dir(f"{bucket}/a")
    assert files.get_file_info(f"{bucket}/a").type is pa.fs.FileType.NotFound


def test_pyarrow_reads_a_dataset_by_fragments(fs, bucket, frame) -> None:
    """Hive partitions, a filter, and what was overwritten before."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for _ in range(2):
        pa.dataset.write_dataset(
            table,
            f"{bucket}/set",
            format="parquet",
            partitioning=["word"],
            partitioning_flavor="hive",
            existing_data_behavior="delete_matching",
            filesystem=fs,
        )
    found = pa.dataset.dataset(f"{bucket}/set", partitioning="hive", filesystem=fs)
    assert found.count_rows() == 1000
    assert found.to_table(filter=pa.dataset.field("word") == "w1").column("number").to_pylist() == list(
        range(1, 1000, 7)
    )


def test_zarr_stores_an_array_of_chunks(storage_options, bucket) -> None:
    """On its own event loop; a part of it is written and read, and a group is listed and deleted."""
    store = zarr.storage.FsspecStore.from_url(f"trivet://{bucket}/root.zarr", storage_options=storage_options)
    root = zarr.create_group(store, overwrite=True)
    field = root.create_array("field", shape=(300, 200), chunks=(100, 50), dtype="f4", fill_value=7)
    field[50:150, :] = np.arange(20_000, dtype="f4").reshape(100, 200)
    again = zarr.open_group(
        zarr.storage.FsspecStore.from_url(f"trivet://{bucket}/root.zarr", storage_options=storage_options), mode="r+"
    )
    assert list(again.array_keys()) == ["field"]
    assert (again["field"][149, 199], again["field"][0, 0]) == (19_999, 7)
    del again["field"]
    assert list(again.array_keys()) == []


def test_xarray_keeps_a_dataset(storage_options, bucket) -> None:
    """With its coordinates, by way of zarr."""
    stored = xr.Dataset({"celsius": (("day", "city"), np.arange(12.0).reshape(4, 3))}, {"city": [1, 2, 3]})
    url = f"trivet://{bucket}/weather.zarr"
    stored.to_zarr(url, storage_options=storage_options, mode="w", consolidated=False)
    with xr.open_zarr(url, storage_options=storage_options, consolidated=False) as read:
        xr.testing.assert_equal(read.load(), stored)


def test_every_library_gets_one_instance(storage_options) -> None:
    """So connections are shared."""
    assert TrivetFileSystem(**storage_options) is TrivetFileSystem(**storage_options)
