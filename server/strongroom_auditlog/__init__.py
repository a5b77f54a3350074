"""The audit log: a separate process that keeps every shard's records in one Merkle log.

It reads the shards' spools over mTLS, appends their records to a tiled transparency log
(docs/formats/audit-log-v1.md), signs checkpoints and proves inclusion and consistency.
It shares no code with the server, so that neither can lie to the other by accident.
"""
