# What Trivet uses of raftos 0.2.6 (`services.consensus.raft.seam`), typed by reading it. Not complete, on purpose.
#
# raftos gives the parts of a member (log, storage, role, server) no types: the classes that Trivet derives declare their own.

from .conf import configure as configure
