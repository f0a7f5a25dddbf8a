"""Training verifiers: the data that the paper's two stages need, and what runs the stages."""
