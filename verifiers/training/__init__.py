"""Train a verifier on collected features (A.3): captioning alignment, then yes or no."""
