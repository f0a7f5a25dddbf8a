"""Storage of a run: its tables, their keys and digests, in a local folder or at a URL."""
