"""Training a verifier on features that are there (A.3): captioning alignment, then yes or no."""
