"""A docker that a test may kill, fill up and throw away."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import psutil
from tests.faults.conftest import wait_until


class Daemon:
    """A dockerd of a test's own, which it may kill.

    Args:
        root: Of all its files; short, for its socket lies there.
        options: Of its command line.
    """

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self.host = f"unix://{root}/s"
        argv: list[str | Path] = ["dockerd", "--host", self.host, "--iptables=false"]
        argv += ["--bridge=none", "--data-root", root / "data", "--exec-root", root / "exec"]
        self.process = subprocess.Popen(
            [*argv, "--pidfile", root / "pid", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: self.ask("version") == 0, "dockerd answers")

    def ask(self, *words: str) -> int:
        """Its client's exit code."""
        argv = ["docker", "--host", self.host, *words]
        return subprocess.run(argv, capture_output=True, check=False).returncode

    def close(self) -> None:
        """Leave nothing of it, nor of what it left itself."""
        self.process.kill()
        self.process.wait()
        for process in psutil.process_iter():
            try:
                if any(str(self.root) in word for word in process.cmdline()):
                    process.kill()
                    psutil.wait_procs([process], timeout=10)
            except psutil.Error:
                continue
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        below = [mount for mount in mounts if mount.startswith(f"{self.root}/")]
        for mount in sorted(below, reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=True)
        # It may be a disk of its own.
        shutil.rmtree(self.root, ignore_errors=True)
