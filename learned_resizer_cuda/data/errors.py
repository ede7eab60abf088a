"""What can be wrong with a data set, each with a name of its own, so that a caller can tell them apart."""

from __future__ import annotations


class DataError(ValueError):
    """The data cannot be trained on; the message says what is wrong, where, and what was expected."""


class EmptySplitError(DataError):
    """A split (train or val) holds no image."""


class SingleClassError(DataError):
    """There is one class only: nothing to tell apart."""


class ClassMismatchError(DataError):
    """The class folders of train and val differ."""


class MissingScoreError(DataError):
    """An image has no row in the score file."""


class ScoreFormatError(DataError):
    """A row of the score file is no histogram."""


class TooManyUnreadableError(DataError):
    """More images could not be read than the limit allows."""


class NonFiniteLossError(DataError):
    """The training loss became NaN or infinite."""
