"""A member of the version before identities: it says that it knows no entries since then."""

from services.consensus.metadata import entries

entries.KNOWN_ENTRY_VERSION = entries.OBJECTS_VERSION - 1

if __name__ == "__main__":
    # After the patch: these modules take the number as it is now.
    from services.consensus.main import main

    main()
