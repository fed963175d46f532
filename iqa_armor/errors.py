"""Failures a user can cause and mend, each with the exit code of the command line."""

# What torch and the code of a network raise where a graph, a size or a type does not fit: every kind of mistake that a
# network may hold, none of those that a machine makes (memory, interrupts, files).
NETWORK_FAILURES = (
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    AssertionError,
    LookupError,
    ArithmeticError,
    NameError,
    ImportError,
)


class ArmorError(Exception):
    """Base of every expected failure; the message says what is wrong and what to do."""

    exit_code = 1


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end; the notes (PEP 678) say how to go on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class ModelLoadError(ArmorError):
    """A model file or architecture that cannot be opened as asked."""

    exit_code = 3


class SurgeryError(ArmorError):
    """A model that cannot be traced, cut or pruned."""

    exit_code = 4


class DataError(ArmorError):
    """A dataset that is missing, incomplete or inconsistent."""

    exit_code = 5


class RecipeError(ArmorError):
    """Settings of a hardening that contradict each other or their allowed ranges."""

    exit_code = 6


class RequirementError(ArmorError):
    """A `--require` expression that does not hold."""

    exit_code = 10


class UsageError(ArmorError):
    """Words of a command that cannot be understood, such as an unknown attack or requirement path."""

    exit_code = 2


class SettingError(UsageError, ValueError):
    """A value that an object's settings do not allow."""


class OutputError(ArmorError):
    """A file or folder that cannot be written."""
