"""Products, sums and norms whose rows have the same bits in any company."""
