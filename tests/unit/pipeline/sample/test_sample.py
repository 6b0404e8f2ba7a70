"""The embedded sample: its rows are YFCC100M's, its bytes follow from the seed, its server fails as Flickr does."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import tarfile
from collections import Counter
from pathlib import Path
from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import StoreError
from pipeline.sample import sample
from pipeline.sample.captions import english_description, english_title
from pipeline.sample.objects import OBJECTS
from pipeline.sample.pictures import draw_picture
from pipeline.sample.rows import Row, encode_text, fates, key_of, make_rows
from pipeline.sample.sample import CLASSNAMES, SamplePaths, make_sample
from pipeline.sample.subjects import COLOURS, SCENES, Subject

NUM_ROWS = 60
NUM_HELDOUT = 20


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> SamplePaths:
    return make_sample(tmp_path_factory.mktemp("sample"), num_rows=NUM_ROWS, num_heldout=NUM_HELDOUT)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The rows of the sample at its default size; drawing the pictures would take a minute."""
    return make_rows(4000, seed=0)


def bytes_below(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def slow_urlencoder(text: str) -> str:
    """Java's documentation of URLEncoder, letter by letter."""
    literal = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-*_"
    out = []
    for letter in text:
        if letter in literal:
            out.append(letter)
        elif letter == " ":
            out.append("+")
        else:
            out.extend(f"%{byte:02X}" for byte in letter.encode())
    return "".join(out)


@given(st.text())
def test_text_is_encoded_as_javas_urlencoder_does(text: str) -> None:
    assert encode_text(text) == slow_urlencoder(text)
    assert unquote_plus(encode_text(text)) == text


def test_key_is_the_real_files() -> None:
    # Rows 0 and 2 of the published file.
    url = "http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg"
    assert key_of(url) == "4e2f7a26a1dfbf165a7e30bdabf7e72a"
    assert key_of("http://farm4.staticflickr.com/3171/2297552664_1ee0e8855d.jpg") == "b61f252678da02eaff453bce575cb6"


def test_rows_have_25_columns_of_the_right_form(rows: list[Row]) -> None:
    patterns = [
        r"\d+", r"\d{7,11}", r"[0-9a-f]{16,32}", r"\d+@N\d\d", r"[A-Za-z0-9.*_%+-]+",
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.0", r"\d{10}", r"[A-Za-z0-9.*_%+-]*", r"[A-Za-z0-9.*_%+-]*",
        r"[A-Za-z0-9.*_%+-]*", r"[A-Za-z0-9.*_%+,-]*", r"[A-Za-z0-9.*_%+,-]*", r"(-?\d+\.\d+)?",
        r"(-?\d+\.\d+)?", r"\d*", r"http://www\.flickr\.com/photos/\d+@N\d\d/\d+/", r"http://[^ ]+",
        r"Attribution[A-Za-z-]* License", r"http://creativecommons\.org/licenses/by[a-z-]*/2\.0/", r"\d+", r"[1-9]",
        r"[0-9a-f]{10}", r"[0-9a-f]{10}",
        r"jpg|png|avi|mov|mpg", r"0|1",
    ]  # fmt: skip
    for number, row in enumerate(rows):
        columns = row.line.split("\t")
        assert len(columns) == 25
        assert row.line.isascii()
        assert columns[0] == str(number)
        for column, pattern in zip(columns, patterns, strict=True):
            assert re.fullmatch(pattern, column), (column, pattern)
        digest = hashlib.md5(columns[16].encode()).hexdigest()
        pairs = [digest[i : i + 2] for i in range(0, 32, 2)]
        assert columns[2] == "".join(pair[1] if pair[0] == "0" else pair for pair in pairs)
        if columns[24] == "0":
            photo = f"http://farm{columns[20]}.staticflickr.com/{columns[19]}/{columns[1]}_{columns[21]}.jpg"
            assert columns[16] == photo
        assert columns[15] == f"http://www.flickr.com/photos/{columns[3]}/{columns[1]}/"


def test_everything_the_real_file_has_is_there(rows: list[Row]) -> None:
    titles = [unquote_plus(row.columns[8]) for row in rows]
    texts = [unquote_plus(row.columns[9]) for row in rows]
    ids = Counter(row.columns[1] for row in rows)
    photos = [row.photo for row in rows if row.photo is not None]
    found = {
        "videos": sum(row.columns[24] == "1" for row in rows),
        "repeated rows": sum(ids.values()) - len(ids),
        "same picture, other id": len({photo.name for photo in photos}) - len({photo.seed for photo in photos}),
        "file names": sum(bool(re.fullmatch(r"(IMG_|DSC|P10|PICT|_MG_).*\d{4,}(\.JPG)?", title)) for title in titles),
        "boilerplate": sum("DIGITAL CAMERA" in text or "Exposure:" in text for text in texts),
        "links": sum("<a href=" in text for text in texts),
        "bold": sum("<b>" in text for text in texts),
        "entities": sum("&quot;" in text and "&amp;" in text for text in texts),
        "literal plus": sum("%2B" in row.columns[9] for row in rows),
        "newlines": sum("%0A" in row.columns[9] for row in rows),
        "empty titles": titles.count(""),
        "empty descriptions": texts.count(""),
        "both empty": sum(not title and not text for title, text in zip(titles, texts, strict=True)),
        "Japanese": sum(bool(re.search(r"[\u3040-\u30ff]", text)) for text in texts),
        "Chinese": sum("，" in text or "的" in text for text in texts),
        "Russian": sum(bool(re.search(r"[а-я]{3}", text)) for text in texts),
        "German": sum(" der " in text or " dem " in text or text.startswith("Ein") for text in texts),
        "French": sum(" la " in text and " une " in f" {text.lower()}" for text in texts),
        "accents in titles": sum(bool(re.search("[áéíóúñçãü]", title)) for title in titles),
        "places": sum(row.columns[12] != "" for row in rows),
        "no place": sum(row.columns[12] == "" for row in rows),
        "long stories": sum(len(text) > 1500 for text in texts),
        "machine tags": sum(row.columns[11] != "" for row in rows),
        "no camera": sum(row.columns[7] == "" for row in rows),
        "greyscale": sum(photo.subject.monochrome for photo in photos),
    }
    assert all(count >= 5 for count in found.values()), found


def test_the_list_names_most_rows_with_english_descriptions(rows: list[Row]) -> None:
    listed = [row for row in rows if row.listed]
    assert 0.65 * len(rows) < len(listed) < 0.76 * len(rows)
    assert not any(row.columns[24] == "1" for row in listed)
    english = sum(
        bool(re.search(r"\b(the|a|an|in|on|at|of|one)\b", unquote_plus(row.columns[9]), re.I)) for row in listed
    )
    assert english > 0.95 * len(listed)
    ends = fates(rows)
    names = {row.photo.name for row in listed if row.photo is not None}
    assert ends.keys() <= names
    shares = {fate: count / len(names) for fate, count in Counter(ends.values()).items()}
    assert shares == pytest.approx({"dead": 0.03, "placeholder": 0.01, "truncated": 0.005}, rel=0.15)
    assert len(names) - len(ends) >= 2600


@given(st.integers(0, 9), st.sampled_from(sorted(COLOURS)), st.integers(1, 3), st.sampled_from(SCENES), st.randoms())
def test_english_captions_have_no_gap_left(label: int, colour: str, count: int, scene: str, rng: random.Random) -> None:
    subject = Subject(label=label, colour=colour, count=count, scene=scene)
    for text in (english_title(subject, rng), english_description(subject, rng, user="1@N00")):
        assert text == text.strip()
        assert not re.search(r"[{}]", text)
        assert not re.search(r"\ba [aeio]", text), text


@pytest.mark.parametrize("num_rows", [0, 100_001])
def test_a_number_of_rows_out_of_range_is_refused(num_rows: int) -> None:
    with pytest.raises(ValueError, match=str(num_rows)):
        make_rows(num_rows, seed=0)


def test_pictures_are_of_every_promised_kind() -> None:
    kinds: Counter[str] = Counter()
    for number in range(200):
        subject = Subject(
            label=number % 10, colour="red", count=1 + number % 3, scene=SCENES[number % 8], monochrome=number % 50 == 0
        )
        image = Image.open(io.BytesIO(draw_picture(subject, seed=f"kind {number}", camera="Nikon")))
        assert image.format == "JPEG"
        assert 120 <= min(image.size) <= max(image.size) <= 500
        assert image.size != (500, 374)
        kinds[image.mode] += 1
        kinds["progressive"] += "progressive" in image.info
        kinds["exif"] += image.getexif().get(0x0110) == "Nikon"
        kinds["portrait"] += image.width < image.height
    assert kinds["RGB"] > 180
    assert min(kinds[name] for name in ("L", "CMYK", "progressive", "exif", "portrait")) >= 1
    assert kinds["L"] == 4


def test_there_is_one_drawing_for_every_class() -> None:
    assert len(OBJECTS) == len(CLASSNAMES) == len(set(OBJECTS)) == 10


def test_same_seed_same_bytes(paths: SamplePaths, tmp_path: Path) -> None:
    again = make_sample(tmp_path / "again", num_rows=NUM_ROWS, num_heldout=NUM_HELDOUT)
    assert bytes_below(again.metadata.parent) == bytes_below(paths.metadata.parent)


def test_another_seed_gives_other_rows_and_pictures(paths: SamplePaths, tmp_path: Path) -> None:
    other = make_sample(tmp_path, num_rows=6, num_heldout=10, seed=1)
    assert not set(bytes_below(other.photos).values()) & set(bytes_below(paths.photos).values())
    assert other.metadata.read_bytes()[:100] != paths.metadata.read_bytes()[:100]


def test_a_second_call_does_nothing(paths: SamplePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(sample, "_make", fail)
    assert make_sample(paths.metadata.parent, num_rows=NUM_ROWS, num_heldout=NUM_HELDOUT) == paths
    with pytest.raises(AssertionError, match="made again"):
        make_sample(paths.metadata.parent.parent / "elsewhere", num_rows=NUM_ROWS, num_heldout=NUM_HELDOUT)


def test_a_half_made_folder_is_completed_and_other_settings_remake_it(tmp_path: Path) -> None:
    made = make_sample(tmp_path, num_rows=12, num_heldout=10)
    want = bytes_below(tmp_path)
    (tmp_path / "sample.json").unlink()
    made.metadata.unlink()
    photos = sorted(made.photos.glob("*.jpg"))
    photos[0].unlink()
    (made.photos / f"{photos[1].name}.part").write_bytes(b"half")
    (made.photos / "123_0123456789.jpg").write_bytes(b"of another sample")
    kept = photos[2].stat().st_mtime_ns
    make_sample(tmp_path, num_rows=12, num_heldout=10)
    assert bytes_below(tmp_path) == want
    assert photos[2].stat().st_mtime_ns == kept
    make_sample(tmp_path, num_rows=8, num_heldout=10)
    assert len(made.metadata.read_bytes().splitlines()) == 8
    make_sample(tmp_path, num_rows=12, num_heldout=10)
    assert bytes_below(tmp_path) == want


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file/sample: cannot make the embedded sample there"):
        make_sample(tmp_path / "file" / "sample", num_rows=2, num_heldout=10)


def test_the_list_joins_the_rows_and_the_rows_the_pictures(paths: SamplePaths) -> None:
    lines = paths.metadata.read_bytes().decode("ascii").splitlines()
    assert len(lines) == NUM_ROWS
    rows = {line.split("\t")[0]: line.split("\t") for line in lines}
    listed = [line.split("\t") for line in paths.subset_list.read_bytes().decode("ascii").splitlines()]
    assert len(listed) > NUM_ROWS / 2
    for number, photo_id, key in listed:
        assert rows[number][1:3] == [photo_id, key]
    ends = json.loads((paths.photos / "fates.json").read_bytes())
    for row in rows.values():
        name = row[16].rpartition("/")[2]
        gone = row[24] == "1" or ends.get(name) in ("dead", "placeholder")
        assert (paths.photos / name).exists() != gone


def test_heldout_is_read_by_the_webdataset_library(paths: SamplePaths) -> None:
    import webdataset

    url = str(paths.heldout / "test" / "0.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode("pil").to_tuple("jpg", "cls"))
    assert Counter(label for _, label in samples) == dict.fromkeys(range(10), NUM_HELDOUT // 10)
    assert all(image.mode == "RGB" and min(image.size) >= 120 for image, _ in samples)
    names = (paths.heldout / "classnames.txt").read_text().splitlines()
    assert tuple(names) == CLASSNAMES
    templates = (paths.heldout / "zeroshot_classification_templates.txt").read_text().splitlines()
    assert 5 <= len(templates) <= 8
    assert all("{c}" in line for line in templates)
    assert (paths.heldout / "test" / "nshards.txt").read_text() == "1"


def test_heldout_pictures_are_not_among_the_photographs(paths: SamplePaths) -> None:
    photos = set(bytes_below(paths.photos).values())
    with tarfile.open(paths.heldout / "test" / "0.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            data = tar.extractfile(member)
            assert data is not None
            assert hashlib.sha256(data.read()).hexdigest() not in photos
