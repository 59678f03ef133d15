"""Weights to begin a training with."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tynda.models import sinusoids, whisper  # noqa: E402
from tynda.train.start import initial_weights, look_near  # noqa: E402


@pytest.mark.parametrize("heads", [1, 4, 5])
def test_each_head_looks_at_its_own_distance(heads):
    config = whisper.Config(channels=160, layers=2, heads=heads, decoder_heads=1, frames=200)
    weights = initial_weights(whisper.specs(config), 0)
    before = {name: value.clone() for name, value in weights.items()}
    look_near(weights, config)
    places = torch.from_numpy(sinusoids(200, 160))
    width = 160 // heads
    for layer, reach in enumerate((3, 6)):
        name = f"model.encoder.layers.{layer}.self_attn"
        query, key = (places @ weights[f"{name}.{part}_proj.weight"].T for part in "qk")
        distances = np.linspace(-reach, reach, heads) if heads > 1 else [0]
        for head, distance in enumerate(distances):
            rows = slice(head * width, (head + 1) * width)
            found = (query[:, rows] @ key[:, rows].T).argmax(1)[20:-20]
            away = found - torch.arange(20, 180)
            assert abs(away.float().median().item() - distance) <= 1
    changed = {name for name, value in before.items() if not torch.equal(value, weights[name])}
    assert len(changed) == 4
    assert all("encoder" in name and "self_attn" in name for name in changed)
