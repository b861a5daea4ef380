import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

from fasthep_flow.model import JobResult, from_json
from fasthep_flow.orchestrators import remote
from fasthep_flow.testing.runners import Workbench


def test_sealed_secrets_travel_and_do_not_show() -> None:
    sealed = pickle.loads(pickle.dumps(remote.Sealed({"TOKEN": "hunter2"})))  # noqa: S301
    assert sealed.reveal() == {"TOKEN": "hunter2"}
    assert repr(sealed) == str(sealed) == f"{sealed}" == "Sealed(***)"


def test_a_job_runs_with_its_secrets(tmp_path: Path) -> None:
    text = Workbench(tmp_path).job("some", "printf %s ${#TOKEN}", variables=["TOKEN"])
    reply = remote.run_job(text, remote.Sealed({"TOKEN": "hunter2"}))
    assert from_json(JobResult, reply).stdout_tail == "7"


def test_an_attempt_whose_folder_lies_behind_a_link_is_not_begun_there(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "1").mkdir(parents=True)
    task = bench.attempt("some").parent
    task.parent.mkdir(parents=True, exist_ok=True)
    task.symlink_to(elsewhere)
    result = from_json(JobResult, remote.run_job(bench.job("some", "true"), remote.Sealed({})))
    assert result.failure is not None
    assert result.failure.message.startswith(f"the task's folder {bench.attempt('some')} was")
    assert list((elsewhere / "1").iterdir()) == []


def test_threads_and_processes_started_within_hold_the_terminals_signals() -> None:
    seen: list[set[int]] = []
    thread = threading.Thread(
        target=lambda: seen.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    )
    line = "import signal; print(*sorted(s.name for s in signal.pthread_sigmask(0, ())))"
    with remote.interrupts_held():
        thread.start()
        held = subprocess.check_output([sys.executable, "-c", line], text=True)
        with remote.interrupts_free():
            free = subprocess.check_output([sys.executable, "-c", line], text=True)
    thread.join()
    assert {signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT} <= seen[0]
    assert held.split() == ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"]
    assert free.split() == []
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_what_a_lost_worker_left_is_ended(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    environment = os.environ | {"FASTHEP_TASK_DIRECTORY": str(bench.attempt("lost"))}
    other = os.environ | {"FASTHEP_TASK_DIRECTORY": str(bench.attempt("lost-too"))}
    with (
        subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True) as left,
        subprocess.Popen(["sleep", "60"], env=other) as bystander,
    ):
        remote.end_leftovers(bench.job("lost", "sleep 60"))
        assert left.wait(timeout=30) == -signal.SIGKILL
        assert bystander.poll() is None
        bystander.kill()
