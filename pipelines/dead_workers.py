"""Local worker processes that end before their work does.

Beam's local runner waits for ever for the answer of a worker that was killed, most often because memory ran out. Here
the work that it was given is answered with an error, so that the run stops with a message and can be started again.
"""

import contextlib
import gc
import threading
from collections.abc import Iterator

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import SubprocessSdkWorkerHandler

from schemas.errors import DataError

THREAD = "run_worker"  # Beam's name of the thread that waits for a worker process, and fails if that does
POLL_SECONDS = 0.5
MESSAGE = (
    "a worker process was ended from outside, as the system does when memory runs out; the same command goes on from "
    "here, with fewer workers if memory is short"
)


@contextlib.contextmanager
def noticed() -> Iterator[None]:
    """While the block runs, work of a local worker process that has ended fails instead of being waited for.

    Raises DataError then.
    """
    dead: list[threading.Thread] = []
    stop = threading.Event()
    before = threading.excepthook

    def note(arguments: threading.ExceptHookArgs) -> None:
        if arguments.thread is not None and arguments.thread.name == THREAD:
            dead.append(arguments.thread)
        elif not dead:  # what else breaks then is a consequence
            before(arguments)

    def watch() -> None:
        while not stop.wait(POLL_SECONDS):
            if dead:
                _answer_for(dead)

    thread = threading.Thread(target=watch, daemon=True)
    threading.excepthook = note
    thread.start()
    try:
        yield
    except Exception as error:
        if dead:
            raise DataError(MESSAGE) from error
        raise
    finally:
        stop.set()
        thread.join()
        threading.excepthook = before


def _answer_for(dead: list[threading.Thread]) -> None:
    for handler in [thing for thing in gc.get_objects() if isinstance(thing, SubprocessSdkWorkerHandler)]:
        if getattr(handler, "worker_thread", None) in dead:
            for future in list(handler.control_conn._futures_by_id.values()):
                if not future.is_done():
                    answer = beam_fn_api_pb2.InstructionResponse(instruction_id=future.instruction_id, error=MESSAGE)
                    future.set(answer)
