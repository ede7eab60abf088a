"""Docstrings of the public names: their examples run, and their sections are complete and parse."""

from __future__ import annotations

import doctest
import inspect
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import pytest
import torch

from learned_resizer_cuda import backend
from tests.helpers.public_names import PublicName, public_names

NOT_RUN = {"learned_resizer_cuda.FusedResizer.push_to_hub": 1}
"""Examples skipped in a docstring: this one uploads to an account of the Hub."""

ORDER = ["text", "parameters", "attributes", "returns", "raises", "examples"]

RETURNS_NOTHING = {None, "None", "Iterator[None]"}
"""Annotations of what needs no Returns section; the iterator is a context manager's."""


def examples(found: PublicName) -> doctest.DocTest:
    """The examples of a docstring, which see nothing but what they import."""
    docstring = found.source.docstring
    assert docstring is not None and docstring.lineno is not None
    name, file = f"{found.module}.{found.name}", str(found.source.filepath)
    return doctest.DocTestParser().get_doctest(docstring.value, {}, name, file, docstring.lineno - 1)


def skipped(test: doctest.DocTest) -> int:
    return sum(doctest.SKIP in example.options for example in test.examples)


def cases() -> Iterator[Any]:
    """The public names; the test's id has the number of examples."""
    for name, found in public_names().items():
        count = len(examples(found).examples)
        yield pytest.param(name, id=f"{name.partition('.')[2]}: {count} examples")


def global_state() -> tuple[Any, ...]:
    """Settings of torch and this package that an example could leave changed."""
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_anomaly_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.enabled,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.backends.mkldnn.enabled,
        backend.current(),
    )


@pytest.mark.parametrize("name", list(cases()))
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = public_names()[name]
    test = examples(found)
    assert inspect.getdoc(found.load()) == test.docstring
    assert len(test.examples) > skipped(test) == NOT_RUN.get(name, 0)
    monkeypatch.chdir(tmp_path)  # for the files that examples write
    before, out = global_state(), io.StringIO()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        results = doctest.DocTestRunner(verbose=False, optionflags=flags).run(test, out=out.write)
    assert results.failed == 0, out.getvalue()
    assert global_state() == before


@pytest.mark.parametrize("name", public_names())
def test_sections_are_complete(name: str, caplog: pytest.LogCaptureFixture) -> None:
    found = public_names()[name]
    with caplog.at_level(logging.WARNING):  # of griffe, which parses the pages of the documentation
        sections = {section.kind.value: section.value for section in found.sections()}
    assert caplog.messages == []
    kinds = [section.kind.value for section in found.sections()]
    # Text after a section would be torn from the text before it, and an unknown title is an "admonition".
    assert kinds == [kind for kind in ORDER if kind in kinds]
    parameters = {parameter.name for parameter in found.source.parameters} - {"self", "cls"}
    assert {parameter.name for parameter in sections.get("parameters", [])} == parameters
    returns = found.source.returns if isinstance(found.source, griffe.Function) else None
    annotation = None if returns is None else str(returns)
    # The annotation is the signature's: words before a colon in the first line would be taken for one.
    described = [str(item.annotation) for item in sections.get("returns", [])]
    assert described == ([] if annotation in RETURNS_NOTHING else [annotation])
    assert "raises" in sections or not parameters
    assert "examples" in sections
