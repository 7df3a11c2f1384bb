"""What the settings say about S3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from services.gateway.access.transport import TransportRules
from services.gateway.origin_rules import OriginRules
from services.gateway.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class S3Rules:
    """Of one gateway.

    Attributes:
        region: the only one.
        is_region_strict: a signature for another region is refused.
        domains: whose subdomains name buckets; in lower case.
        transport: who may come without a signature.
        origins: whose pages may ask without one.
    """

    region: str
    is_region_strict: bool
    domains: tuple[str, ...]
    transport: TransportRules
    origins: OriginRules

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        """As the gateway was told."""
        return cls(
            settings.s3_region,
            settings.s3_strict_region,
            tuple(settings.s3_domains),
            TransportRules.of(settings),
            settings.origin_rules(),
        )
