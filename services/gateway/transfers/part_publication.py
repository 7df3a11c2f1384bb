"""A part of an upload: what its chunks are logged as, whether a client sent them as a part or a gateway cut them from a body."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from services.gateway.ports import Clock, Metadata
from services.gateway.replicas.node_directory import NodeDirectory
from services.gateway.replicas.quorum import Quorums, durability, fences, require_enough_nodes
from services.gateway.transfers.chunk_sender import ChunkSender, Start, usable_nodes
from services.gateway.transfers.publishing import Publication, Publisher
from shared.contracts.s3 import S3Attributes
from shared.contracts.uploads import GetUpload, PutPart, StoredPart, UploadAnswer, upload_id_of
from shared.errors import UploadNotFoundError

_ID: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class UploadId:
    """The log index that began it, and the nonce of the gateway that proposed that."""

    upload: int
    nonce: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From what `str` gave. Raises UploadNotFoundError: no upload ever had that id; definite."""
        match = _ID.fullmatch(text)
        if match is None or not 0 < (upload := int(match[1], 16)) < 1 << 63:
            raise UploadNotFoundError("There is no such upload.")
        return cls(upload, match[2])

    def __str__(self) -> str:
        return upload_id_of(self.upload, self.nonce)


class PartPublication(Publication[StoredPart]):
    """A list of chunks as part `number` of an upload."""

    def __init__(
        self,
        upload: UploadId,
        number: int,
        quorums: Quorums,
        *,
        metadata: Metadata,
        directory: NodeDirectory,
        publisher: Publisher,
        clock: Clock,
        keep_s: int | None = None,
    ) -> None:
        """`keep_s`: see `PutPart`."""
        self.number = number
        self.quorums = quorums
        self.digest: str | None = None
        self.s3: S3Attributes | None = None
        self.found: UploadAnswer | None = None
        """The upload as it was read last, with the part that this one would replace."""

        self._upload = upload
        self._metadata = metadata
        self._directory = directory
        self._publisher = publisher
        self._clock = clock
        self._keep_s = keep_s

    @property
    def bucket(self) -> str:
        """See `Publication`. The upload knows it; what is remembered of buckets is of no use here."""
        return ""

    async def read_start(self) -> Start:
        """See `Publication`. Raises UploadNotFoundError."""
        upload = self._upload
        answer, context = await self._metadata.read(
            GetUpload(upload=upload.upload, nonce=upload.nonce, after_part=self.number - 1, limit=1)
        )
        self.found = answer
        if answer.upload is None:
            raise UploadNotFoundError("There is no such upload.", upload_id=str(upload))
        node_map = await self._directory.at(context.epoch)
        require_enough_nodes(usable_nodes(node_map), self.quorums)
        return Start(0, context.log_index, node_map)

    async def propose(self, sender: ChunkSender) -> StoredPart:
        """See `Publication`."""
        outcome = await self._metadata.propose(
            PutPart(
                upload=self._upload.upload,
                nonce=self._upload.nonce,
                number=self.number,
                content=self._publisher.content_of(sender, self.digest),
                start_index=sender.start.log_index,
                epoch=sender.start.node_map.epoch,
                durability=durability(sender.tallies, self.quorums.replica_count),
                fences=fences(sender.tallies),
                s3=self.s3,
                keep_s=self._keep_s,
                stamp=self._clock.stamp(),
            )
        )
        return outcome.result
