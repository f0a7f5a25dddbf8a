"""Tables and figures from a finished run."""
