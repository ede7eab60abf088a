"""`learned-resizer resize` into shared folders: other writers, links, names, network file systems."""

from __future__ import annotations

import errno
import os
import time
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("PIL", reason="image files need the [train] extra")
pytest.importorskip("typer", reason="the command needs the [train] extra")

from learned_resizer_cuda import atomic
from learned_resizer_cuda.cli import picture_plan
from tests.helpers.failures import Case, Outcome, names
from tests.helpers.resize_command import after_planning, forked, held, level_of, photo, resized


def _same_process_number(folder: Path) -> Outcome:
    for number in range(120):
        photo(folder / f"in{number % 2}/{number:03}.png", 12, level=number)
    out = folder / "out"

    def run(part: int) -> None:
        with mock.patch.object(os, "getpid", lambda: 1):
            assert resized(folder / f"in{part}", "--output", out, size=9)[0] == 0

    codes = forked(partial(run, 0), partial(run, 1))
    right = [name for name in names(out) if level_of(out / name) == int(name[:3])]
    return Outcome(max(codes), "", f"{len(names(out))} files, {len(right)} with their own content")


def _same_names_at_once(folder: Path, *flags: str) -> Outcome:
    for number in range(40):
        photo(folder / f"in/{number:02}.png", 30)
    out = folder / "out"
    out.mkdir()

    def run(part: int) -> None:
        def wait_for_the_other() -> None:
            (folder / f"ready{part}").touch()
            while not (folder / f"ready{1 - part}").exists():
                time.sleep(0.0005)

        with after_planning(wait_for_the_other):
            _, answer = resized(folder / "in", "--output", out, *flags, size=10 + part)
        (folder / f"said{part}").write_text(answer.splitlines()[-1].rsplit(",", 1)[0])

    assert forked(partial(run, 0), partial(run, 1)) == [0, 0]
    said = [(folder / f"said{part}").read_text() for part in (0, 1)]
    found = held(out)
    there = [found.count("whole, 10x10"), found.count("whole, 11x11")]
    if flags:
        return Outcome(0, " / ".join(said), f"{len(names(out))} files, {sum(there)} whole, of one run or the other")
    counted = [f"{count} resized, {40 - count} skipped" for count in there]
    agree = "as counted" if said == counted else f"not as counted: {said}"
    return Outcome(0, "", f"{len(names(out))} files, {sum(there)} whole, of one run or the other, {agree}")


def _planted_link(folder: Path) -> Outcome:
    """Links at the former names of the temporary file, and at the target's name."""
    victim = folder / "victim"
    victim.write_text("precious")
    photo(folder / "in/a.png")
    out = folder / "out"
    out.mkdir()
    for name in (f".resize-{os.getpid()}.tmp", "a.png"):
        (out / name).symlink_to(victim)
    code, answer = resized(folder / "in", "--output", out, "--overwrite")
    (out / f".resize-{os.getpid()}.tmp").unlink()
    return Outcome(code, answer, f"{held(out)}; the link's target: {victim.read_text()}")


def _other_source(folder: Path) -> Outcome:
    photo(folder / "x/y/a.png", 30)
    photo(folder / "y/a.png", 31)
    code, answer = resized(folder / "x", folder / "y", "--output", folder, "--overwrite")
    return Outcome(code, answer, held(folder))


def _case_alone(folder: Path) -> Outcome:
    photo(folder / "in/a.png")
    photo(folder / "in/A.PNG")
    with mock.patch.object(picture_plan, "is_case_sensitive", lambda folder: False):
        code, answer = resized(folder / "in", "--output", folder / "out")
    return Outcome(code, answer, held(folder / "out"))


def _network_answers_late(folder: Path, *flags: str) -> Outcome:
    """NFS whose first answer is lost: the second one says that there is nothing to do.

    Without locks and renameat2, and folders cannot be flushed.
    """
    photo(folder / "in/a.png")
    replace, link, fsync = os.replace, os.link, os.fsync

    def replace_twice(source: Path, target: Path) -> None:
        replace(source, target)
        replace(source, target)

    def link_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    def flush(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    def no_locks(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with (
        mock.patch.object(os, "replace", replace_twice),
        mock.patch.object(os, "link", link_twice),
        mock.patch.object(os, "fsync", flush),
        mock.patch.object(atomic.fcntl, "flock", no_locks),
        mock.patch.object(atomic, "_rename_at", lambda *paths: False),
    ):
        code, answer = resized(folder / "in", "--output", folder / "out", *flags)
    return Outcome(code, answer, held(folder / "out"))


def _no_links(folder: Path) -> Outcome:
    photo(folder / "in/a.png")
    denied = OSError(errno.EPERM, "Operation not permitted")
    with mock.patch.object(os, "link", side_effect=denied), mock.patch.object(atomic, "_rename_at", return_value=False):
        code, answer = resized(folder / "in", "--output", folder / "out")
    return Outcome(code, answer, held(folder / "out"))


def _long_names(folder: Path) -> Outcome:
    names_ = ["x" * 251 + ".png", "é" * 125 + "x.png", "🙂" * 62 + "xyz.png"]
    assert [len(os.fsencode(name)) for name in names_] == [255, 255, 255]
    for name in names_:
        photo(folder / "in" / name)
    code, answer = resized(folder / "in", "--output", folder / "out")
    there = sorted(names_) == names(folder / "out")
    return Outcome(code, answer, "all three" if there else held(folder / "out"))


CASES = [
    Case(
        "two containers, each with process number 1, write 60 pictures each into one folder",
        _same_process_number,
        0,
        "",
        "120 files, 120 with their own content",
    ),
    Case(
        "two runs write 40 pictures of the same names at once",
        _same_names_at_once,
        0,
        "",
        "40 files, 40 whole, of one run or the other, as counted",
    ),
    Case(
        "the same with --overwrite",
        lambda folder: _same_names_at_once(folder, "--overwrite"),
        0,
        "40 resized, 0 skipped / 40 resized, 0 skipped",
        "40 files, 40 whole, of one run or the other",
    ),
    Case(
        "links planted at the target's name and at the former temporary one",
        _planted_link,
        0,
        "1 resized, 0 skipped",
        "a.png whole, 20x20; the link's target: precious",
    ),
    Case(
        "a target is a source that has not been read yet",
        _other_source,
        2,
        "learned-resizer resize: --output: FOLDER/y/a.png, the target of FOLDER/x/y/a.png, is FOLDER/y/a.png, which is "
        "to be resized itself; choose another folder",
        "x/y/a.png whole, 30x30, y/a.png whole, 31x31",
    ),
    Case(
        "a.png and A.PNG, into a folder that does not tell them apart (simulated)",
        _case_alone,
        2,
        "learned-resizer resize: IN: FOLDER/in/A.PNG and FOLDER/in/a.png would both become FOLDER/out/a.png, because "
        "FOLDER/out ignores case",
        "nothing",
    ),
    Case(
        "a network folder whose answers get lost (simulated)",
        _network_answers_late,
        0,
        "1 resized, 0 skipped",
        "a.png whole, 20x20",
    ),
    Case(
        "the same with --overwrite",
        lambda folder: _network_answers_late(folder, "--overwrite"),
        0,
        "1 resized, 0 skipped",
        "a.png whole, 20x20",
    ),
    Case(
        "a folder with neither links nor renameat2 (simulated)",
        _no_links,
        1,
        "skipped FOLDER/in/a.png: cannot write FOLDER/out/a.png: Operation not permitted",
        "nothing",
    ),
    Case("file names of 255 bytes, ASCII and not", _long_names, 0, "3 resized, 0 skipped", "all three"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_case(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "in/sub/a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").write_text("mine")
    code, answer = resized(tmp_path / "in", "--output", tmp_path / "out")
    assert code == 1 and "a.png: cannot write" in answer and "File exists" in answer and "meanwhile" not in answer
    assert (tmp_path / "out/sub").read_text() == "mine"
