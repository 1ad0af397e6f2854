"""One input file of a source, wherever it lies: what it gives, whatever goes wrong with it."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from pipelines.extract.found import Found, Reject, Rejected, clip
from pipelines.extract.listing import InputFile
from pipelines.extract.packed import as_local_path
from pipelines.extract.python_environment import extract_environment_file
from pipelines.extract.reader import extract_file
from pipelines.extract.repositories import extract_repository
from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.recipe import Extract, Source

MACHINE_AT_FAULT = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def read_input(file: InputFile, source: Source, options: Extract) -> Iterator[Found]:
    """The documents, rejects and pages of a file."""
    if file.environment is not None:
        yield from extract_environment_file(file.environment, options)
    elif source.kind == "repositories":
        yield from extract_repository(file.location, options)
    elif paths.is_local(file.location):
        yield from extract_file(local_path(file), file.path, options, source.columns)
    else:
        with paths.open_read(file.location) as handle:
            yield from extract_file(cast(BinaryIO, handle), file.path, options, source.columns)


def with_rejects(found: Iterator[Found], file: InputFile) -> Iterator[Found]:
    """What was found, and a reject where the file or its reader fails: one file's surprise must not end the run.

    Raises:
        DataError: the machine is at fault (a full disk, too many open files), or a server of models.
        ConfigError: a server of models is not as the recipe says.
    """
    try:
        yield from found
    except (ConfigError, DataError):
        raise
    except OSError as error:
        if error.errno in MACHINE_AT_FAULT:  # no fault of the file, so no reject
            raise DataError(f"{file.location}: {error.strerror}") from error
        yield Reject("", "unreadable", clip(f"the file cannot be read: {error.strerror or error}"))
    except Rejected as rejected:
        yield Reject("", rejected.error, clip(rejected.message))
    except Exception as error:
        yield Reject("", "extractor_error", clip(f"{type(error).__name__}: {error}"))


def local_path(file: InputFile) -> Path:
    return Path(file.location.removeprefix("file://"))


@contextlib.contextmanager
def local_copy(file: InputFile, options: Extract) -> Iterator[str]:
    """Local path of an input file, of a copy where it is remote. Raises Rejected, OSError."""
    with contextlib.ExitStack() as stack:
        if paths.is_local(file.location):
            local = local_path(file)
            yield as_local_path(stack.enter_context(local.open("rb")), local, options, stack)
        else:
            handle = cast(BinaryIO, stack.enter_context(paths.open_read(file.location)))
            yield as_local_path(handle, None, options, stack)
