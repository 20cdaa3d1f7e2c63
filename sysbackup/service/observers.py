"""Telling others how runs go: metrics and hooks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from sysbackup.config.sections import Config
from sysbackup.formats import run_result
from sysbackup.formats.run_result import RunResult
from sysbackup.service import hooks
from sysbackup.service.history import no_attempt
from sysbackup.service.messages import Began
from sysbackup.service.metrics import RunMetrics
from sysbackup.service.metrics_endpoint import MetricsEndpoint

log = structlog.get_logger()


class Telling:
    """
    The daemon's `Listener` of real life; `configured` comes first.

    `single`: for one run without a daemon, which serves nothing over HTTP and
    counts no runs. Nothing here raises, but for a cancellation.
    """

    def __init__(self, *, single: bool = False) -> None:
        self._single = single
        self._config: Config | None = None
        self._metrics: RunMetrics | None = None
        self._endpoint: MetricsEndpoint | None = None
        # Both are fair: who comes first is first, so that events keep their order through one and the other.
        self._measuring = asyncio.Lock()
        self._calling = asyncio.Lock()
        self._applying: set[asyncio.Task[None]] = set()

    def configured(self, config: Config) -> None:
        """See `Listener`: what has to wait for something is done soon."""
        self._config = config
        if self._metrics is None:
            self._metrics = RunMetrics(config, counting=not self._single)
            self._endpoint = MetricsEndpoint(self._metrics.exposition)
        self._metrics.configure(config)
        if not self._single:
            task = asyncio.get_running_loop().create_task(self._apply(config), name="metrics")
            self._applying.add(task)
            task.add_done_callback(self._applying.discard)

    async def began(self, began: Began) -> None:
        """See `Listener`."""
        async with self._told(began.run) as (config, metrics):
            metrics.began()
            async with self._measuring:
                await metrics.write()
            async with self._calling:
                await hooks.call_all(config, hooks.STARTED, run_result.start_told(began))

    async def ended(self, ended: RunResult) -> None:
        """See `Listener`. Where another run was in progress there is nothing to tell."""
        if no_attempt(ended):
            return
        async with self._told(ended.run) as (config, metrics):
            metrics.ended(ended)
            async with self._measuring:
                await metrics.write()
            async with self._calling:
                await hooks.call_all(config, hooks.event(ended), run_result.end_told(ended))

    async def close(self) -> None:
        """See `Listener`."""
        for task in self._applying:
            task.cancel()
        if self._applying:
            await asyncio.wait(self._applying)
        if self._endpoint is not None:
            await self._endpoint.close()

    async def _apply(self, config: Config) -> None:
        async with self._told(None) as (_, metrics), self._measuring:
            if self._endpoint is not None and config is self._config:  # else another reload has come since
                await self._endpoint.listen(config.metrics.listen)
            await metrics.write()

    @asynccontextmanager
    async def _told(self, run: str | None) -> AsyncIterator[tuple[Config, RunMetrics]]:
        """All that is logged meanwhile names the run; a mistake of ours ends neither a run nor the daemon."""
        try:
            if self._config is None or self._metrics is None:
                raise RuntimeError("`configured` has not been called")
            with structlog.contextvars.bound_contextvars(**({} if run is None else {"run": run})):
                yield self._config, self._metrics
        except Exception:  # whatever it is: the run, and the next ones, matter more
            log.exception("telling.failed", run=run)
