"""Retention: records go to an archive, and then out of the log (audit-archive-v1.md).

store            where an archive lies: the port, and the archive as a tree
directory_store  in a directory
s3_store         in an S3-compatible store
manifest         what an archive has
bounds           how far back something goes
entries          a log's records, those that were pruned from the archive
archiving        copies and verifies
pruning          removes from the log what the archive provably has
restoring        fetches one record and proves it
"""
