"""Stubs of foreign .proto files that ours import."""
