"""Ways to spend a budget on one prompt: what each picks, what it costs, and how it really runs."""
