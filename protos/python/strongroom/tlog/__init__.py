"""Verifying a transparency log: for the audit log, which makes it, and the SDK, which doubts it.

merkle       trees and proofs (RFC 6962)
note         signed notes and the keys that sign them (C2SP signed-note)
checkpoint   signed tree heads (C2SP tlog-checkpoint)
cosignature  what witnesses add to them (C2SP tlog-cosignature)
proof        an inclusion proof as a text (C2SP tlog-proof)

Pure: no files, no network, no clock.
"""
