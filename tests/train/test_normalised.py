"""A run with --normalize: its resizer takes uint8 images as the training did, and goes into runs that do the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.train.batches import Batches
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.models import check_normalisation
from learned_resizer_cuda.weights import ResizerConfig, WeightsFile, load_resizer
from tests.helpers.failures import command
from tests.helpers.image_files import opened
from tests.helpers.photo_folders import class_folder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.slow
def test_a_normalised_run(tmp_path: Path) -> None:
    """What is kept takes the bytes of an image as training took them; so do the command and a transfer."""
    data = class_folder(tmp_path / "data", train=2, val=2)
    network = ("--model", "small_cnn", "--size", 8, "--input-size", 16, "--normalize", "--accelerator", "cpu")
    short = (*network, "--steps", 2, "--batch-size", 2, "--evaluations", 1, "--data", data)
    run, transferred = tmp_path / "run", tmp_path / "transferred"
    assert command("train", *short, "--arms", "learned,blind", "--output", run)[0] == 0
    for arm in ("learned", "blind"):
        assert load_resizer(FusedResizer, run / f"stages/{arm}-16-seed0/resizer.safetensors")[1].mean == MEAN
    resizer, config = load_resizer(FusedResizer, run / "resizer.safetensors")
    notes = WeightsFile(run / "resizer.safetensors").notes
    assert (notes["arm"], notes["input_size"]) == ("learned", "16")
    assert (config.mean, config.std) == (MEAN, STD)

    source = RunConfig.load(run / "config.yaml").open_source(16)
    batch = source.test_batch(slice(0, 2))
    seen = Batches(source, 0, 2, normalize=(MEAN, STD)).prepare(batch).images
    with torch.no_grad():
        output = resizer(batch.images)
        # float32 of values up to 3, normalised before the stem or as it loads them: 1.2e-6 measured
        torch.testing.assert_close(output, resizer(seen), rtol=1e-5, atol=1e-5)
        image = data / "train/ant/0.png"
        byte = torch.from_numpy(opened(image)).permute(2, 0, 1)[None]
        mean, std = (torch.tensor(term).view(-1, 1, 1) for term in (MEAN, STD))
        exact = ((resizer(byte)[0] * std + mean).clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    files = ("--weights", run / "resizer.safetensors", "--output", tmp_path / "out")
    assert command("resize", image, *files)[0] == 0
    assert np.abs(opened(tmp_path / "out/0.png") - exact).max() <= 0.501  # one rounding, and float32's

    # the run's figures again, from its files
    code, printed = command("evaluate", run, "--arms", "learned", "--accelerator", "cpu", "--json")
    figures = {arm["arm"]: arm for arm in json.loads((run / "summary.json").read_text())["arms"]}
    assert code == 0
    assert (
        json.loads(printed[printed.index("[\n") :])[0]["metrics"]["accuracy"]
        == figures["learned"]["metrics"]["accuracy"]["values"][0]
    )

    # into another run, and from there
    files = ("--resizer", run / "resizer.safetensors", "--output", transferred)
    assert command("transfer", *short, *files)[0] == 0
    assert load_resizer(FusedResizer, transferred / "resizer.safetensors")[1] == config
    again = {arm["arm"]: arm for arm in json.loads((transferred / "summary.json").read_text())["arms"]}
    assert again["transfer"]["gflop"] == again["fresh"]["gflop"] == figures["learned"]["gflop"]
    (transferred / "summary.json").unlink()
    (transferred / "stages/control-16-seed0/result.json").unlink()
    assert command("transfer", *short, *files)[0] == 0  # uses the files that are kept
    assert command("evaluate", transferred, "--accelerator", "cpu")[0] == 0


def test_the_float32_of_a_mean_is_that_mean() -> None:
    """``save_pretrained`` writes mean and std as the module's float32 buffers have them."""
    config = RunConfig.make({"normalize": True, "mean": MEAN, "std": STD, "model": "small_cnn"})
    arguments = ResizerConfig((8, 8), mean=MEAN, std=STD)
    rounded = ResizerConfig.of(FusedResizer(**arguments.arguments()))
    assert rounded.mean != MEAN
    check_normalisation(config, rounded, "a.safetensors")
    with pytest.raises(ValueError, match="normalize, mean, std: got normalize True"):
        check_normalisation(config, replace(rounded, std=(0.229, 0.224, 0.2251)), "a.safetensors")
