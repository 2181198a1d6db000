"""A memory allocator for tensors whose sizes change from pack to pack, as those of a CPU do.

glibc's cuts what was freed into ever more pieces: memory grows for hours, and up to a tenth of the time goes into the search
for room. tcmalloc does neither: BENCHMARKS.md, "The allocator of a CPU". It has to be there from the first allocation of a
process on, so the program starts once more with it. Only the standard library is imported, since that comes before everything
else.
"""

import os
import resource
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

PRELOAD = "LD_PRELOAD"
AGAIN = "ARC_PIPELINE_STARTED_AGAIN"
"""Environment variable of a program that has been started once more."""
LIBRARIES = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
PACKAGE = "libtcmalloc-minimal4"
"""Of Debian and Ubuntu."""
NVIDIA = "/proc/driver/nvidia"
"""There with the driver of a GPU."""


def start_with_allocator() -> None:
    """Start this program once more, with tcmalloc, where that is installed; go on where it has been started so.

    It goes on as it is with a GPU, with limited address space, where LD_PRELOAD is set, even to nothing, and where something
    runs it, such as a debugger.
    """
    if os.environ.pop(AGAIN, None) is not None:
        os.environ.pop(PRELOAD, None)  # what this program starts, a browser for instance, is not to have it
        return
    library = find_allocator()
    kept = PRELOAD in os.environ or has_gpu(os.environ) or has_limit()
    if library and not kept and is_command(sys.orig_argv):
        quiet = {"TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": str(1 << 50)}  # else it reports whatever is over a gigabyte
        environment = quiet | os.environ | {PRELOAD: library, AGAIN: "1"}
        with suppress(OSError):
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def find_allocator() -> str | None:
    """Return the file of tcmalloc, of this Python's environment or of the system; None where there is none."""
    folders = (f"{sys.prefix}/lib", f"{sys.base_prefix}/lib", "/usr/local/lib", f"/usr/lib/{os.uname().machine}-linux-gnu")
    files = (f"{folder}/{library}" for library in LIBRARIES for folder in (*folders, "/usr/lib64", "/usr/lib"))
    divided = set(" :")  # what divides the files of LD_PRELOAD
    return next((file for file in files if os.access(file, os.R_OK) and not divided & set(file)), None)


def has_gpu(environment: Mapping[str, str]) -> bool:
    """Return whether tensors are likely to be in the memory of a GPU, found without torch."""
    if not os.access(NVIDIA, os.F_OK):
        return False
    from pipeline.system.processors import hides_gpus, stays_on_cpu  # noqa: PLC0415 (imports more than a first start needs)

    return not (stays_on_cpu(environment) or hides_gpus(environment))


def has_limit() -> bool:
    """Return whether the address space is limited (`ulimit -v`): with tcmalloc the program may crash where that is used up."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def is_command(words: Sequence[str]) -> bool:
    """Return whether the words that started Python are `python -m pipeline ...` or `arc-trm ...`, not those of a debugger."""
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    return module == ["pipeline"] or any(word.endswith("arc-trm") for word in words[1:2])


def uses_tcmalloc() -> bool:
    """Return whether this process allocates by tcmalloc."""
    maps = "/proc/self/maps"
    with suppress(OSError), open(maps, encoding="utf-8", errors="replace") as mapped:  # noqa: PTH123 (pathlib is slow)
        return "libtcmalloc" in mapped.read()
    return False
