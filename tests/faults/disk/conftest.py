"""Nodes and Redis servers that end with their test."""

from tests.integration.storage.conftest import client_of, redis, start_node

__all__ = ["client_of", "redis", "start_node"]
