"""A memory allocator for tensors whose sizes change from pack to pack, as those of a CPU do.

glibc's cuts what was freed into ever more pieces: memory grows, and steps take the longer, the longer a process runs. tcmalloc
does not: BENCHMARKS.md, "The allocator of a CPU". It has to be there from the first allocation of a process on, so the program
starts once more with it. Only the standard library is imported, since that comes before everything else.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress

PRELOAD = "LD_PRELOAD"
LIBRARIES = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
PACKAGE = "libtcmalloc-minimal4"
"""Of Debian and Ubuntu."""
NVIDIA = "/proc/driver/nvidia"
"""There where tensors are in the memory of a GPU."""


def start_with_allocator() -> None:
    """Start this program once more, with tcmalloc, where that is installed; go on where it has been started so.

    It goes on as it is with a GPU, and where LD_PRELOAD is set, even to nothing.
    """
    chosen, found = os.environ.get(PRELOAD), find_allocator(os.environ)
    if chosen is None and found:
        quiet = {"TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": str(1 << 50)}  # else it reports whatever is over a gigabyte
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], quiet | os.environ | {PRELOAD: found})
    if chosen and chosen == found:
        del os.environ[PRELOAD]  # what this program starts, a browser for instance, is not to have it


def find_allocator(environment: Mapping[str, str]) -> str | None:
    """Return the file of tcmalloc, of an environment of Python or conda or of the system; None without, or with a GPU."""
    if sys.platform != "linux" or os.access(NVIDIA, os.F_OK):
        return None
    prefixes = (sys.prefix, environment.get("CONDA_PREFIX", sys.prefix), "/usr/local")
    folders = [f"{prefix}/lib" for prefix in prefixes] + [f"/usr/lib/{os.uname().machine}-linux-gnu", "/usr/lib64", "/usr/lib"]
    files = (f"{folder}/{library}" for library in LIBRARIES for folder in folders)
    return next((file for file in files if os.access(file, os.R_OK)), None)


def uses_tcmalloc() -> bool:
    """Return whether this process allocates by tcmalloc."""
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123 (as in `pipeline.__main__`)
        return "libtcmalloc" in maps.read()
    return False
