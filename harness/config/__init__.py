"""What a run is told to do: its configuration, read from YAML and checked."""
