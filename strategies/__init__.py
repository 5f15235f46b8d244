"""The strategy library: one YAML file a strategy."""
