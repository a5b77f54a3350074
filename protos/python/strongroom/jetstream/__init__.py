"""Audit records through NATS JetStream (docs/formats/audit-nats-v1.md). Internal.

`connection` needs the extra `nats`; nothing imports it but what was configured to use it.
"""
