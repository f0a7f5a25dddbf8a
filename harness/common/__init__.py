"""The lowest room: every package may import it, and it imports nothing of the project."""
