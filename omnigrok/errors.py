"""Errors that the user can act on. The command line prints them as one line and ends with status 2."""


class OmnigrokError(Exception):
    """The message is one line and says what to do."""


class SpecError(OmnigrokError, ValueError):
    """A run specification that cannot be trained."""


class DataUnavailableError(OmnigrokError):
    """No source could deliver a dataset. The message names the files and where to put them."""


class CorruptFileError(OmnigrokError):
    """A stored or downloaded file is not what its checksum says. The message names it."""
