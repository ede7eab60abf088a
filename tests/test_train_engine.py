"""Corners of the training engine: what only shows with unusual settings, other processes, or at an odd moment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda.recipes.checkpoint import RoundCheckpoint
from learned_resizer_cuda.recipes.config import RunConfig
from learned_resizer_cuda.recipes.folder import CONFIG, LOCK, FolderInUseError, RunFolder, find_folder
from learned_resizer_cuda.recipes.tasks import mean_score


def test_who_finds_a_folder_in_use_leaves_its_lock(tmp_path: Path) -> None:
    config = RunConfig.make({})
    with RunFolder(tmp_path / "run", config) as held:
        for _ in range(2):  # the first refused one must not open the door for the second
            with pytest.raises(FolderInUseError):
                RunFolder(held.path, config)
        assert (held.path / LOCK).exists() and find_folder(config, tmp_path) != held.path
    assert not (tmp_path / "run" / LOCK).exists()


def test_overwriting_needs_a_run(tmp_path: Path) -> None:
    """A folder that is no run's is refused before anything in it is touched, by a message that helps."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "samples.png").write_text("mine, too")
    with pytest.raises(FileExistsError, match=r"holds no run but notes\.txt; choose another folder, for only"):
        RunFolder(tmp_path, RunConfig.make({}), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "samples.png"]
    # What a clearing that was killed has left is a run's.
    (tmp_path / "notes.txt").unlink()
    with RunFolder(tmp_path, RunConfig.make({}), overwrite=True):
        assert [path.name for path in tmp_path.iterdir() if path.name != LOCK] == [CONFIG]


def test_a_date_is_a_seed() -> None:
    """20,261,231 rounds a seed times 10¹² overflow the 64 bits that torch takes."""

    class FakeTrainer:
        current_epoch, global_rank = 3, 1

    with torch.random.fork_rng(devices=[]):
        RoundCheckpoint(Path("x"), 20_261_231).on_train_epoch_start(FakeTrainer(), None)  # type: ignore[arg-type]


def test_mean_scores_keep_their_digits_in_mixed_precision() -> None:
    histograms = torch.rand(100, 10, generator=torch.Generator().manual_seed(0)).softmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        scores = mean_score(histograms)
    assert scores.dtype == torch.float32 and len(scores.unique()) > 90
    torch.testing.assert_close(scores, mean_score(histograms), rtol=0, atol=0)
