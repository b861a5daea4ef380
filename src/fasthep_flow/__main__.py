"""The command's entry point; also ``python -m fasthep_flow``.

Nothing is imported here that Python itself has not: Ctrl-C would meet it unguarded.
"""

from __future__ import annotations

import gc
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments spell."""
    # Nearly all that is made at the start stays to the end. Looking for garbage in it
    # would be a tenth of what `lint` takes.
    gc.set_threshold(100_000, 20, 20)
    try:
        _prepare_streams()
        from fasthep_flow.cli import app

        app(prog_name="fasthep-flow")
    except KeyboardInterrupt:
        # The commands tell of what they leave. Before one begins there is nothing to tell.
        sys.exit(130)
    except OSError as error:
        # The help or the version; the commands see to their own output.
        from fasthep_flow.errors import ExitCode
        from fasthep_flow.terminal import reason_of, say, silence

        silence(sys.stdout)
        say(f"fasthep-flow: the output cannot be written: {reason_of(error)}")
        sys.exit(ExitCode.RECORD)


def _prepare_streams() -> None:
    """See to it that there are standard streams, and that they take any character."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Closed (`>&-`). The next file that is opened would take its place, and what is
            # printed would land there.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # They stay open to the very end.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
