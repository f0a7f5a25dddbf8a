"""Runs, pools and checkpoints pushed to the Hugging Face hub or any fsspec URL, and pulled and verified."""
