"""`bilstm predict --file`: every format in and out, in chunks, in order, whole or not at all."""

import csv
import gzip
import io
import json
import threading

import polars
import pytest

from bilstm import TextClassifier
from bilstm.cli import main, predict
from bilstm.cli.parquet_output import ParquetWriter
from bilstm.cli.row_progress import RowProgress, progress_line
from bilstm.data.byte_streams import ByteStream
from bilstm.errors import WriteFailedError

ROWS = 23


@pytest.fixture(scope="module")
def texts(order_texts):
    return [*order_texts[0][: ROWS - 2], "", 'a "quoted", text\nof two lines']


@pytest.fixture(scope="module")
def model(order_texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("streaming") / "model"
    texts, labels = order_texts
    settings = {"max_epochs": 2, "embedding_size": 8, "hidden_size": 8, "vectors": "random", "threads": 1}
    TextClassifier(**settings).fit(texts, labels).save(folder)
    return folder


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(predict, "CHUNK_ROWS", 7)


def written(path, texts, form):
    frame = polars.DataFrame({"key": [f"k{row}" for row in range(len(texts))], "text": texts})
    if form == "parquet":
        frame.write_parquet(path, row_group_size=5)
    elif form == "parquet.gz":
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        path.write_bytes(gzip.compress(buffer.getvalue()))
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in frame.iter_rows(named=True)))
    else:
        text = frame.write_csv(separator="\t" if form.startswith("tsv") else ",")
        path.write_bytes(gzip.compress(text.encode()) if form.endswith(".gz") else text.encode())
    return path


def read_back(path):
    if path.suffix == ".parquet":
        return [dict(row) for row in polars.read_parquet(path).iter_rows(named=True)]
    content = path.read_bytes()
    stream = io.StringIO((gzip.decompress(content) if path.suffix == ".gz" else content).decode(), newline="")
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in stream]
    return list(csv.DictReader(stream, delimiter="\t" if name.endswith(".tsv") else ","))


@pytest.mark.parametrize("source", ["csv", "csv.gz", "tsv", "jsonl", "parquet", "parquet.gz"])
@pytest.mark.parametrize("target", ["csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz"])
def test_every_format_in_and_out(model, texts, tmp_path, source, target):
    given = written(tmp_path / f"in.{source}", texts, source)
    output = tmp_path / f"out.{target}"
    assert main(["predict", str(model), "--file", str(given), "-o", str(output)]) == 0
    rows = read_back(output)
    assert [row["text"] for row in rows] == texts
    assert [row["key"] for row in rows] == [f"k{row}" for row in range(ROWS)]
    import bilstm

    loaded = bilstm.load(model)
    assert [row["prediction"] for row in rows] == loaded.predict(texts)
    for row, expected in zip(rows, loaded.predict_proba(texts), strict=True):
        for name, value in zip(loaded.classes_, expected, strict=True):
            assert abs(float(row[f"probability {name}"]) - value) < 1e-6
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("target", ["csv", "parquet", "jsonl.gz"])
def test_an_error_in_a_late_chunk_leaves_what_stood_there(model, texts, tmp_path, target, capsys):
    given = tmp_path / "in.csv"
    given.write_text("text,key\n" + "".join(f"fine {row},{row}\n" for row in range(400)) + "one,two,three\n")
    output = tmp_path / f"out.{target}"
    output.write_text("what stood there")
    before = threading.active_count()
    assert main(["predict", str(model), "--file", str(given), "-o", str(output)]) == 65
    assert output.read_text() == "what stood there"
    assert "in.csv:402" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", output.name}
    assert threading.active_count() <= before + 1  # polars keeps one of its own


@pytest.mark.parametrize("name", ["out.txt", "out", "out.parquet.gz", "out.gz"])
def test_other_endings_are_refused_before_anything_is_read(model, tmp_path, name, capsys):
    assert main(["predict", str(model), "--file", str(tmp_path / "absent.csv"), "-o", str(tmp_path / name)]) == 2
    assert "the ending must be" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["csv", "parquet"])
def test_a_place_that_is_not_there(model, texts, tmp_path, target):
    given = written(tmp_path / "in.csv", texts, "csv")
    assert main(["predict", str(model), "--file", str(given), "-o", str(tmp_path / "no" / f"o.{target}")]) == 73


def test_a_plain_parquet_file_is_never_held_in_memory(model, texts, tmp_path, monkeypatch):
    given = written(tmp_path / "in.parquet", texts, "parquet")

    def refuse(self):
        raise AssertionError("the whole file was read")

    monkeypatch.setattr(ByteStream, "read_all", refuse)
    assert main(["predict", str(model), "--file", str(given), "-o", str(tmp_path / "out.csv")]) == 0


def test_the_parquet_writer_says_why_it_cannot_write(tmp_path):
    writer = ParquetWriter(str(tmp_path), ["a"], set())  # a folder

    def write_for_ever():
        while True:
            writer.write([["x"]])

    with pytest.raises(WriteFailedError, match="cannot be written"):
        write_for_ever()
    writer.abandon()


@pytest.mark.parametrize(
    ("rows", "share", "seconds", "line"),
    [
        (1_000, 0.25, 10.0, "1,000 rows  25%  100 rows/s  0:30 left"),
        (7_200, 0.5, 3600.0, "7,200 rows  50%  2 rows/s  1:00:00 left"),
        (5, None, 2.5, "5 rows  2 rows/s"),
        (5, 0.0, 2.5, "5 rows  0%  2 rows/s"),
    ],
)
def test_progress_line(rows, share, seconds, line):
    assert progress_line(rows, share, seconds) == line


def test_progress_in_a_pipe_is_a_line_now_and_then(monkeypatch):
    from bilstm.cli import row_progress

    clock = iter([0.0, 5.0, 11.0, 12.0, 22.0])
    monkeypatch.setattr(row_progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with RowProgress(stream) as progress:
        for rows in (10, 22, 24, 44):
            progress.show(rows, rows / 100)
    assert stream.getvalue().splitlines() == ["22 rows  22%  2 rows/s  0:39 left", "44 rows  44%  2 rows/s  0:28 left"]
