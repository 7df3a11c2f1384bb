"""Whose buckets and files are: as long as they have no owners of their own, the cluster's first root's (`access.bootstrap`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.gateway.access.bootstrap import ROOT_NAME, root_identity
from services.gateway.api.services import Services
from services.gateway.s3.xml_documents import element, group

_UNKNOWN: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Owner:
    """As S3 names one; `id` is 64 hex."""

    id: str
    display_name: str

    def xml(self, name: str = "Owner") -> str:
        """The element, such as `Owner` or `Initiator`."""
        return group(name, (element("ID", self.id), element("DisplayName", self.display_name)))


def owner_of_all(services: Services) -> Owner:
    """The owner of every bucket and file."""
    realm = services.access.table.realm
    return Owner(_UNKNOWN if realm is None else root_identity(realm), ROOT_NAME)
