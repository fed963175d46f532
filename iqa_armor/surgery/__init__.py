"""Surgery on a traced network: find its cuts, splice a block in, change the unit of its scores."""
