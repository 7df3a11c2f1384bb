"""Trivet as a file system of fsspec: `trivet://bucket/key` in pandas, pyarrow, zarr, xarray, Dask and all else that takes one.

    import pandas
    frame = pandas.read_parquet("trivet://default/measurements.parquet")

A call goes from the names of fsspec (`namespace`, `file_system`) by way of a client of the running loop (`clients`) to the API;
errors come back as those of a file system (`os_errors`). Open files (`open_files`) read one version through a cache of blocks,
and write by parts that become visible at one instant (`publication`).

Nothing about the store is remembered between calls, no list and no size, because others write at the same time: an answer is what
was true at one instant during the call. docs/fsspec.md says all of it to those who use it.
"""

from trivet.filesystem.file_system import TrivetFileSystem

__all__ = ["TrivetFileSystem"]
