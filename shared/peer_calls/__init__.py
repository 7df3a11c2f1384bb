"""Signed HTTP calls between services."""
