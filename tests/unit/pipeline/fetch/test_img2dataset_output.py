from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ShardError
from pipeline.fetch.img2dataset_output import Leftover
from pipeline.fetch.judging import Kept
from pipeline.fetch.sources import Picture

SPEC = importlib.util.spec_from_file_location("fake_img2dataset", Path(__file__).with_name("fake_img2dataset.py"))
assert SPEC is not None
assert SPEC.loader is not None
FAKE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(FAKE)

URLS = [f"http://flickr.test/{i}.jpg" for i in range(12)]
QUESTIONS = pa.table({"index": list(range(12)), "url": URLS})


def test_answers_come_in_the_order_of_the_questions(tmp_path: Path) -> None:
    FAKE.leave(tmp_path, 7, URLS)
    left = Leftover(tmp_path, "00000")
    assert left.unit == 7
    answers = list(left.answers(QUESTIONS))
    assert [index for index, _ in answers] == list(range(12))
    for _, answer in answers:
        assert isinstance(answer, Kept)
        assert answer.picture == Picture(format="jpg", width=32, height=32)
        assert answer.sha256 == hashlib.sha256(answer.data).hexdigest()
    left.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["00000_stats.json"]


@pytest.mark.parametrize("damage", ["byte", "member", "stats", "row", "table", "no tar", "half stats", "two units"])
def test_every_damage_is_noticed(damage: str, tmp_path: Path) -> None:
    FAKE.leave(tmp_path, 0, URLS)
    tar, stats, parquet = (tmp_path / f"00000{name}" for name in (".tar", "_stats.json", ".parquet"))
    data = bytearray(tar.read_bytes())
    table = pq.read_table(parquet)
    if damage == "byte":
        data[700] ^= 1
    elif damage == "member":
        data = data[: 512 * 3]
    elif damage == "stats":
        stats.write_text('{"count": 12, "successes": 11, "failed_to_download": 1}')
    elif damage == "half stats":
        stats.write_text('{"count": 12, "succ')
    elif damage == "row":
        pq.write_table(table.slice(0, 11), parquet)
    elif damage == "two units":
        pq.write_table(table.set_column(0, "unit", pa.array([0] * 11 + [1])), parquet)
    elif damage == "table":
        parquet.write_bytes(parquet.read_bytes()[:-20])
    tar.write_bytes(data)
    if damage == "no tar":
        tar.unlink()
    with pytest.raises(ShardError, match="00000"):
        list(Leftover(tmp_path, "00000").answers(QUESTIONS))


def test_answers_to_other_questions_are_not_taken(tmp_path: Path) -> None:
    FAKE.leave(tmp_path, 0, URLS)
    for name, values in (("url", URLS[::-1]), ("index", list(range(1, 13)))):
        questions = QUESTIONS.set_column(QUESTIONS.schema.get_field_index(name), name, pa.array(values))
        with pytest.raises(ShardError, match="asked for"):
            list(Leftover(tmp_path, "00000").answers(questions))
