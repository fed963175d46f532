"""The whole jobs, one file for each command: what the command line shows is computed here."""
