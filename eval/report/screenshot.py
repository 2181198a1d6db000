"""Screenshots of parts of a report, by an installed Chromium or Chrome: headless, with a new profile, without network."""

import io
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

from augment.errors import InputError
from eval.files import leave_file

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "microsoft-edge-stable")
"""Programs that can draw a page, the first that is found."""
BROWSER_VARIABLE = "ARC_BROWSER"
"""The environment variable that names another one."""
FLAGS = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--mute-audio", "--hide-scrollbars"),
)
LIMIT_SECONDS = 60.0
MOST_HEIGHT = 8_000
"""Pixels of a picture; what is below is cut off."""
_READY_MILLISECONDS = 10_000  # of the page's virtual clock, which runs as fast as it can


def find_browser() -> Path | None:
    """Return the program of a Chromium or Chrome, None where there is none. Raises InputError for a wrong ARC_BROWSER."""
    named = os.environ.get(BROWSER_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise InputError(f"{BROWSER_VARIABLE} names {named}, which cannot be started")
        return Path(found)
    return next((Path(found) for name in BROWSERS if (found := shutil.which(name))), None)


def need_browser() -> Path:
    """Return the program of the browser. Raises InputError of one line with how to install one where there is none."""
    browser = find_browser()
    if browser is None:
        raise InputError(
            f"a picture is drawn by Chromium or Chrome, and there is none on the PATH: install one (Debian and Ubuntu: apt "
            f"install chromium), or name its program in {BROWSER_VARIABLE}"
        )
    return browser


def draw_page(page: Path, part: str, path: Path, width: int, dark: bool) -> None:
    """Draw a part of the report `page` into the PNG `path`, `width` pixels wide and as high as the part is.

    `part` is "" for the summary, "filter=NAME" for the tasks of a filter, "task=ID" for one task. Raises InputError where there
    is no browser or no such part, OSError where the browser fails.
    """
    from PIL import Image  # noqa: PLC0415 (comes with matplotlib, slow to import)

    browser = need_browser()
    flags = [*FLAGS, f"--virtual-time-budget={_READY_MILLISECONDS}", f"--window-size={width},{MOST_HEIGHT}"]
    flags += ["--force-dark-mode"] if dark else []
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses a sandbox as root
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        drawn = Path(folder) / "page.png"
        address = f"{page.resolve().as_uri()}?picture#{quote(part, safe='=')}"
        shown = _start([browser, f"--user-data-dir={folder}/profile", *flags, "--dump-dom", f"--screenshot={drawn}", address])
        height = re.search(r'<html[^>]* data-height="(\d+)"', shown)  # the page's script knows it
        if height is None:
            raise InputError(f"{page}: has no {part.replace('=', ' ') or 'summary'} to draw")
        if not drawn.is_file():
            raise OSError(f"{browser}: drew nothing")
        content = io.BytesIO()
        with Image.open(drawn) as picture:
            upper = picture.convert("RGB").crop((0, 0, picture.width, min(int(height[1]), picture.height)))
            upper.save(content, format="PNG", optimize=True)
    leave_file(path, content.getvalue())


def _start(command: list[str | Path]) -> str:
    browser = command[0]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{browser}: was not ready in {LIMIT_SECONDS:.0f} s") from None
    except OSError as error:
        raise OSError(f"{browser}: cannot be started: {error}") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"{browser}: ended with {done.returncode}: {said}")
    return done.stdout
