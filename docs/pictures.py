"""Make the pictures of README and guide anew from real output (needs Chromium).

python docs/pictures.py                   the demo's report and its words
python docs/pictures.py --words PAGE.html the words of a page of `captum-tracinwe explain`: that of AG News, `--limit 2000`
"""

from __future__ import annotations

import argparse
import re
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


# Of a page of `captum-tracinwe explain` the words of the training set, which quote no text.
WORDS = (
    "<style>.ctwe main>*:not(#habits){display:none!important}"
    ".ctwe .in{padding:.7rem .9rem!important;max-width:none!important}.ctwe #habits{margin:0;padding:0;border:0}</style>"
)


def words(browser: str, page: Path) -> None:
    """The words of ``page`` that go with one class."""
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "words.html"
        text = page.read_text(encoding="utf-8").replace("<main", f"{WORDS}<main", 1)
        alone.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text), encoding="utf-8")
        screenshot(browser, alone, IMAGES / "ag_news_words.png", 1100, 648)


def main() -> None:
    """Run the demo, photograph its report, plot its words; or photograph the words of a page."""
    from captum_tracinwe import visualization
    from captum_tracinwe.app import demo

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=Path, help="a page of `captum-tracinwe explain`")
    args = parser.parse_args()
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"No browser found: install one of {', '.join(BROWSERS)}.")
    IMAGES.mkdir(exist_ok=True)
    if args.words:
        words(browser, args.words)
        return
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.html"
        findings = demo.run_planted(demo.Settings(out=report))
        screenshot(browser, report, IMAGES / "report.png", 1100, 1240)
    fig, _ = visualization.plot_word_report(findings.words, top=10)
    fig.savefig(IMAGES / "words.png", dpi=130)


if __name__ == "__main__":
    main()
