"""Adapters to the services behind the gateway; each fulfils one Protocol of `services.gateway.ports`."""
