"""Which tars a command line means."""

from __future__ import annotations

from pathlib import Path

import pytest
from braceexpand import braceexpand
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, InputError
from slip.data import tar_lists as t

PATTERNS = st.recursive(
    st.sampled_from(
        ["a", "s3://b/", ".tar", "{1..3}", "{08..11}", "{9..1..4}", "{c..a}", "{}", "{x}", "{-2..1}", "{001..2}"]
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: "{" + ",".join(parts) + "}"),
        st.lists(inner, max_size=3).map("".join),
    ),
    max_leaves=6,
)


@given(PATTERNS)
def test_braces_as_the_shell_writes_them_out(pattern: str) -> None:
    assert t.expand_braces(pattern) == list(braceexpand(pattern))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("a{1,2", "opened at character 2 and never closed"), ("{0..99999999999}.tar", "more than 10,000,000 tars")],
)
def test_patterns_that_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        t.expand_braces(pattern)


def test_folders_and_names_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x/2.tar", "x/y/1.tar", "x/y/stats.json", "z.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    below = [f"{tmp_path}/x/2.tar", f"{tmp_path}/x/y/1.tar"]
    for folder in ("x", "x/", f"{tmp_path}/x/", f"file://{tmp_path}/x/"):
        prefix = "file://" if folder.startswith("file") else ""
        assert t.find_tars([folder]) == [prefix + url for url in below]
    assert t.find_tars(["z.tar", "{x,x/y}/1.tar"]) == [f"{tmp_path}/{n}" for n in ("z.tar", "x/1.tar", "x/y/1.tar")]
    with pytest.raises(ConfigError, match=r"x/2\.tar is named twice"):
        t.find_tars(["x/", "x/2.tar"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"there is no \.tar below it"):
        t.find_tars(["empty/"])


@pytest.mark.parametrize(
    ("urls", "folder"),
    [
        (["/a/b/1.tar", "/a/b/2.tar"], "/a/b"),
        (["/a/b/1.tar", "/a/c/2.tar"], "/a"),
        (["/a/b/1.tar", "/a/2.tar"], "/a"),
        (["/a/1.tar", "/ab/2.tar"], "/"),
        (["/a/1.tar"], "/a"),
        (["s3://b/1.tar", "s3://b/x/2.tar"], "s3://b"),
        (["https://h/x/1.tar", "https://h/x/y/2.tar"], "https://h/x"),
        (["file:///a/1.tar", "file:///a/2.tar"], "file:///a"),
    ],
)
def test_the_folder_in_common(urls: list[str], folder: str) -> None:
    assert t.common_folder(urls) == folder
    found, places = t.place_tars(urls)
    assert found == folder
    assert [f"{folder.rstrip('/')}/{place.name}" for place in places] == urls


@pytest.mark.parametrize("other", ["s3://c/1.tar", "gs://b/1.tar", "/b/1.tar"])
def test_no_folder_in_common(other: str) -> None:
    with pytest.raises(ConfigError, match="have no folder in common"):
        t.place_tars(["s3://b/1.tar", other])


def test_a_name_a_manifest_cannot_hold() -> None:
    with pytest.raises(ConfigError, match=r"s3://b/x/\.\./1\.tar: a manifest cannot hold this name"):
        t.place_tars(["s3://b/x/../1.tar", "s3://b/2.tar"])


def test_index_names_are_safe_and_differ() -> None:
    names = ["00000.tar", "a/1.tar", "a_1.tar", "x y.tar?token=1", ".hidden.tar", "é.tar", "n" * 200 + ".tar"]
    indexes = [place.index for place in t.place_tars([f"s3://b/{name}" for name in names])[1]]
    assert len(set(indexes)) == len(names)
    assert indexes[0] == "00000.parquet"
    assert all(name.isascii() and "/" not in name and not name.startswith(".") for name in indexes)
    assert max(map(len, indexes)) < 255
    # A tar's index has the same name whichever other tars are named with it, unless two would have one name.
    assert t.place_tars(["s3://b/00000.tar"])[1][0].index == indexes[0]
