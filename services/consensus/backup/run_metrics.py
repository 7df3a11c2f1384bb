"""What a finished backup tells Prometheus: a file for the textfile collector of a node exporter."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from services.consensus.backup.copying import CopiedChunks
from services.consensus.rescue.backup_files import Manifest


def write_metrics(path: Path, manifest: Manifest, copied: CopiedChunks, duration_s: float) -> None:
    """Replace `path` as a whole; only after success, so that the time in it grows old when backups fail. Raises OSError."""
    registry = CollectorRegistry()
    for name, text, value in (
        ("completed_timestamp_seconds", "When it was published.", datetime.now(UTC).timestamp()),
        ("duration_seconds", "How long it took.", duration_s),
        ("log_index", "The entry of the log up to which it holds everything.", manifest.log_index),
        ("chunks", "Chunks that its snapshot needs.", manifest.chunk_count),
        ("chunk_bytes", "Bytes of the chunks that its snapshot needs.", manifest.chunk_bytes),
        ("copied_chunks", "Chunks that the target lacked.", copied.chunks),
        ("copied_bytes", "Bytes of the chunks that the target lacked.", copied.size_bytes),
    ):
        Gauge(
            f"trivet_backup_{name}", f"The last backup, in the file of `create --metrics`. {text}", registry=registry
        ).set(value)
    write_to_textfile(str(path), registry)
