"""Where a run is kept: tables, their keys and digests, in a folder or behind a URL."""
