"""The examples that measure something still do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_simulated_store_is_whole_and_everything_about_it_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", EXAMPLES / "store_at_scale.py", "--units", "300", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *rates, sizes = done.stdout.splitlines()
    assert len(rates) == 7
    assert all(re.fullmatch(r".+ [\d.]+ s +\d+ units/s", line) for line in rates)
    assert sizes.startswith("600 files, ")
    assert not list(tmp_path.iterdir())
