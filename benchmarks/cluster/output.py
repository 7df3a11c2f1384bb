"""Where the files of a run lie: `benchmarks/out/<time>/`, with `result.json`, `report.md` and `plots/`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.cluster.errors import BenchmarkError
from benchmarks.cluster.samples import Result

OUT_DIR: Final = Path(__file__).parent.parent / "out"
LATEST: Final = "latest"
RESULT: Final = "result.json"


def new_folder(out_dir: Path) -> Path:
    """An empty folder for a run that begins now."""
    folder = out_dir / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    folder.mkdir(parents=True)
    return folder


def point_latest_to(folder: Path) -> None:
    """Let `latest` be that folder."""
    link = folder.parent / LATEST
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)


def read_result(folder: Path) -> Result:
    """What a run measured. Raises BenchmarkError: there is none."""
    try:
        return Result.model_validate_json((folder / RESULT).read_text())
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"There is no result in {folder}; `make bench` makes one. ({error})") from error
