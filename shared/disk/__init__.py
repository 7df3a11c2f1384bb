"""Durable files, and folders that know whose they are."""
