"""A backend as a researcher would write it, for the contract of tests/test_ortho.py: that of CONTRIBUTING.md."""

from contributing import EXAMPLES

exec(compile(EXAMPLES["A backend"].code, "CONTRIBUTING.md", "exec"))
