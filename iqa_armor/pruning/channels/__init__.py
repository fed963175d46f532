"""Channels followed through a traced network, taken out of it, and the proof that nothing else has changed."""
