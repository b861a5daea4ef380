"""Output without end, without line ends, and without sense."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.conftest import RUNTIMES
from tests.faults.conftest import Site, in_image, shell, standing

LOUD = 2**30
NOT_UTF8 = b"\xff\xfe\x1b]0;x\x07\r\x00\xc3\x28\n"
WRITTEN = "printf '\\377\\376\\033]0;x\\007\\r\\000\\303(\\n'"
