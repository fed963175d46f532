"""A network as an fx graph: traced, run node by node, walked through and recognised."""
