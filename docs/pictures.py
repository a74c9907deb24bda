"""Make the README's pictures anew from real output: `python docs/pictures.py` (needs Chromium)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def screenshot(browser: str, page: Path, image: Path, width: int, height: int) -> None:
    """The top of ``page`` as a picture of ``width`` x ``height``."""
    with tempfile.TemporaryDirectory() as profile:
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        offline = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
        place = [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={image}"]
        subprocess.run([browser, *quiet, *offline, *place, page.as_uri()], check=True, capture_output=True)


def main() -> None:
    """Run the demo, photograph its report, plot its words."""
    from captum_tracinwe import visualization
    from captum_tracinwe.app import demo

    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"No browser found: install one of {', '.join(BROWSERS)}.")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.html"
        findings = demo.run_planted(demo.Settings(out=report))
        screenshot(browser, report, IMAGES / "report.png", 1100, 1240)
    fig, _ = visualization.plot_word_report(findings.words, top=10)
    fig.savefig(IMAGES / "words.png", dpi=130)


if __name__ == "__main__":
    main()
