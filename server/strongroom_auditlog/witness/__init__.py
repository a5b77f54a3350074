"""A witness: cosigns what a log has signed, as long as it only grew (C2SP tlog-witness).

A process of its own, with a key of its own, under somebody who is not the log's operator.
It keeps one row a log and reads no records. docs/formats/audit-witness-v1.md
"""
