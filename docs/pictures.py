"""Make the pictures of README and guide anew from real output (needs Chromium).

python docs/pictures.py                       the demo's report and its words
python docs/pictures.py --mistake PAGE.html   the first mistake of a page of `captum-tracinwe explain`, such as the one that
                                              `benchmarks/first_answer.py --pages FOLDER` keeps
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


# Of a page of mistakes: the key, and the first card.
FIRST_MISTAKE = (
    "<style>.ctwe main>*:not(#answers),.ctwe #answers>*:not(.key):not(.list),.ctwe .list>details:not(#a0){display:none!important}"
    ".ctwe .in{padding:.7rem .9rem!important;max-width:none!important}.ctwe #answers{margin:0;padding:0;border:0}</style>"
)


def mistake(browser: str, page: Path) -> None:
    """The first mistake of ``page``: who taught the model its answer, by which words."""
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "mistake.html"
        text = page.read_text(encoding="utf-8").replace("<main", f"{FIRST_MISTAKE}<main", 1)
        alone.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text), encoding="utf-8")
        screenshot(browser, alone, IMAGES / "banking77.png", 1100, 674)


def main() -> None:
    """Run the demo, photograph its report, plot its words; or photograph one mistake."""
    from captum_tracinwe import visualization
    from captum_tracinwe.app import demo

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mistake", type=Path, help="a page of `captum-tracinwe explain`")
    args = parser.parse_args()
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"No browser found: install one of {', '.join(BROWSERS)}.")
    IMAGES.mkdir(exist_ok=True)
    if args.mistake:
        mistake(browser, args.mistake)
        return
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.html"
        findings = demo.run_planted(demo.Settings(out=report))
        screenshot(browser, report, IMAGES / "report.png", 1100, 1240)
    fig, _ = visualization.plot_word_report(findings.words, top=10)
    fig.savefig(IMAGES / "words.png", dpi=130)


if __name__ == "__main__":
    main()
