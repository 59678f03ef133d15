"""Published networks that tell voices apart: their files, their front end, their embeddings."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import tynda
from helpers import noise, write_manifest, write_wav
from speaker_peers import CamPlusPlus, ResNet, randomise, wespeaker_class
from tynda.cli import main
from tynda.compile.engine import open_engine
from tynda.errors import TyndaError
from tynda.models import campplus, family, speaker_resnet
from tynda.ops.numpy import NumpyOps
from tynda.ops.torch import TorchOps
from tynda.sound.frontend import KaldiFbank
from tynda.speakers.calibrate import calibrate
from tynda.speakers.profiles import ProfileStore
from tynda.speakers.voices import Speakers

torch.set_num_threads(1)
PEERS = {
    "ResNet": lambda: ResNet(16, 12, 4, (1, 2, 1, 1)),
    "bottleneck": lambda: ResNet(16, 12, 4, (1, 1, 2, 1), bottleneck=True),
    "CAM++": lambda: CamPlusPlus(16, 12, 8, 4, (2, 1, 2), 4, 8),
}
peers = pytest.mark.parametrize("kind", PEERS)
CONFIGS = {
    "speaker_resnet": speaker_resnet.Config(bins=16, vocab=6, channels=4, blocks=(1, 2, 1, 1)),
    "campplus": campplus.Config(
        bins=16, vocab=6, channels=8, filters=4, blocks=(2, 1, 2), growth=4, width=8
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each network with random weights, and the file that `torch.save` makes of it."""
    folder, found = tmp_path_factory.mktemp("networks"), {}
    for kind, make in PEERS.items():
        network, path = randomise(make()), folder / f"{kind}.pt"
        # WeSpeaker's training leaves the layer of its classes in the file.
        torch.save({**network.state_dict(), "projection.weight": torch.ones(3, 12)}, path)
        found[kind] = network, path
    return found


def embedding(network, front, samples):
    """Return a network's embedding of length 1."""
    with torch.no_grad():
        found = network(torch.from_numpy(front(samples))[None])
    vector = (found[-1] if isinstance(found, tuple) else found)[0].numpy()
    return vector / np.linalg.norm(vector)


@peers
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.7])
def test_embeddings_equal_the_reference(files, kind, seconds):
    network, path = files[kind]
    model, samples = tynda.load(path, bits=32), noise(seconds)
    assert isinstance(model.checkpoint.frontend, KaldiFbank)
    expected = embedding(network, model.checkpoint.frontend, samples)
    assert model.encode(samples) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("module", "name", "size"),
    [("resnet", "ResNet34", 256), ("resnet", "ResNet50", 256), ("campplus", "CAMPPlus", 512)],
)
def test_embeddings_equal_wespeakers_own(tmp_path, module, name, size):
    make = wespeaker_class(module, name)
    if make is None:
        pytest.skip("wespeaker is not installed (on PyPI: wespeaker-unofficial)")
    network = randomise(make(feat_dim=80, embed_dim=size))
    torch.save(network.state_dict(), tmp_path / "avg_model.pt")
    model = tynda.load(tmp_path, bits=32)
    for seconds in (0.5, 1.3):
        expected = embedding(network, model.checkpoint.frontend, noise(seconds))
        assert model.encode(noise(seconds)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_backends_and_padding_agree_with_numpy(name, backend):
    config, rng = CONFIGS[name], np.random.default_rng(0)
    encode = family(name).programs["encode"]
    weights = {
        key: rng.uniform(0.1, 1, spec.shape).astype("f4")
        * np.float32(np.prod(spec.shape[1:]) ** -0.5)
        for key, spec in family(name).specs(config).items()
    }
    x, lengths = rng.standard_normal((3, 230, 16), dtype=np.float32), np.array([230, 37, 203])
    if backend == "torch":
        tensors = {k: torch.from_numpy(v) for k, v in weights.items()}
        found = encode(TorchOps(), tensors, config, *map(torch.from_numpy, (x, lengths))).numpy()
    else:
        engine = open_engine(weights, family(name).trainable(config), "native", 32, 1)
        found = engine.array(engine.run(encode, config, x, lengths))
    for i, n in enumerate(lengths):
        alone = encode(NumpyOps(), weights, config, x[i : i + 1, :n], lengths[i : i + 1])[0]
        assert found[i] == pytest.approx(alone, abs=1e-4 * float(np.abs(alone).max()))


@peers
def test_all_layouts_of_files_are_one_model(files, kind, tmp_path):
    network, path = files[kind]
    expected = tynda.load(path, bits=32).encode(noise(1))
    state = network.state_dict()
    lightning = {
        "state_dict": {f"resnet.{name}": value for name, value in state.items()},
        "epoch": 3,
        "hyper_parameters": {"seen": {1, 2}, "where": tmp_path, "dtype": torch.float32},
    }
    torch.save(lightning, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.yaml").write_text("model: some\n")
    save_file(state, tmp_path / "voices.safetensors")
    half = {name: value.half() for name, value in state.items()}
    torch.save(half, tmp_path / "half.pt")
    parts = {name: nn_parameter(value) for name, value in state.items()}
    torch.save(parts, tmp_path / "parameters.pt")
    for place in (tmp_path, tmp_path / "voices.safetensors", tmp_path / "parameters.pt"):
        assert tynda.load(place, bits=32).encode(noise(1)) == pytest.approx(expected, abs=1e-6)
    assert tynda.load(tmp_path / "half.pt", bits=32).encode(noise(1)) @ expected > 0.999


def nn_parameter(value):
    return torch.nn.Parameter(value) if value.is_floating_point() else value


def test_a_folder_of_3d_speaker_has_its_front_end(files, tmp_path):
    _, path = files["CAM++"]
    (tmp_path / "campplus_cn.bin").write_bytes(path.read_bytes())
    about = {"model": {"type": "cam++-sv", "pretrained_model": "campplus_cn.bin"}}
    (tmp_path / "configuration.json").write_text(json.dumps(about))
    for place in (tmp_path, tmp_path / "campplus_cn.bin"):
        front = tynda.load(place).checkpoint.frontend
        assert front == KaldiFbank(bins=16, window="povey", scale=1.0)


def test_a_cam_that_does_not_tell_its_maker_is_refused(files, tmp_path):
    network, _ = files["CAM++"]
    torch.save(network.state_dict(), tmp_path / "voices.pt")
    with pytest.raises(TyndaError, match=r"whether WeSpeaker or 3D-Speaker made .* config.yaml"):
        tynda.load(tmp_path / "voices.pt")
    (tmp_path / "config.yaml").write_text("model: CAMPPlus\n")
    assert tynda.load(tmp_path / "voices.pt").checkpoint.frontend == KaldiFbank(bins=16)
    (tmp_path / "config.yaml").unlink()
    wide = randomise(CamPlusPlus(16, 192, 8, 4, (2, 1, 2), 4, 8))
    torch.save(wide.state_dict(), tmp_path / "wide.pt")
    front = tynda.load(tmp_path / "wide.pt").checkpoint.frontend
    assert front == KaldiFbank(bins=16, window="povey", scale=1.0)


def test_a_model_is_calibrated_quantised_and_used(files, tmp_path):
    _, path = files["ResNet"]
    model = tynda.load(path)
    with pytest.raises(TyndaError, match="has no thresholds: `tynda speakers calibrate`"):
        Speakers(model)
    rows = []
    for person in range(6):
        for take in range(4):
            file = tmp_path / f"{person}-{take}.wav"
            write_wav(file, noise(1, seed=10 * person + take) * (1 + person))
            rows.append((file, "", {"speaker": f"p{person}"}))
    few, all_rows = tmp_path / "few.jsonl", tmp_path / "all.jsonl"
    write_manifest(few, rows[:8])
    write_manifest(all_rows, rows)
    small, output = tmp_path / "small.safetensors", tmp_path / "voices.safetensors"
    run = CliRunner().invoke
    assert run(main, ["quantize", str(path), "-o", str(small), "--bits", "4"]).exit_code == 0
    found = run(main, ["speakers", "calibrate", str(small), str(few), "-o", str(output)])
    assert found.exit_code == 1
    assert "names 2 speakers: it needs four and more, with 4 and more" in found.output
    found = run(main, ["speakers", "calibrate", str(small), str(all_rows), "-o", str(output)])
    assert found.exit_code == 0, found.output
    assert "3 people in the cohort; 3 for thresholds" in found.output
    with pytest.raises(TyndaError, match="last layer of a speaker_resnet cannot"):
        calibrate(small, all_rows, tmp_path / "refit.safetensors", refit=True)
    loaded = tynda.load(output)
    assert loaded.checkpoint.weights["cohort"].shape == (3, 12)
    assert loaded.encode(noise(1)) == pytest.approx(tynda.load(small).encode(noise(1)), abs=1e-6)
    speakers = Speakers(loaded, ProfileStore(tmp_path / "p", tmp_path / "k"))
    assert speakers.threshold(3) >= speakers.threshold(1)
    found = run(main, ["speakers", "calibrate", "sentences-en", str(all_rows), "-o", str(few)])
    assert found.exit_code == 1
    again = tmp_path / "again.safetensors"
    found = run(main, ["speakers", "calibrate", "sentences-en", str(all_rows), "-o", str(again)])
    assert found.exit_code == 1
    assert "sentences-en is no model of voices" in found.output


class Harm:
    """What a pickle may do: call any function when it is read."""

    def __reduce__(self):
        return open, ("harm", "w")


def rewritten(path, output, change):
    """Copy a zip archive; ``change`` maps a name and its bytes to other bytes."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(output, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return output


def test_nothing_in_a_file_runs(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, _ = files["ResNet"]
    torch.save({**network.state_dict(), "harm": Harm()}, tmp_path / "harm.pt")
    assert tynda.load(tmp_path / "harm.pt").encode(noise(1)).shape == (12,)
    assert not (tmp_path / "harm").exists()


def test_damaged_files_are_one_line(files, tmp_path):
    network, path = files["ResNet"]
    state = network.state_dict()

    def refused(match, held=None, change=None):
        file = tmp_path / "voices.pt"
        if change is not None:
            rewritten(path, file, change)
        else:
            torch.save(held, file)
        with pytest.raises(TyndaError, match=match):
            tynda.load(file)

    refused("has no network that is known", {"a.weight": torch.ones(2)})
    refused("seg_1.weight is missing", {k: v for k, v in state.items() if "seg_1" not in k})
    refused(
        "layer2.1.bn2.running_var is missing",
        {k: v for k, v in state.items() if k != "layer2.1.bn2.running_var"},
    )
    refused("not finite", {**state, "seg_1.bias": torch.full((12,), torch.nan)})
    refused("not supported", {**state, "seg_2.weight": torch.ones(2, 2)})
    refused(
        "conv1.weight is .* and the others require",
        {**state, "layer1.0.conv1.weight": torch.ones(4, 3, 3, 3)},
    )
    refused("do not fit each other|require", {**state, "bn1.bias": torch.ones(7)})
    refused("damaged", change=lambda name, data: data[:-40] if "data.pkl" in name else data)
    refused("damaged", change=lambda name, data: data[:-4] if "/data/" in name else data)
    refused("damaged", change=lambda name, data: b"big" if "byteorder" in name else data)
    loop = []
    loop.append(loop)
    bomb = pickle.dumps({"layer1.0.conv1.weight": loop}, 2)
    refused("no network", change=lambda name, data: bomb if "data.pkl" in name else data)
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:2000])
    with pytest.raises(TyndaError, match="damaged or no file of PyTorch"):
        tynda.load(tmp_path / "cut.pt")
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").writestr("a", b"")
    (tmp_path / "other.zip").write_bytes(empty.getvalue())
    with pytest.raises(TyndaError, match="damaged or no file of PyTorch"):
        tynda.load(tmp_path / "other.zip")


# Computed by kaldi-native-fbank 1.23 (dither 0, 80 bins) of the samples below; each number is a
# frame's bin, so that they do not depend on our filters.
KALDI = {
    "hamming": {(0, 0): 6.6582, (10, 20): 10.2392, (24, 40): 21.2149, (47, 3): 12.1337},
    "povey": {(0, 0): 6.5102, (10, 20): 2.5121, (24, 40): 21.2307, (24, 79): 21.3270},
}


def ramp():
    """Samples that no library computes otherwise: two tones that rise and a click."""
    t = np.arange(8000, dtype=np.float64)
    samples = 0.2 * np.sin(t * t * 2e-4) + 0.05 * np.sin(0.7 * t)
    samples[4000] += 0.5
    return (samples * t / 8000).astype(np.float32)


@pytest.mark.parametrize("window", KALDI)
def test_fbank_is_kaldis(window):
    features = KaldiFbank(window=window, mean=False)(ramp())
    assert features.shape == (48, 80)
    for (frame, place), value in KALDI[window].items():
        assert features[frame, place] == pytest.approx(value, abs=1e-3)
    centred = KaldiFbank(window=window)(ramp())
    assert centred == pytest.approx(features - features.mean(0), abs=1e-5)
