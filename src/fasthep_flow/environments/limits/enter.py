"""A program of its own: enters control groups and becomes another program.

Arguments: a path to report to, how many groups, their ``cgroup.procs``, the program's words.

The program finds all as if it had been started directly: Python has changed its own
environment and signals by the time this runs (PEP 538; it ignores SIGPIPE). A shell would do
the same 8 ms faster, but dash drops variables whose names it could not say, such as the
functions that bash exports, and bash adds some. To move a process once it runs comes too late
for what it has started and allocated by then.
"""

import os
import sys

if __name__ == "__main__":
    # 'signal' takes longer to import than all of the rest.
    import _signal  # type: ignore[import-not-found]  # typeshed leaves private modules out

    report, count, rest = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    step = "enter"
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - nor 'pathlib'
            pairs = [entry.partition(b"=") for entry in file.read().split(b"\0")]
        environment = {name: value for name, equals, value in pairs if equals}
        for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ"):
            if hasattr(_signal, name):
                _signal.signal(getattr(_signal, name), _signal.SIG_DFL)
        for group in rest[:count]:
            descriptor = os.open(group, os.O_WRONLY)
            os.write(descriptor, b"0")
            os.close(descriptor)
        step = "start"
        os.execvpe(rest[count], rest[count:], environment)  # noqa: S606 - the task's program
    except OSError as error:
        with open(report, "w") as file:  # noqa: PTH123
            file.write(f"{step} {error.errno}")
    os._exit(127)
