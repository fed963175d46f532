"""Metrics of agreement with opinion, of robustness, of image fidelity, of purifiers, and their uncertainty."""
