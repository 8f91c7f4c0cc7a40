"""Where int8 products need the slow kernel."""

from __future__ import annotations

import platform

import pytest

from python_backend.engine.processor import exact_products, processor_name

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


def test_a_processor_is_called_what_it_calls_itself(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: A Processor 7\nmodel name\t: B\n")
    assert processor_name(path) == "A Processor 7"
    assert processor_name(tmp_path / "missing") == platform.machine()
