"""A fuzzer that sees which lines it reaches, for a bounded time on what reads untrusted text.

What it has found once lies in ``corpus`` with the seeds, and is tried first. The times that it gets
are ``FASTHEP_FUZZ_S`` seconds for each reader, 10 if that is not set.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = int(os.environ.get("FASTHEP_FUZZ_S") or 10)
TARGETS = ("document", "dotenv", "image", "source", "quantity")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is for Linux alone"
)


@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_get_an_answer_or_an_error_of_our_own(tmp_path: Path, target: str) -> None:
    found = tmp_path / "found"
    found.mkdir()
    corpus = HERE / "corpus" / target
    assert any(corpus.iterdir())
    options = [f"-max_total_time={SECONDS}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=4096"]
    done = subprocess.run(
        [sys.executable, HERE / "targets.py", target, found, corpus, *options],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    kept = [
        path for path in tmp_path.iterdir() if path.name.startswith(("crash", "timeout", "oom"))
    ]
    assert done.returncode == 0, (kept, [path.read_bytes() for path in kept], done.stderr[-4000:])
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None, done.stderr[-2000:]
    assert int(runs[1]) > len(list(corpus.iterdir()))
