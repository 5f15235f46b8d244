"""The typed graph of a strategy: what a step computes, with every size a number."""
