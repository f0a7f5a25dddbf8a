"""Train verifiers: collect the data of the paper's two stages, and run the stages."""
