"""Which storage nodes were added to a local cluster and which have left, so that every later command knows them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from local_cluster.errors import LocalClusterError
from local_cluster.layout import Layout
from local_cluster.local_secrets import write_private
from local_cluster.plan import Shape


class _Saved(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    storage_nodes: int = Field(ge=1)
    removed_nodes: frozenset[int]


def load_shape(layout: Layout, default: Shape) -> Shape:
    """`default` with the storage nodes that the cluster has by now.

    Raises:
        LocalClusterError: the file cannot be understood; guessing could start a node that has left.
    """
    try:
        text = layout.shape_file.read_text()
    except FileNotFoundError:
        return default
    except OSError as error:
        raise LocalClusterError(f"{layout.shape_file} cannot be read: {error.strerror}.") from error
    try:
        saved = _Saved.model_validate_json(text)
    except ValidationError as error:
        raise LocalClusterError(f"{layout.shape_file} is damaged, or was written by another version.") from error
    return replace(default, storage_nodes=saved.storage_nodes, removed_nodes=saved.removed_nodes)


def save_shape(layout: Layout, shape: Shape) -> None:
    """For later commands."""
    saved = _Saved(storage_nodes=shape.storage_nodes, removed_nodes=shape.removed_nodes)
    write_private(layout.shape_file, saved.model_dump_json() + "\n")
