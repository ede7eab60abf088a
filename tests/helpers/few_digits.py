"""The built-in digits with few test images, for tests of whole runs."""

from __future__ import annotations

import pytest

from learned_resizer_cuda.data.digits import DigitsOnPhotographs


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty of the thousand test images."""
    original = DigitsOnPhotographs.__init__

    def smaller(self: DigitsOnPhotographs, canvas: int = 96, task: str = "classification") -> None:
        original(self, canvas, task)
        self.test_index = self.test_index[::20]
        self.test_size = len(self.test_index)

    monkeypatch.setattr(DigitsOnPhotographs, "__init__", smaller)
