"""The gate for verifier checkpoints: a frozen pool, a paired comparison, a verdict."""
