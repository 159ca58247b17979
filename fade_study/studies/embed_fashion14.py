"""Make the embedded data set ``fashion14.npz`` from a folder with Fashion-MNIST's original files.

python -m fade_study.studies.embed_fashion14 /usr/share/datasets/fashion-mnist
"""

import argparse
from pathlib import Path

import numpy as np

from fade_study.datasets import FASHION14, shrink_fashion
from fade_study.training.files import read_fashion_mnist

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    found = read_fashion_mnist(folder)
    if found is None:
        parser.error(f"expected Fashion-MNIST's four original files in {folder}, got none or not all")
    images, labels = shrink_fashion(*found[:2])
    np.savez_compressed(FASHION14, images=images, labels=labels)
    print(f"{FASHION14}: {len(images)} images, {FASHION14.stat().st_size} bytes")
