"""Pages that one file holds: of a strategy, of a trace, of measurements."""
