"""An engine made of command lines: each job is a worker of its own, started by a command.

Whatever can start a program elsewhere and hands its standard streams through (``ssh``, ``srun``)
is an engine by that. A worker gets its job on standard input, which stays open for as long as
the job is wanted, and answers on standard output. The places share a file system, and have this
package at the same path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, Final

from fasthep_flow.model import Secrets
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.runner import Done, Errand

__all__ = ["CommandEngine", "serve"]

_WORKER: Final = (sys.executable, "-m", "fasthep_flow.orchestrators.commands")


class CommandEngine:
    """Runs one job at a time in each of some places.

    It takes as many jobs at once as there are places: the gate in front of it must let no
    more through.

    Args:
        name: Of the engine, for messages.
        places: Where jobs run, such as the names of hosts; one may be named several times.
        command: For a place and a program with its arguments, the command that runs the
            program there.
    """

    def __init__(
        self,
        name: str,
        places: Sequence[str],
        command: Callable[[str, Sequence[str]], Sequence[str]],
    ) -> None:
        self.name = name
        self._command: Final = command
        self._free: Final[SimpleQueue[str]] = SimpleQueue()
        for place in places:
            self._free.put(place)
        self._threads: Final = ThreadPoolExecutor(len(places), "fasthep-flow-command")
        self._workers: Final[set[subprocess.Popen[str]]] = set()
        self._lock: Final = threading.Lock()
        self._stops = False

    def start(self, errand: Errand, done: Done) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.start`."""
        self._threads.submit(self._run, errand, done)

    def stop_jobs(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.stop_jobs`."""
        with self._lock:
            self._stops = True
            for worker in self._workers:
                _close(worker.stdin)

    def close(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.close`."""
        self.stop_jobs()
        with self._lock:
            for worker in self._workers:
                worker.kill()
        self._threads.shutdown()

    def _run(self, errand: Errand, done: Done) -> None:
        outcome: str | BaseException
        place = self._free.get()
        try:
            outcome = self._ask(place, errand.job_text, errand.sealed.reveal())
        except Exception as problem:  # noqa: BLE001 - told to the runner
            outcome = problem
            # The place may be gone, and what the worker left there with it.
            with suppress(Exception):
                self._ask(place, errand.job_text, None)
        finally:
            self._free.put(place)
        done(outcome)

    def _ask(self, place: str, job_text: str, secrets: Secrets | None) -> str:
        """What a worker answers; without secrets it ends what a lost one left of the job."""
        pipe = subprocess.PIPE
        with remote.interrupts_held():
            # A session of its own: Ctrl-C is for the driver, which stops the job.
            worker = subprocess.Popen(
                [*self._command(place, _WORKER)],
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                text=True,
                start_new_session=True,
            )
        with worker:
            with suppress(OSError, ValueError):
                print(json.dumps([job_text, secrets]), file=worker.stdin, flush=True)
            with self._lock:
                self._workers.add(worker)
                if self._stops and secrets is not None:
                    _close(worker.stdin)
            reply, words = map(_read, (worker.stdout, worker.stderr))
            _close(worker.stdin)
            code = worker.wait()
            with self._lock:
                self._workers.discard(worker)
        if code:
            last = words.strip().rpartition("\n")[2]
            raise ConnectionError(f"{place} did not answer: {last or f'exit code {code}'}")
        return reply


def _read(stream: IO[str] | None) -> str:
    return "" if stream is None else stream.read()


def _close(stream: IO[str] | None) -> None:
    if stream is not None:
        with suppress(OSError, ValueError):
            stream.close()


def serve() -> None:
    """Be the worker: a job comes in on standard input, its reply goes out on standard output."""
    job_text, secrets = json.loads(sys.stdin.readline())
    if secrets is None:
        remote.end_leftovers(job_text)
        return
    # The end of standard input says stop. Read past Python's buffer, which nobody may hold
    # when Python ends.
    remote.settle_process(lambda: os.read(0, 1))
    try:
        sys.stdout.write(remote.run_job(job_text, remote.Sealed(secrets)))
        sys.stdout.flush()
    finally:
        remote.close_own()


if __name__ == "__main__":
    serve()
