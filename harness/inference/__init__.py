"""Making candidates and choosing one: best-of-N as it really runs, and scores of a user's own files."""
