"""Every file of the corpus is read right or refused in one line, and what was read survives being written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from corpus import Case, build, check

from amd_restore.image_io import Picture, decode, encode, read_image

_FOLDER = tempfile.TemporaryDirectory(prefix="corpus", ignore_cleanup_errors=True)  # cases are needed at collection
CASES = build(Path(_FOLDER.name))
GOOD = [case for case in CASES if case.error is None]


def test_corpus_is_large() -> None:
    assert len(CASES) >= 60 and len({case.path for case in CASES}) == len(CASES)
    assert {path for path in Path(_FOLDER.name).iterdir()} == {case.path for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reads_right_or_says_why(case: Case, capfd: pytest.CaptureFixture[str]) -> None:
    check(case, read_image)
    assert capfd.readouterr() == ("", ""), "libraries must not print"


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_survives_lossless_formats(case: Case) -> None:
    picture = read_image(case.path)
    for suffix in (".png", ".tiff"):
        back = decode(encode(picture, suffix))
        expected = picture
        if suffix == ".png" and picture.pixels.dtype == np.float32:
            expected = Picture((picture.pixels * 65535 + 0.5).astype(np.uint16), picture.icc, picture.exif)
        assert np.array_equal(back.pixels, expected.pixels) and back.pixels.dtype == expected.pixels.dtype
        assert back.icc == picture.icc
