"""A run from its configuration to whole tables: shards, engines, progress."""
