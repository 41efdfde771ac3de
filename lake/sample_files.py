"""Makes the bytes of the sample files: FITS, HDF5, ROOT, CSV, JSON, text.

From fixed seeds, so the data are the same everywhere (a ROOT file also holds its birthday).

    python -m lake.sample_files DIRECTORY

Runs in the mount's environment (numpy, astropy, h5py, uproot) as a subprocess, once per
installation: samples_directory() in placing.py keeps the result.
"""

import hashlib
import io
import json
import math
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import uproot
from astropy.io import fits
from astropy.wcs import WCS

from lake.samples import BIG_SIZE, FILES, SampleFile

_SIDE = 192  # pixels; 73 KB an image
_TARGETS = {  # right ascension, declination (degrees, J2000)
    "M31": (10.6847, 41.2690),
    "NGC 1068": (40.6696, -0.0133),
    "Coma": (194.9531, 27.9807),
    "M87": (187.7059, 12.3911),
}


def fits_image(file: SampleFile, noise: np.random.Generator) -> bytes:
    """A galaxy and some stars on a noisy sky, with a WCS."""
    target = str(file.metadata.get("target", "M31"))
    band = str(file.metadata.get("band", "r"))
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE]
    radius = np.hypot(rows - _SIDE / 2, (columns - _SIDE / 2) * 1.6)
    image = 200 + 2500 * np.exp(-radius / 14) + noise.normal(0, 9, (_SIDE, _SIDE))
    for x, y, flux in noise.uniform((0, 0, 100), (_SIDE, _SIDE, 6000), (40, 3)):
        image += flux * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 5.0)
    sky = WCS(naxis=2)
    sky.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    sky.wcs.crval = _TARGETS[target]
    sky.wcs.crpix = [_SIDE / 2, _SIDE / 2]
    sky.wcs.cdelt = [-0.396 / 3600, 0.396 / 3600]
    header = sky.to_header()
    header["OBJECT"] = (target, "name of the target")
    header["FILTER"] = (band, "SDSS-like band")
    header["EXPTIME"] = (120.0, "[s] exposure time")
    header["DATE-OBS"] = ("2026-01-10T22:14:05", "UTC, start of exposure")
    header["TELESCOP"] = "LK-1"
    header["INSTRUME"] = "LakeCam"
    header["GAIN"] = (1.4, "[e-/ADU]")
    header["AIRMASS"] = 1.12
    header["BUNIT"] = "adu"
    pixels = np.clip(image, 0, 32767).astype(np.int16)
    output = io.BytesIO()
    fits.PrimaryHDU(pixels, header).writeto(output)
    return output.getvalue()


def hdf5_cube(_: SampleFile, noise: np.random.Generator) -> bytes:
    """A spectral cube: velocity, y, x."""
    velocity = np.linspace(900, 1400, 48)
    rows, columns = np.mgrid[0:64, 0:64] - 32
    centre = 1137 + 110 * columns / np.hypot(rows, columns + 0.5).clip(4)
    line = np.exp(-(((velocity[:, None, None] - centre) / 28) ** 2))
    cube = line * np.exp(-np.hypot(rows, columns) / 16) + noise.normal(0, 0.02, (48, 64, 64))
    output = io.BytesIO()
    with h5py.File(output, "w", track_order=False) as store:
        data = store.create_dataset("cube", data=cube.astype(np.float32), chunks=(8, 32, 32))
        data.attrs["BUNIT"] = "Jy/beam"
        data.attrs["OBJECT"] = "NGC 1068"
        store.create_dataset("velocity", data=velocity).attrs["unit"] = "km/s"
    return output.getvalue()


def root_tree(file: SampleFile, noise: np.random.Generator) -> bytes:
    """Dimuon events as a ROOT tree: a Z peak over a falling background."""
    count = 20000
    peak = noise.normal(91.2, 2.6, count // 4)
    mass = np.concatenate([peak, 20 + noise.exponential(40, count - len(peak))])
    # uproot closes what it is given, so not a BytesIO
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "events.root"
        _write_tree(path, count, mass, file, noise)
        return path.read_bytes()


def _write_tree(
    path: Path, count: int, mass: Any, file: SampleFile, noise: np.random.Generator
) -> None:
    with uproot.recreate(path) as store:
        tree: dict[str, Any] = {
            "run": np.full(count, file.metadata.get("run", 0), dtype=np.int32),
            "event": np.arange(count, dtype=np.int64),
            "mass": noise.permutation(mass).astype(np.float32),
            "pt": noise.exponential(25, count).astype(np.float32),
            "eta": noise.normal(0, 1.4, count).astype(np.float32),
            "charge": noise.choice([-1, 1], count).astype(np.int8),
        }
        store.mktree("events", {name: column.dtype for name, column in tree.items()})
        store["events"].extend(tree)


def json_document(file: SampleFile, noise: np.random.Generator) -> bytes:
    """The summary of a fit."""
    fit: dict[str, Any] = {"of": file.did, "chi2": round(float(noise.chisquare(40)), 3), "ndof": 40}
    return json.dumps(fit, indent=1).encode() + b"\n"


def csv_table(_: SampleFile, noise: np.random.Generator) -> bytes:
    """A spectrum as text."""
    lines = ["wavelength_nm,flux"]
    for wavelength in range(380, 781):
        dip = 0.5 * math.exp(-(((wavelength - 656.3) / 4) ** 2))
        lines.append(f"{wavelength},{1 - dip + float(noise.normal(0, 0.01)):.5f}")
    return "\n".join(lines).encode() + b"\n"


def text(file: SampleFile, _: np.random.Generator) -> bytes:
    """A line that tells the file apart from its namesakes."""
    return f"This is {file.did}, kept at {', '.join(file.rses)}.\n".encode()


def plain_bytes(_: SampleFile, noise: np.random.Generator) -> bytes:
    """Bytes nothing compresses."""
    return noise.bytes(100_000)


MAKERS: dict[str, Callable[[SampleFile, np.random.Generator], bytes]] = {
    "fits": fits_image,
    "hdf5": hdf5_cube,
    "root": root_tree,
    "json": json_document,
    "csv": csv_table,
    "text": text,
    "bytes": plain_bytes,
}


def zeros_entry(size: int) -> dict[str, Any]:
    """Describe a file of *size* zero bytes without reading it.

    Adler-32 keeps a = 1 + sum of bytes = 1 and b = sum of all a = size, both modulo 65521.
    """
    return {"bytes": size, "adler32": f"{(size % 65521) << 16 | 1:08x}", "md5": None}


def main() -> None:
    """Write every file as DIRECTORY/<number> and the description of all as manifest.json."""
    directory = Path(sys.argv[1])
    manifest: dict[str, dict[str, Any]] = {}
    for number, file in enumerate(FILES):
        if file.kind == "zeros":
            manifest[file.did] = zeros_entry(BIG_SIZE)
            continue
        content = MAKERS[file.kind](file, np.random.default_rng(number))
        (directory / str(number)).write_bytes(content)
        manifest[file.did] = {
            "content": str(number),
            "bytes": len(content),
            "adler32": f"{zlib.adler32(content):08x}",
            "md5": hashlib.md5(content).hexdigest(),
        }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1))


if __name__ == "__main__":
    main()
