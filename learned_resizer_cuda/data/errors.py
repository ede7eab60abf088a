"""Errors of data sets, one class for each kind."""

from __future__ import annotations


class DataError(ValueError):
    """Unusable data: says what is wrong, where, and what was expected."""


class EmptySplitError(DataError):
    """A split (train or val) holds no image."""


class SingleClassError(DataError):
    """There is only one class."""


class ClassMismatchError(DataError):
    """The class folders of train and val differ."""


class MissingScoreError(DataError):
    """An image has no row in the score file."""


class ScoreFormatError(DataError):
    """A row of the score file is not a histogram."""


class MissingMaskError(DataError):
    """An image has no mask."""


class ClassNamesError(DataError):
    """The file of class names is not a list of different names."""


class TooManyUnreadableError(DataError):
    """More images could not be read than the limit allows."""
