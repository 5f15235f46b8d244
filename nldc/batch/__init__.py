"""A file of prompts in, a file of answers out: each row once, whatever ends the run in between.

`source` reads rows, `row` says what one asks for, `worker` answers them through an engine of this
process, `cluster` through those of a Ray cluster; `journal` keeps what is answered, and `output`
makes the file of it. `run.batch` is the whole.
"""
