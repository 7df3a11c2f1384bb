"""Trees of releases, from which the tests of upgrades begin."""
