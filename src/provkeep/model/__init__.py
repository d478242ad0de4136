"""Values, events, records and graphs: plain data that every layer shares, and nothing else."""
