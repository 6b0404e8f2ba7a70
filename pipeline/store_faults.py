"""What went wrong with a store, said so that a user can act on it.

In: whatever exception a file system or an object-store client raised. Out: a `StoreError` naming the
URL, what was being done, what was found and what to do. Nothing else leaves `pipeline.store`.
"""

from __future__ import annotations

import builtins
import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from pipeline.errors import StoreError, YfccError

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
# obstore puts a second, nested account of the error behind this line.
_DEBUG = "\n\nDebug source"
# What obstore says of a body that broke, and in our words.
_BREAKS = {
    "ConnectionReset": "connection reset",
    "IncompleteBody": "the connection was closed early",
    "TimedOut": "no more bytes came in time",
}
_CONNECTION = (
    "Connection refused",
    "dns error",
    "certificate",
    "InvalidContentType",
    "timed out",
    "TimedOut",
    "Network is unreachable",
    "No route to host",
    "Connection reset",
)


class BrokenBodyError(Exception):
    """An answer of a store ended before it was complete."""


class Fault(Enum):
    """Kinds of failure, each with the advice that goes with it."""

    MISSING = "it does not exist"
    NO_BUCKET = "there is no such bucket: create it first, or correct the name"
    CREDENTIALS = (
        "the store does not accept these credentials: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
        "AWS_SESSION_TOKEN, or the profile named by AWS_PROFILE"
    )
    DENIED = (
        "access is denied: check that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) are right and "
        "allow this"
    )
    WRONG_REGION = "the bucket is in another region: set AWS_REGION to the bucket's"
    RANGE = "the range lies outside the object: it is shorter than expected"
    UNREACHABLE = "the store cannot be reached: check the network and AWS_ENDPOINT_URL (http or https, host, port)"
    UNSTEADY = "the store or the network falters: run the same command again when it has recovered"
    DISK_FULL = "the disk is full: free some space, then run the same command again"
    READ_ONLY = "it is not writable: check the permissions, or choose another folder"
    NOT_A_FOLDER = "a file stands where a folder is needed: choose another path"
    UNSUPPORTED = "use a path, s3://, or install the package that brings this kind of URL to fsspec"
    OTHER = "if it may pass, run the same command again"

    @property
    def may_pass(self) -> bool:
        """Whether trying the same again a little later makes sense."""
        return self in {Fault.UNREACHABLE, Fault.UNSTEADY, Fault.OTHER}


_BY_CODE = {
    "NoSuchBucket": Fault.NO_BUCKET,
    "InvalidBucketName": Fault.NO_BUCKET,
    "NoSuchKey": Fault.MISSING,
    "SignatureDoesNotMatch": Fault.CREDENTIALS,
    "InvalidAccessKeyId": Fault.CREDENTIALS,
    "ExpiredToken": Fault.CREDENTIALS,
    "InvalidToken": Fault.CREDENTIALS,
    "TokenRefreshRequired": Fault.CREDENTIALS,
    "AccessDenied": Fault.DENIED,
    "AllAccessDisabled": Fault.DENIED,
    "PermanentRedirect": Fault.WRONG_REGION,
    "AuthorizationHeaderMalformed": Fault.WRONG_REGION,
    "InvalidRange": Fault.RANGE,
    "QuotaExceeded": Fault.DISK_FULL,
}
_BY_STATUS = {
    "401": Fault.CREDENTIALS,
    "403": Fault.DENIED,
    "404": Fault.MISSING,
    "416": Fault.RANGE,
    **dict.fromkeys(("429", "500", "502", "503", "504"), Fault.UNSTEADY),
}
_BY_ERRNO = {
    errno.ENOSPC: Fault.DISK_FULL,
    errno.EDQUOT: Fault.DISK_FULL,
    errno.EROFS: Fault.READ_ONLY,
    errno.EACCES: Fault.READ_ONLY,
    errno.EPERM: Fault.READ_ONLY,
    errno.ENOTDIR: Fault.NOT_A_FOLDER,
    errno.EEXIST: Fault.NOT_A_FOLDER,
    errno.EISDIR: Fault.OTHER,
}


def classify(error: BaseException) -> tuple[Fault, str]:
    """The kind of failure and what was found, in few words."""
    whole = str(error)
    text = whole.split(_DEBUG)[0].strip()
    code = _CODE.search(whole)
    matched = _STATUS.search(text)
    # aiohttp, which fsspec's http file system uses, has the number as a field.
    status = matched[1] if matched else str(getattr(error, "status", ""))
    if code and code[1] in _BY_CODE:
        # A put into a missing bucket comes as FileNotFoundError: the code is the better witness.
        return _BY_CODE[code[1]], code[1]
    if status in _BY_STATUS:
        return _BY_STATUS[status], f"HTTP {status}"
    if "redirect" in text and "region" in text:
        return Fault.WRONG_REGION, text
    if isinstance(error, BrokenBodyError):
        return Fault.UNSTEADY, text
    if "response body error" in text:
        cause = next((words for phrase, words in _BREAKS.items() if phrase in whole), "")
        return Fault.UNSTEADY, f"the answer broke off ({cause})" if cause else "the answer broke off"
    if "error sending request" in text or "error trying to connect" in text or isinstance(error, ConnectionError):
        cause = next((phrase for phrase in _CONNECTION if phrase in whole), "")
        return Fault.UNREACHABLE, f"no connection ({cause})" if cause else text
    if type(error).__name__ == "UnauthenticatedError":
        return Fault.CREDENTIALS, text
    if isinstance(error, OSError) and error.errno in _BY_ERRNO:
        return _BY_ERRNO[error.errno], error.strerror or text
    if isinstance(error, FileNotFoundError):
        return Fault.MISSING, "not found"
    if isinstance(error, ImportError) or "Protocol not known" in text:
        return Fault.UNSUPPORTED, text
    if isinstance(error, PermissionError):
        return Fault.DENIED, text or type(error).__name__
    return Fault.OTHER, f"{type(error).__name__}: {text[:500]}"


def is_store_fault(error: Exception) -> bool:
    """Whether the store failed, rather than this program.

    Backends bring exception types of their own and share no base class; of the built-in ones only those
    about files, values and unsupported operations can come from a store. The rest are bugs and pass.
    """
    if isinstance(error, YfccError):
        return False
    if isinstance(error, OSError | ValueError | NotImplementedError | EOFError | TimeoutError | ImportError):
        return True
    return not hasattr(builtins, type(error).__name__)


@contextmanager
def translated(url: str, doing: str, where: str = "") -> Iterator[None]:
    """Turn every failure of a store inside the block into a StoreError about `url`.

    `doing` completes "cannot ..."; `where` says which server was asked.
    """
    try:
        yield
    except Exception as error:
        if not is_store_fault(error):
            raise
        fault, found = classify(error)
        at = f" at {where}" if where else ""
        raise StoreError(f"{url}: cannot {doing}{at}: {found}; {fault.value}") from error
