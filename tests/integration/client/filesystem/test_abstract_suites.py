"""fsspec's own abstract suites, as they are, against a cluster."""

from __future__ import annotations

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests import abstract

pytestmark = pytest.mark.cluster


class TrivetFixtures(abstract.AbstractFixtures):
    """What the suites ask of an implementation."""

    @pytest.fixture
    def fs(self, fs):
        return fs

    @pytest.fixture
    def fs_join(self):
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def fs_path(self, bucket):
        return bucket

    @pytest.fixture
    def local_fs(self):
        return LocalFileSystem(auto_mkdir=True)

    @pytest.fixture
    def supports_empty_directories(self):
        return False


class TestCopy(TrivetFixtures, abstract.AbstractCopyTests):
    """Within the store."""


class TestGet(TrivetFixtures, abstract.AbstractGetTests):
    """From the store."""


class TestPut(TrivetFixtures, abstract.AbstractPutTests):
    """Into the store."""


class TestOpen(TrivetFixtures, abstract.AbstractOpenTests):
    """Modes of open files."""


class TestPipe(TrivetFixtures, abstract.AbstractPipeTests):
    """Whole files."""
