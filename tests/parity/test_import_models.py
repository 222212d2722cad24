"""Networks that the package itself builds, at random, come through `microtome model import` and find the same cells.

Needs PyTorch and instanseg-torch (`make parity`).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make parity")
pytest.importorskip("instanseg", reason="instanseg-torch is not installed: make parity")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from instanseg.utils.loss.instanseg_loss import InstanSeg, InstanSeg_Torchscript
    from instanseg.utils.model_loader import build_model_from_dict
    from instanseg.utils.models.ChannelInvariantNet import AdaptorNetWrapper

from microtome.commandline.main import main  # noqa: E402
from microtome.models import importing  # noqa: E402
from microtome.models.checking import check_model  # noqa: E402
from microtome.models.importing import Imported, Wishes, import_model  # noqa: E402
from microtome.models.official import OFFICIAL  # noqa: E402
from microtome.models.parity import normalised  # noqa: E402
from microtome.models.refusals import ImportNeedsMore, ModelRefused  # noqa: E402
from microtome.scoring import scores  # noqa: E402
from microtome.segmentation.engine import OnnxRuntimeEngine  # noqa: E402
from microtome.segmentation.head import Coordinates, find_instances  # noqa: E402
from microtome.segmentation.model import load_model, preferred_model  # noqa: E402
from microtome.slides.synthetic import paint  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]

SHARED = Path(__file__).parents[3] / "shared" / "models"
LAYERS = (8, 12, 16, 24)
EDGE = 256
LOW, SCALE = np.full((1, 3), 40, np.float32), np.full((1, 3), 1 / 200, np.float32)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def picture() -> np.ndarray:
    painted, _ = paint(1024, 5)
    return np.ascontiguousarray(painted[None, 384 : 384 + EDGE, 384 : 384 + EDGE])


def built(**wishes: Any) -> Any:
    """A network as the package builds it, with random weights under which there are seeds and compact objects."""
    options = {
        "model_str": "InstanSeg_UNet", "layers": list(LAYERS), "dim_in": 3, "dim_out": 0, "n_sigma": 2, "dim_coords": 2,
        "dim_seeds": 1, "cells_and_nuclei": False, "multihead": False, "norm": "BATCH", "dropprob": 0.0,
    } | wishes  # fmt: skip
    adapted = options.pop("adapted", None)
    with contextlib.redirect_stdout(io.StringIO()):
        network = build_model_from_dict(options, random_seed=1)
        method = InstanSeg(
            n_sigma=options["n_sigma"], device="cpu", cells_and_nuclei=options["cells_and_nuclei"],
            dim_seeds=options["dim_seeds"],
        )  # fmt: skip
        network = method.initialize_pixel_classifier(network, MLP_width=5)
        if adapted:
            network = AdaptorNetWrapper(network, adaptor_net_str=adapted, norm=options["norm"])
    torch.manual_seed(2)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            part.weight.data.uniform_(0.7, 1.3)
            part.bias.data.normal_(0, 0.1)
    _shape_classifier(method.pixel_classifier, options["n_sigma"])
    _spread_heads(network.eval(), options["dim_seeds"])
    return network.eval()


def _shape_classifier(classifier: Any, n_sigma: int) -> None:
    """A pixel belongs to a seed within about eight pixels of it, a little more or less with its sigmas."""
    first = torch.zeros(5, 2 + n_sigma)
    first[0, 0], first[1, 0], first[2, 1], first[3, 1] = 1, -1, 1, -1
    first[:, 2:] = torch.randn(5, n_sigma) * 0.05
    classifier.fc1.weight.data, classifier.fc1.bias.data = first, torch.randn(5) * 0.01
    classifier.fc2.weight.data, classifier.fc2.bias.data = torch.eye(5), torch.zeros(5)
    classifier.fc3.weight.data, classifier.fc3.bias.data = -torch.ones(1, 5), torch.tensor([2.0])


def _spread_heads(network: Any, dim_seeds: int) -> None:
    """Make seed maps vary enough for peaks, and coordinates little enough for objects in one piece."""
    image = torch.from_numpy(normalised(picture(), LOW, SCALE))
    unet = getattr(network, "model", network)
    with torch.inference_mode():
        before = network(image)[0]
    at = 0
    heads = [head for decoder in unet.decoders for head in decoder.final_block]
    for number, head in enumerate(heads):
        wide = head[0].out_channels
        mean, spread = before[at : at + wide].mean((1, 2)), before[at : at + wide].std((1, 2)) + 1e-6
        at += wide
        # Seeds above 0.7 where the map is 1.5 deviations up; where a second map says no there are none.
        wanted = 2.0 if number % 3 == 2 else 0.1
        centre = torch.tensor([0.0, 1.0][:wide]) if number % 3 == 2 and dim_seeds == 2 else torch.zeros(wide)
        norm = head[1]
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.weight.data *= wanted / spread
            norm.bias.data = (norm.bias.data - mean) * (wanted / spread) + centre
        else:
            head[0].weight.data *= (wanted / spread)[:, None, None, None]
            head[0].bias.data = (head[0].bias.data - mean) * (wanted / spread) + centre


def scripted(network: Any, path: Path, **options: Any) -> Path:
    with contextlib.redirect_stdout(io.StringIO()):
        script = torch.jit.script(
            InstanSeg_Torchscript(
                network, **({"pixel_size": 0.5, "n_sigma": 2, "dim_coords": 2, "backbone_dim_in": 3} | options)
            )
        )
    script.save(str(path))
    return path


def brought(source: Path, tmp_path: Path, **wishes: Any) -> Imported:
    return import_model(str(source), Wishes(**wishes), lambda _line: None, tmp_path / "models")


def require_same_cells(imported: Imported, script: Path, object_class: int) -> int:
    """Our engine and head on bytes against the file's own network and head on the same, normalised; returns cells."""
    pixels = picture()
    logits = OnnxRuntimeEngine(imported.model).infer(pixels, LOW, SCALE)[0]
    steps = torch.linspace(0, EDGE / 4, EDGE).numpy()
    ours = find_instances(logits, imported.model, regrow=False, coordinates=Coordinates(steps, steps)).labels
    wanted = torch.tensor([int(number == object_class) for number in range(2)])
    with torch.inference_mode():
        image = torch.from_numpy(normalised(pixels, LOW, SCALE))
        theirs = torch.jit.load(str(script))(image, target_segmentation=wanted)[0, 0].numpy().astype(np.int32)
    assert np.count_nonzero(theirs) > 1000
    agreement = scores(theirs, ours)
    assert agreement.f1_50_90 >= 0.99
    return agreement.truth


def test_bright_field_nuclei(tmp_path: Path) -> None:
    script = scripted(built(), tmp_path / "random.pt", params={"seed_threshold": 0.65, "window_size": 24})
    imported = brought(script, tmp_path)
    assert (imported.model.seed_threshold, imported.model.window, imported.model.mpp) == (0.65, 24, 0.5)
    assert imported.parity.rebuilt == 0
    assert imported.parity.own_head_cells
    assert imported.parity.own_head_pixels_different == 0
    assert imported.about["receptive_radius"]["bound"] == 95
    assert require_same_cells(imported, script, 0) >= 20
    again = brought(script, tmp_path, replace=True)
    assert again.model.digest == imported.model.digest
    assert {finding.what: finding.outcome for finding in check_model(again.folder)}["parity"] == "ok"


@pytest.mark.parametrize(
    "wishes",
    [
        {"cells_and_nuclei": True, "adapted": "1"},
        {"cells_and_nuclei": True, "adapted": "1", "multihead": True, "dim_seeds": 2, "n_sigma": 1},
    ],
    ids=["one decoder", "two decoders, two seed maps, one sigma"],
)
def test_fluorescence_nuclei_and_cells(tmp_path: Path, wishes: dict[str, Any]) -> None:
    given = {"cells_and_nuclei": True} | {key: wishes[key] for key in ("dim_seeds", "n_sigma") if key in wishes}
    script = scripted(built(**wishes), tmp_path / "both.pt", **given)
    with pytest.raises(ImportNeedsMore, match="--objects nuclei or --objects cells"):
        brought(script, tmp_path)
    for number, objects in enumerate(("nuclei", "cells")):
        imported = brought(script, tmp_path, objects=objects)
        assert imported.model.name == f"both-{objects}"
        assert imported.parity.own_head_pixels_different == 0
        assert imported.about["receptive_radius"]["bound"] > 95
        require_same_cells(imported, script, number)
    assert load_model(tmp_path / "models" / "both-nuclei").digest != imported.model.digest


def test_an_official_zip_and_its_description(tmp_path: Path) -> None:
    script = scripted(built(), tmp_path / "instanseg.pt", pixel_size=0)
    rdf = {
        "name": "bright", "version": "9.9", "license": "Apache-2.0",
        "inputs": [{
            "axes": [{"type": "batch"}, {"id": "x", "scale": 0.4, "unit": "micrometer"}],
            "preprocessing": [{"id": "scale_range", "kwargs": {"min_percentile": 1.0, "max_percentile": 99.0}}],
        }],
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "bright.zip", "w") as archive:
        archive.write(script, "instanseg.pt")
        archive.writestr("rdf.yaml", json.dumps(rdf))
    imported = brought(tmp_path / "bright.zip", tmp_path)
    assert (imported.model.name, imported.model.mpp, imported.model.percentiles) == ("bright", 0.4, (1.0, 99.0))
    assert (imported.about["licence"], imported.about["version"]) == ("Apache-2.0", "9.9")
    with pytest.raises(ImportNeedsMore, match="--mpp"):
        brought(script, tmp_path / "other")


def test_an_official_model_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is typed; the file comes from here instead of from the release (`test_official` fetches over https)."""
    script = scripted(built(), tmp_path / "instanseg.pt")
    asked = []

    def fetched(url: str, name: str, folder: Path, sha256: str | None = None) -> tuple[Path, str]:
        asked.append(url)
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.write(script, f"{name}/instanseg.pt")
        return folder / f"{name}.zip", "0" * 64

    monkeypatch.setattr(importing, "fetch", fetched)
    monkeypatch.setenv("MICROTOME_MODELS", str(tmp_path / "models"))
    assert preferred_model() == "embedded"
    assert main(["model", "import", "brightfield_nuclei"]) == 0
    assert asked == [OFFICIAL["brightfield_nuclei"].url]
    about = json.loads((tmp_path / "models" / "brightfield_nuclei" / "about.json").read_text())
    assert (about["licence"], about["version"], about["source"]["url"]) == ("Apache-2.0", "0.1.1", asked[0])
    assert preferred_model() == "brightfield_nuclei"
    assert load_model("brightfield_nuclei").mpp == 0.5
    # What is there already is not replaced.
    assert main(["model", "import", "brightfield_nuclei"]) == 1


def test_a_checkpoint_of_the_packages_training(tmp_path: Path) -> None:
    folder = tmp_path / "run7"
    folder.mkdir()
    network = built(adapted="1")
    torch.save(
        {"f1_score": 0.5, "epoch": 3, "model_state_dict": network.state_dict(), "optimizer_state_dict": {}},
        folder / "model_weights.pth",
    )
    with (folder / "experiment_log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["requested_pixel_size", "0.65"], ["target_segmentation", "N"], ["n_sigma", "2"]])
    imported = brought(folder, tmp_path)
    assert (imported.model.name, imported.model.mpp) == ("run7", 0.65)
    assert imported.parity.compared_with == "the network rebuilt in PyTorch"
    with torch.inference_mode():
        theirs = network(torch.from_numpy(normalised(picture(), LOW, SCALE))).numpy()
    np.testing.assert_allclose(OnnxRuntimeEngine(imported.model).infer(picture(), LOW, SCALE), theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("wishes", "given", "why"),
    [
        ({"norm": "INSTANCE"}, {}, "instance normalisation"),
        ({"adapted": "1_ablated"}, {}, "parts that its weights do not show"),
        ({"n_sigma": 3}, {"n_sigma": 3}, "at most 2 sigmas"),
    ],
)
def test_networks_that_cannot_be_run_exactly_are_refused(
    tmp_path: Path, wishes: dict[str, Any], given: dict[str, Any], why: str
) -> None:
    script = scripted(built(**wishes), tmp_path / "other.pt", **given)
    with pytest.raises(ModelRefused, match=why):
        brought(script, tmp_path)
    assert not list((tmp_path / "models").glob("*"))


def test_torchscript_that_is_no_instanseg_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "line.pt"))
    with pytest.raises(ModelRefused, match="no InstanSeg"):
        brought(tmp_path / "line.pt", tmp_path)


class _Runs:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/microtome-this-must-not-be-made"),)


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {"a": torch.zeros(1)}, "more": _Runs()}, tmp_path / "model_weights.pth")
    with pytest.raises(ModelRefused, match="could run code"):
        brought(tmp_path, tmp_path)
    assert not Path("/tmp/microtome-this-must-not-be-made").exists()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the first weights are not at ../shared/models")
def test_the_first_weights_are_the_network_they_came_with(tmp_path: Path) -> None:
    imported = brought(SHARED / "first_brightfield_nuclei_16.safetensors", tmp_path)
    assert imported.model.seed_threshold == 0.4
    bare_onnx = SHARED / "first_brightfield_nuclei_16.onnx"
    import onnxruntime

    images = normalised(picture(), LOW, SCALE)
    theirs = onnxruntime.InferenceSession(str(bare_onnx), providers=["CPUExecutionProvider"]).run(None, {"x": images})
    np.testing.assert_allclose(OnnxRuntimeEngine(imported.model).infer(picture(), LOW, SCALE), theirs[0], atol=1e-4)
    shutil.rmtree(imported.folder)
