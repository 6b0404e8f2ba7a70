from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipeline import connections, s3, store
from pipeline.errors import ConfigError, StoreError


def test_s3_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_buckets", {})
    for module in ("obstore.fsspec", "botocore.session"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"pip install 'yfcc15m-slip\[s3\]'"):
        store.read_bytes("s3://bucket/key")


def test_s3_without_credentials_reads_unsigned_and_refuses_to_write(aws: pytest.MonkeyPatch) -> None:
    assert s3.open_bucket("bucket", upload=False).anonymous
    with pytest.raises(StoreError, match=r"s3://bucket/key: cannot write: no AWS credentials were found"):
        store.write_bytes("s3://bucket/key", b"x")


def test_s3_settings_come_from_a_profile_as_with_the_aws_tools(aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile mine]\nregion = eu-west-3\nendpoint_url = http://127.0.0.1:9\n")
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = a\naws_secret_access_key = b\n")
    aws.setenv("AWS_PROFILE", "mine")
    bucket = s3.open_bucket("bucket", upload=True)
    assert (bucket.endpoint, bucket.anonymous) == ("http://127.0.0.1:9", False)
    aws.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:10")
    assert s3.open_bucket("bucket", upload=True).endpoint == "http://127.0.0.1:10"


def test_s3_settings_that_cannot_be_used(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(StoreError, match=r"endpoint is '127.0.0.1:9000'.*must start with https"):
        store.read_bytes("s3://bucket/key")
    aws.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match=r"profile \(nobody\) could not be found"):
        store.read_bytes("s3://bucket/key")


def test_s3_that_nobody_serves_fails_in_seconds(aws: pytest.MonkeyPatch) -> None:
    aws.setattr(s3, "MAX_RETRIES", 1)
    aws.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    aws.setenv("AWS_ACCESS_KEY_ID", "a")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(StoreError, match=r"^s3://bucket/p: cannot write at http://127.0.0.1:9: .*cannot be reached"):
        store.check_writable("s3://bucket/p")


def test_s3_in_a_forked_process_is_an_error_instead_of_a_wait_for_ever(aws: pytest.MonkeyPatch) -> None:
    aws.setattr(s3, "_users", {os.getpid() + 1})
    with pytest.raises(StoreError, match=r"s3://bucket: this process was forked .*spawn"):
        store.read_bytes("s3://bucket/key")
