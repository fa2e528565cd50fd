"""Having jobs done by several processes, here or on a cluster, through `concurrent.futures`: one code path for both."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from edgerun.batch.job import Job, Outcome, do
from edgerun.errors import ConfigError, DeviceError, MissingError, StageError

_AHEAD = 2
"""Jobs handed out for each worker: one in hand, one that waits."""
_PER_PROCESS = 100
"""A process is replaced after so many files: what a library has leaked goes with it."""


@contextmanager
def here(workers: int) -> Iterator[Executor]:
    """Processes of this machine; they go when the block ends, whatever they are at."""
    context = multiprocessing.get_context("spawn")  # the libraries' threads do not survive a fork
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare, max_tasks_per_child=_PER_PROCESS)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def cluster(address: str) -> Iterator[tuple[Executor, int]]:
    """A Dask cluster and how many threads of execution it has. The files must be there under the same names.

    Raises `MissingError`, `ConfigError`, `DeviceError`.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingError(
            "Dask is not installed", where="--cluster", remedy="pip install 'edgerun[cluster]'"
        ) from error
    if "://" not in address:
        raise ConfigError("not a scheduler's address", where="--cluster", expected="tcp://HOST:8786", got=repr(address))
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise DeviceError("the scheduler cannot be reached", where=address, got=error) from error
    try:
        count = sum(client.nthreads().values())
        if not count:
            raise DeviceError("the cluster has no workers", where=address, remedy="dask worker " + address)
        yield client.get_executor(pure=False), count
    finally:
        client.close()


def run(executor: Executor, workers: int, jobs: Sequence[Job], tell: Callable[[Outcome], None]) -> None:
    """Have all of `jobs` done, a few handed out at a time; `tell` is called with each outcome as it comes.

    A process that dies takes the executor with it: raises `StageError` naming the files that were in hand.
    """
    waiting = iter(jobs)
    in_hand: dict[Future[Outcome], Job] = {}
    while True:
        while len(in_hand) < workers * _AHEAD and (job := next(waiting, None)) is not None:
            in_hand[executor.submit(do, job)] = job
        if not in_hand:
            return
        finished, _ = wait(in_hand, return_when=FIRST_COMPLETED)
        for future in finished:
            try:
                outcome = future.result()
            except BrokenProcessPool as error:
                names = ", ".join(sorted(job.source for job in in_hand.values())[:4])
                raise StageError(
                    "a worker process died",
                    where=names,
                    remedy="its log says why; with fewer --workers it needs less memory. What is done stays done",
                ) from error
            except Exception as error:  # noqa: BLE001  a worker's fault, told as this file's
                outcome = Outcome(in_hand[future].source, in_hand[future].key, error=f"{type(error).__name__}: {error}")
            del in_hand[future]
            tell(outcome)


def _prepare() -> None:
    """A worker process leaves Ctrl-C to the one that it works for, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
