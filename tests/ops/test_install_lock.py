"""Installing tells how far it is."""

from __future__ import annotations

from ops.install_lock import packages, told
from ops.triton_process import ROOT

OUTPUT = """\
Collecting numpy==1.26.4 (from -r requirements/serving.txt (line 1))
  Downloading numpy-1.26.4-cp311-cp311-manylinux_2_17_x86_64.whl (18.3 MB)
Requirement already satisfied: pyyaml==6.0 in /somewhere
Installing collected packages: numpy
Successfully installed numpy-1.26.4
"""


def test_each_package_is_told_of_with_how_many_there_are() -> None:
    assert list(told(OUTPUT.splitlines(), 2)) == [
        "1 of 2 packages: numpy",
        "2 of 2 packages: pyyaml",
        "unpacking them",
    ]


def test_a_lock_s_packages_are_counted() -> None:
    lock = "# uv\na==1 \\\n    --hash=sha256:00\n    # via b==2\nb[x]==2 ; python_version < '3'\n"
    assert packages(lock) == 2
    assert packages((ROOT / "requirements" / "serving.txt").read_text()) > 10
