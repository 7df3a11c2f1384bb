"""The trees that are measured: this one, and another revision in a git worktree with an environment of its own.

Worktrees lie under `.local/bench/base/<revision>`, which git ignores, and are kept for the next run; the least
recently used ones go.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.cluster.commands import run
from benchmarks.cluster.errors import BenchmarkError
from local_cluster.settings import PROJECT_ROOT

WORK_DIR: Final = PROJECT_ROOT / ".local" / "bench"
"""Clusters and worktrees of the benchmark; on the disk that `make run` would use."""

KEPT_WORKTREES: Final = 3
THIS: Final = "this"
BASE: Final = "base"
WITHOUT_KEYS: Final = "without-keys"
"""In place of a revision: this tree, with clients that show no key and may do as much. What a key costs, and nothing else."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout with its `.venv`. `name` is `THIS` or `BASE`; `revision` is what a person reads.

    `is_anonymous`: its clients show no key.
    """

    name: str
    root: Path
    revision: str
    is_anonymous: bool = False

    @property
    def python(self) -> Path:
        """The interpreter that has what this tree needs."""
        return self.root / ".venv" / "bin" / "python"


def this_tree() -> Tree:
    """The tree that this benchmark is of, with whatever is not committed."""
    revision = run(["git", "rev-parse", "--short=10", "HEAD"], PROJECT_ROOT)
    changed = run(["git", "status", "--porcelain", "--untracked-files=no"], PROJECT_ROOT)
    return Tree(THIS, PROJECT_ROOT, f"{revision} with changes" if changed else revision)


def base_tree(revision: str) -> Tree:
    """That revision beside this tree; made and installed when it is not there yet, which takes a minute. Or `WITHOUT_KEYS`.

    Raises:
        BenchmarkError: there is no such revision, or it cannot be installed.
    """
    if revision == WITHOUT_KEYS:
        this = this_tree()
        return replace(this, name=BASE, revision=f"{this.revision} {WITHOUT_KEYS}", is_anonymous=True)
    commit = run(["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"], PROJECT_ROOT)
    root = WORK_DIR / "base" / commit[:12]
    if not (root / ".git").exists():
        shutil.rmtree(root, ignore_errors=True)
        # Forget worktrees whose folder somebody removed, or git refuses to make them again.
        run(["git", "worktree", "prune"], PROJECT_ROOT)
        run(["git", "worktree", "add", "--detach", root, commit], PROJECT_ROOT)
    run(["make", "install"], root)
    root.touch()
    _remove_old(root.parent)
    return Tree(BASE, root, f"{revision} ({commit[:10]})")


def _remove_old(folder: Path) -> None:
    by_use = sorted(folder.iterdir(), key=lambda root: root.stat().st_mtime, reverse=True)
    for root in by_use[KEPT_WORKTREES:]:
        run(["git", "worktree", "remove", "--force", root], PROJECT_ROOT)


def check_room(needed_bytes: int) -> None:
    """Refuse a run that would fill the disk: chunks of files that were deleted are not collected while it lasts.

    Raises:
        BenchmarkError: there is less room than that, and a tenth of the disk.
    """
    WORK_DIR.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(WORK_DIR)
    if disk.free - disk.total // 10 < needed_bytes:
        raise BenchmarkError(
            f"This run writes up to {needed_bytes >> 30} GiB to {WORK_DIR}, where {disk.free >> 30} GiB are free and a tenth "
            f"of the disk must stay so; choose fewer ROUNDS or ROWS."
        )
