"""What a run did, step by step: recorded, kept in a file, and shown."""
