"""Pictures of a notebook with 64 colours instead of millions: a third of the bytes, same look.

python docs/smaller.py nbs/tutorials/01_worth_it.ipynb
"""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

from PIL import Image

# the default palette goes by area: thin lines of two colours came out in one
PALETTE = {"method": Image.Quantize.MAXCOVERAGE, "kmeans": 1, "dither": Image.Dither.NONE}


def smaller(png: bytes) -> bytes:
    "The picture with a palette, or as it was where that saves nothing."
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        flat = picture.convert("RGB")
    flat.quantize(64, **PALETTE).save(buffer, "PNG", optimize=True)
    return min(buffer.getvalue(), png, key=len)


def with_smaller_pictures(book: dict) -> dict:
    "`book` (the JSON of a notebook) with its PNG outputs made smaller in place."
    for cell in book["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                png = base64.b64decode("".join(data["image/png"]))
                data["image/png"] = base64.b64encode(smaller(png)).decode()
    return book


def main(names: list[str]) -> None:
    for path in map(Path, names):
        book = with_smaller_pictures(json.loads(path.read_text()))
        path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
