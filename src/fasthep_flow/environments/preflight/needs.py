"""What a task asks for beside its image and limits, examined: credentials, data, software."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

from fasthep_flow.environments import Mount, ResolvedImage, Runtime
from fasthep_flow.environments.preflight.demands import Demand
from fasthep_flow.environments.preflight.verdicts import Check
from fasthep_flow.model import DataItem

__all__ = ["Needs"]


class Needs:
    """Examines what demands ask for beside image and limits.

    Args:
        progress: Is told of what may take long.
        directories: Absolute paths of the folders that every container is to see; the first is
            where tasks work.
        may_fetch: Whether to have it all on this machine, or to look only.
        offline: Whether nothing may be fetched or asked for.
    """

    def __init__(
        self,
        *,
        progress: Callable[[str], None],
        directories: Sequence[str],
        may_fetch: bool,
        offline: bool,
    ) -> None:
        self._progress: Final = progress
        self._directories: Final = directories
        self._may_fetch: Final = may_fetch
        self._offline: Final = offline
        self._data: Final[dict[DataItem, Check]] = {}

    def examine(
        self, demand: Demand, runtime: Runtime | None, image: ResolvedImage | None
    ) -> list[Check]:
        """What was found.

        Args:
            demand: What is asked for.
            runtime: What was chosen for it; ``None`` where nothing could be.
            image: On this machine; ``None`` for the host, or where it is not here yet.
        """
        checks = []
        contained = demand.image is not None
        variables: dict[str, str | None] = {}
        if demand.credentials:
            from fasthep_flow.environments.preflight.credentials import check_credentials

            own = {name: variable.value for name, variable in demand.variables}
            checks += check_credentials(
                demand.credentials,
                contained=contained,
                lasting_s=demand.lasting_s,
                variables={**os.environ, **own},
            )
        if demand.extra_data:
            from fasthep_flow.environments.preflight.data import check_data

            checks += check_data(
                demand.extra_data,
                contained=contained,
                may_fetch=self._may_fetch,
                offline=self._offline,
                directories=self._directories,
                progress=self._progress,
                known=self._data,
            )
        is_refused = any(check.verdict == "refused" for check in checks)
        if (demand.setup or demand.python) and runtime is not None and not is_refused:
            checks += self._software(demand, runtime, image, variables)
        return checks

    def _software(
        self,
        demand: Demand,
        runtime: Runtime,
        image: ResolvedImage | None,
        variables: dict[str, str | None],
    ) -> list[Check]:
        from fasthep_flow.environments.credentials import present
        from fasthep_flow.environments.preflight.software import check_software

        own = {name: variable.value for name, variable in demand.variables}
        shown = present(
            demand.credentials,
            contained=demand.image is not None,
            lasting_s=demand.lasting_s,
            variables={**os.environ, **own},
        )
        folders = [Mount(source=folder, target=folder) for folder in self._directories]
        return check_software(
            demand.setup,
            demand.python,
            runtime=runtime,
            image=image,
            demand=demand,
            variables={**variables, **own, **shown.variables},
            mounts=(*(folders if demand.image is not None else ()), *shown.mounts),
            working_directory=next(iter(self._directories), "/"),
            may_run=self._may_fetch,
            offline=self._offline,
            decided=shown.variables.keys(),
            progress=self._progress,
        )
