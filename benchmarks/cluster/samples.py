"""What one run measured, as it is kept in `result.json`: figures of every row in every round, and what they were measured on."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from benchmarks.cluster.rows import sensitivity_of
from benchmarks.cluster.speed_gauge import REFERENCE_US

FORMAT_VERSION: Final = 2


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowSample(_Kept):
    """One row on one tree in one round.

    Attributes:
        operations: requests, or MiB of one file.
        cpu_ms: per operation, by process group of the cluster.
        client_cpu_ms: of the load, per operation.
        other_cores: what else ran on the machine, without the cluster of the other tree.
        gauge_us: CPU that the work of `speed_gauge` cost meanwhile; None in a row that was too short for it.
        failed: requests with another answer than the row asks for.
        is_leader_stable: the same member led before and after.
    """

    tree: str
    row: str
    round: int
    operations: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]
    client_cpu_ms: float
    other_cores: float
    gauge_us: float | None
    failed: int
    first_failure: str
    is_leader_stable: bool

    @property
    def per_second(self) -> float:
        """Operations per second."""
        return self.operations / self.duration_s

    @property
    def measured_cpu_ms(self) -> float:
        """CPU per operation, over all processes of the cluster, as the machine was."""
        return sum(self.cpu_ms.values())

    @property
    def speed(self) -> float | None:
        """How fast the machine was, as a share of the speed that figures are normalized to; None if it is not known."""
        return None if self.gauge_us is None else REFERENCE_US / self.gauge_us

    @property
    def normalized_cpu_ms(self) -> dict[str, float]:
        """`cpu_ms` as it would have been at that speed; as it is where the speed is not known."""
        factor = 1.0 if self.speed is None else self.speed ** sensitivity_of(self.row)
        return {group: value * factor for group, value in self.cpu_ms.items()}

    @property
    def total_cpu_ms(self) -> float:
        """CPU per operation, over all processes of the cluster, normalized."""
        return sum(self.normalized_cpu_ms.values())


class FloorSample(_Kept):
    """One floor in one round; `cpu_ms` is that of its one process, per operation."""

    floor: str
    round: int
    operations: int
    duration_s: float
    cpu_ms: float

    @property
    def per_second(self) -> float:
        """Operations per second."""
        return self.operations / self.duration_s


class IdleSample(_Kept):
    """Cores that a cluster used while nothing was asked of it, by process group."""

    tree: str
    duration_s: float
    cores: dict[str, float]
    other_cores: float

    @property
    def total_cores(self) -> float:
        """Over all processes."""
        return sum(self.cores.values())


class GroupMemory(_Kept):
    """Resident memory of one process group of one tree at the end, all its processes together, and the largest peak of one."""

    tree: str
    group: str
    processes: int
    rss_mib: float
    largest_peak_mib: float


class Result(_Kept):
    """One whole run. `revisions` are by tree."""

    version: int = FORMAT_VERSION
    began_at: str
    machine: str
    revisions: dict[str, str]
    rounds: int
    rows: list[RowSample]
    floors: list[FloorSample]
    idle: list[IdleSample]
    memory: list[GroupMemory]
