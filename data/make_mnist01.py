"""Writes impsamp/mnist01.npz from MNIST: the first 50 zeros and 50 ones of the training part, all zeros and ones of the test part.

    python data/make_mnist01.py [OUT]        # reads MNIST through IMPSAMP_DATA, or downloads it
"""
import sys
from pathlib import Path

import numpy as np

from impsamp.data import mnist_arrays, zeros_and_ones


def main(out):
    x, y = zeros_and_ones(*mnist_arrays("train"), 50)
    xt, yt = zeros_and_ones(*mnist_arrays("t10k"))
    with open(out, "wb") as f:                       # numpy stamps members with a fixed date: the bytes repeat
        np.savez_compressed(f, x_train=x, y_train=y, x_test=xt, y_test=yt)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "impsamp" / "mnist01.npz")
