"""What every package may import, and what itself imports nothing of the project."""
