"""Make the pictures of the documents: pages of a scan and of a check of the demo's rows, and what the terminal says.

python -m scripts.screenshots docs/images
"""

import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

from ripcurrent.data import DEMO_ROWS

RUN = [sys.executable, "-m", "ripcurrent"]
PLACE = Path("runs/pictures")


def main(images: Path) -> None:
    PLACE.mkdir(parents=True, exist_ok=True)
    shutil.copy(DEMO_ROWS, PLACE / "support.jsonl")
    scan = [*RUN, "scan", "support.jsonl", "--out", "runs/support"]
    said = subprocess.check_output(scan, text=True, cwd=PLACE)
    (console := Console(record=True, width=100, file=StringIO())).print(Text.from_ansi(said))
    console.save_svg(str(images / "terminal.svg"), title="ripcurrent scan support.jsonl")
    subprocess.run([*RUN, "check", "support.jsonl", "--recipe", "lora", "--out", "runs/check"], cwd=PLACE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        for name, run in (("report", "support"), ("check", "check")):
            page.goto((PLACE / "runs" / run / "report.html").resolve().as_uri())
            page.wait_for_timeout(500)
            page.screenshot(path=images / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
