"""Where int8 products need the slow kernel."""

from __future__ import annotations

import pytest

from python_backend.engine.processor import exact_products

SLOW = {"session.x64quantprecision": "1"}


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("fpu sse2 avx2 avx512f avx512_vnni", {}),
        ("fpu sse2 avx2 avx_vnni", {}),
        ("fpu sse2 avx2 avx512f", SLOW),
        ("fpu sse2", SLOW),
    ],
)
def test_processors_without_vnni_take_the_slow_kernel(tmp_path, flags, options):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags : {flags}\n")
    assert exact_products(cpuinfo) == options


def test_an_unknown_processor_takes_the_slow_kernel(tmp_path):
    assert exact_products(tmp_path / "nothing") == SLOW
