"""Steps that are captured once and replayed: what the host does between them, and what it skips."""
