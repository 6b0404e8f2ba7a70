"""S3 buckets as fsspec file systems: obstore moves the bytes, botocore finds out who and where.

Credentials, region and endpoint are looked up as the AWS tools do (environment, ~/.aws, roles), so what
works with `aws s3` works here. Without credentials requests go unsigned, which public buckets accept.
obstore's clients do not survive a fork: start processes that use a store by "spawn".
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from pipeline.errors import ConfigError, StoreError
from pipeline.s3_files import BucketFiles

# A read that stalls is given up and repeated after this long; an upload sends up to twelve parts of 5 MiB
# at once, which a slow line must get through in one time-out.
READ_TIMEOUT_S = 30
UPLOAD_TIMEOUT_S = 300
CONNECT_TIMEOUT_S = 5
MAX_RETRIES = 5
RETRY_BUDGET_S = 60
_RETRIES: dict[str, Any] = {
    "max_retries": MAX_RETRIES,
    "retry_timeout": timedelta(seconds=RETRY_BUDGET_S),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=10),
        "base": 2,
    },
}

# A range is continued by `pipeline.ranged`, which sees a break at once when obstore tries nothing itself. Its own
# continuing pauses first, counts attempts and time from the beginning however much has come, and says nothing of it.
_NO_RETRIES: dict[str, Any] = {**_RETRIES, "max_retries": 0}
STALL_TIMEOUT_S = 15
"""Seconds without a byte after which the request of a range is given up."""
RANGE_TIMEOUT_S = 60
"""Seconds after which a range still on its way is continued over another connection, which may be faster."""

# obstore asks again five minutes before this is over; botocore keeps what it hands out valid for ten.
_CREDENTIALS_TTL = timedelta(minutes=10)

_lookup_lock = threading.Lock()
_users: set[int] = set()
"""The process that opened buckets, and after a fork its child."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One bucket, ready to use."""

    filesystem: AbstractFileSystem
    objects: Any
    """obstore's own store of the bucket, for what fsspec has no words for: conditional puts."""
    bodies: Any
    """obstore's store for ranges: a body that breaks or stalls is the caller's to continue."""
    endpoint: str
    """Where requests go, for messages."""
    anonymous: bool


class _Credentials:
    """What obstore calls for credentials: hands on botocore's, refreshed when they are about to expire."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def __call__(self) -> dict[str, Any]:
        frozen = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_TTL,
        }


def _client_options(endpoint: str | None, ca_bundle: str | None, timeout_s: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "timeout": f"{timeout_s}s",
        "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        "allow_http": (endpoint or "").startswith("http://"),
    }
    if ca_bundle and Path(ca_bundle).is_file():
        options["root_certificate"] = Path(ca_bundle).read_bytes()
    return options


def open_bucket(bucket: str, *, upload: bool) -> Bucket:
    """Connect to a bucket; nothing is sent yet, so a wrong name or key shows at the first use."""
    try:
        import botocore.session
        from botocore.configprovider import ConfiguredEndpointProvider
        from botocore.exceptions import BotoCoreError
        from obstore.fsspec import FsspecStore
        from obstore.store import S3Store
    except ImportError as error:
        raise ConfigError(
            f"s3://{bucket}: reading and writing S3 needs a package that is not installed ({error}); "
            "pip install 'yfcc15m-slip[s3]'"
        ) from error

    _users.add(os.getpid())
    if len(_users) > 1:  # it would wait for ever for threads that only the parent has
        raise StoreError(
            f"s3://{bucket}: this process was forked from one that had used S3 already; start it with the "
            'multiprocessing context "spawn"'
        )
    try:
        # It logs at INFO where it found the keys, once for every bucket.
        logging.getLogger("botocore").setLevel(logging.WARNING)
        with _lookup_lock:  # botocore's session is not safe to share while it resolves
            session = botocore.session.get_session()
            credentials = session.get_credentials()
            region = session.get_config_variable("region") or "us-east-1"
            ca_bundle = session.get_config_variable("ca_bundle")
            endpoint = ConfiguredEndpointProvider(
                full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
            ).provide()
    except BotoCoreError as error:
        raise StoreError(f"s3://{bucket}: the AWS settings cannot be used: {error}; correct ~/.aws or AWS_*") from error
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise StoreError(
            f"s3://{bucket}: the endpoint is {endpoint!r}; AWS_ENDPOINT_URL must start with https:// or http://"
        )

    settings: dict[str, Any] = {"region": region}
    if endpoint is not None:
        # Servers other than Amazon's rarely have a DNS name per bucket.
        settings |= {"endpoint": endpoint.rstrip("/"), "virtual_hosted_style_request": False}
    if credentials is None:
        settings["skip_signature"] = True
    options: dict[str, Any] = {
        "config": settings,
        "client_options": _client_options(endpoint, ca_bundle, UPLOAD_TIMEOUT_S if upload else READ_TIMEOUT_S),
        "retry_config": _RETRIES,
        "credential_provider": None if credentials is None else _Credentials(credentials),
    }
    connect: Any = FsspecStore  # its overloads list every setting of every cloud, fsspec's own left out
    objects = S3Store(bucket, **options)
    body_client = _client_options(endpoint, ca_bundle, RANGE_TIMEOUT_S) | {"read_timeout": f"{STALL_TIMEOUT_S}s"}
    bodies = S3Store(bucket, **options | {"client_options": body_client, "retry_config": _NO_RETRIES})
    return Bucket(
        filesystem=BucketFiles(bucket, objects, connect("s3", **options, skip_instance_cache=True)),
        objects=objects,
        bodies=bodies,
        endpoint=endpoint or f"Amazon S3 ({region})",
        anonymous=credentials is None,
    )
