"""The disk tier: large chunks one file each, small ones packed in a SQLite catalog; everything acknowledged is fsynced.

`tier` implements `ports.Tier`. Blocking work crosses to threads here and nowhere else. One large put:

    event loop           writing thread            commit thread (one, for all puts)
    ----------           --------------            ---------------------------------
    DiskTier.put
      await hand_on ---> _store_unless_held
           .               room? held?
           .               temporary file, fdatasync
           .               submit(publish) ------> next batch: BEGIN
           .               HANDED_ON               publish: rename, row
           .             (free for the next put)   fsync of the folders, COMMIT (fsync of the WAL)
           .                                       mark, sums, unlinks, or on_failure: remove the temporary file
      put returns <------------------------------- deliver(replies), one hop for the batch

A small put skips the temporary file; a read ends in its reading thread, or in `warm_files` without one.

    disk_threads, catalog_threads, replies    threads, their connections, and results back to the loop
    group_commit, changes, catalog            one transaction for many changes; what they do; the rows
    pending_unlinks, holdings                 files still to be unlinked; what is known of the rows in memory
    replica_reads                             what a reading thread does
    chunk_files, direct_io                    files and folders; reads and writes past the page cache
    recent_reads, warm_files                  which files are read again; those, kept open for reads from the page cache
    reconciliation, row_damage, wal_salvage   at start: files against rows, damaged rows, a damaged write-ahead file
    disk_errors, write_gate                   what an error means; no acknowledgement after a failed fsync
    free_space, commit_latency                is it full, is it slow
    catalog_vacuum                            gives free pages of the catalog back
    absence_filter                            which chunks have certainly no row

Promise: what is reported as done survives power loss; what failed is never reported as done later.
"""
