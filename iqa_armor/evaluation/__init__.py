"""Evaluation: models scored clean and attacked on datasets, beside a baseline."""
