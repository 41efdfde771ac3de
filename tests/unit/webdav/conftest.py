"""The tokens of the person who runs the tests are none of theirs."""

from tests.unit.streams.conftest import no_credentials

__all__ = ["no_credentials"]
