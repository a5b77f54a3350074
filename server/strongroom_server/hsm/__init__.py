"""The HSM floor: a pool of worker processes, each with one PKCS#11 session."""
