"""A page in a real browser without a window, as wide as a phone or a desk, in light or dark."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

# The page lies in a frame of the width that is asked for (a window cannot be as narrow as a phone), and its
# outermost document reports what the browser made of it.
_PROBE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="frame" style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe>
<pre id="found"></pre>
<script>
const frame = document.getElementById("frame");
frame.onload = () => {{
  const inside = frame.contentDocument, root = inside.documentElement;
  const boxes = [...inside.querySelectorAll("svg, img")].map((one) => one.getBoundingClientRect());
  const broken = [...inside.images].filter((one) => one.complete && !one.naturalWidth).length;
  const text = frame.contentWindow.getComputedStyle(inside.body);
  document.getElementById("found").textContent = JSON.stringify({{
    scroll: root.scrollWidth, width: root.clientWidth, pictures: boxes.length, broken,
    flat: boxes.filter((box) => box.width < 20 || box.height < 20).length,
    wide: boxes.filter((box) => box.left < 0).length,
    ink: text.color, ground: text.backgroundColor,
  }});
}};
</script>
"""


def command(*words: str, dark: bool) -> list[str]:
    assert BROWSER is not None
    colors = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    safe = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
    return [BROWSER, "--headless", *safe, *colors, "--virtual-time-budget=4000", *words]


def look(page: Path, folder: Path, *, width: int, dark: bool) -> tuple[dict[str, Any], list[str]]:
    """Return what a browser found, and what it complained of on its console."""
    probe = folder / f"probe_{width}_{dark}.html"
    quoted = page.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    probe.write_text(_PROBE.format(width=width, page=quoted), encoding="utf-8")
    profile = f"--user-data-dir={folder / 'profile'}"
    words = ("--enable-logging=stderr", profile, "--window-size=1400,1000", "--dump-dom", probe.as_uri())
    done = subprocess.run(command(*words, dark=dark), capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(found[1].replace("&quot;", '"')), said
