"""Checksums of rows stay what they were: files written by other versions are read with them."""

from __future__ import annotations

import msgpack
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from services.consensus.metadata.database import row_checksum

_COLUMNS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=300) | st.binary(max_size=70_000)


@given(st.lists(_COLUMNS, max_size=14))
def test_a_checksum_is_of_the_msgpack_of_table_and_columns(columns) -> None:
    packed = msgpack.packb(("files", *columns), use_bin_type=True)
    expected = int.from_bytes(blake3(packed).digest()[:8], "little", signed=True)
    assert row_checksum("files", tuple(columns)) == expected
