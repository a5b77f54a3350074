"""Verifying a transparency log: for the audit log, which makes it, and the SDK, which doubts it.

merkle       trees and proofs (RFC 6962)
checkpoint   signed tree heads (C2SP tlog-checkpoint, signed-note)
proof        an inclusion proof as a text (C2SP tlog-proof)

Pure: no files, no network, no clock.
"""
