"""What can go wrong for a user of the lake.  The CLI prints the text and exits with the code."""


class LakeError(Exception):
    """A failure with a one-line reason and what to do about it; never shown as a traceback."""

    exit_code = 1


class Missing(LakeError):
    """Something must be installed first."""

    exit_code = 3


class PortTaken(LakeError):
    """A fixed port is in use by somebody else."""

    exit_code = 4
