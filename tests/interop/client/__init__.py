"""A client of the release protocol, written from `protocol.md` and `proto/` alone: see README.md."""
