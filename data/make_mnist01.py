"""Writes impsamp/data/mnist01.npz from MNIST.

The first 50 zeros and 50 ones of the training part, all zeros and ones of the test part.

python data/make_mnist01.py [OUT]        # reads MNIST through IMPSAMP_DATA, or downloads it
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from impsamp.data.mnist import mnist_arrays, zeros_and_ones

EMBEDDED = Path(__file__).parents[1] / "impsamp" / "data" / "mnist01.npz"
UNIX = 3  # zip's number for the system that made a member


def write_npz(out, arrays):
    """What `numpy.savez_compressed` writes: the same arrays, the same bytes everywhere.

    But for what depends on the Python (its zip64 headers changed in 3.11.4) or the system."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
            member.create_system = UNIX
            member.external_attr = 0o644 << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            z.writestr(member, buffer.getvalue(), compresslevel=6)


def main(out):
    x, y = zeros_and_ones(*mnist_arrays("train"), 50)
    xt, yt = zeros_and_ones(*mnist_arrays("t10k"))
    write_npz(out, dict(x_train=x, y_train=y, x_test=xt, y_test=yt))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else EMBEDDED)
