"""One pass a file: a function from graph to graph that changes nothing about what is emitted."""
