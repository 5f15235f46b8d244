"""What generated decoders import: backbone, cache, sampling, session. Knows no YAML."""
