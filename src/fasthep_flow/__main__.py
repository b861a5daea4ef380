"""The command's entry point; also ``python -m fasthep_flow``."""

from __future__ import annotations

import gc

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments spell."""
    # Nearly all that is made at the start stays to the end. Looking for garbage in it
    # would be a tenth of what `lint` takes.
    gc.set_threshold(100_000, 20, 20)
    from fasthep_flow.cli import app

    app(prog_name="fasthep-flow")


if __name__ == "__main__":
    main()
