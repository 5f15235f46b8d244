"""Keys and values of the sequences that are decoded."""
