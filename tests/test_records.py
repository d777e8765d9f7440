"""Records from every format: the same rows, whatever file they come from."""

import gzip
import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bilstm.data.byte_streams import ByteStream
from bilstm.data.records import iter_records, read_records
from bilstm.errors import DataError, MissingExtraError, UsageError

TEXTS = [
    "NA",
    "None",
    "null",
    "007",
    "12345678901234567890123",
    "",
    "  spaces kept  ",
    "a, b; c\td|e",
    'say "hi"',
    "שלום 👍🏽",
]
LABELS = ["pos", "neg"] * 5
IDS = [f"00{n}" for n in range(10)]


def as_csv(delimiter=",", encoding="utf-8"):
    def field(text):
        return '"' + text.replace('"', '""') + '"'

    lines = [delimiter.join(["id", "review", "sentiment"])]
    lines += [delimiter.join(map(field, row)) for row in zip(IDS, TEXTS, LABELS, strict=True)]
    return ("\r\n".join(lines) + "\r\n").encode(encoding)


def as_json_lines():
    rows = zip(IDS, TEXTS, LABELS, strict=True)
    return "".join(
        json.dumps({"id": i, "review": t, "sentiment": s}, ensure_ascii=n % 2 == 0) + "\n"
        for n, (i, t, s) in enumerate(rows)
    ).encode()


def as_parquet():
    polars = pytest.importorskip("polars")
    buffer = io.BytesIO()
    polars.DataFrame({"id": IDS, "review": TEXTS, "sentiment": LABELS}).write_parquet(buffer)
    return buffer.getvalue()


FORMATS = {
    "a.csv": as_csv,
    "semicolon.csv": lambda: as_csv(";"),
    "a.tsv": lambda: as_csv("\t"),
    "bar.csv": lambda: as_csv("|"),
    "bom.csv": lambda: b"\xef\xbb\xbf" + as_csv(),
    "utf16.csv": lambda: as_csv(encoding="utf-16"),
    "utf16le_without_mark.csv": lambda: as_csv(encoding="utf-16-le"),
    "utf32.csv": lambda: as_csv(encoding="utf-32"),
    "cr.csv": lambda: as_csv().replace(b"\r\n", b"\r"),
    "lf.csv": lambda: as_csv().replace(b"\r\n", b"\n"),
    "a.jsonl": as_json_lines,
    "a.parquet": as_parquet,
}


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_records(tmp_path, name, is_packed):
    content = FORMATS[name]()
    path = tmp_path / (name + ".gz" * is_packed)
    path.write_bytes(gzip.compress(content) if is_packed else content)
    records = read_records(path)
    assert records.texts == TEXTS
    assert records.labels == LABELS
    assert records.extras == {"id": IDS}
    assert (records.text_column, records.label_column) == ("review", "sentiment")
    assert len(records) == 10
    (source,) = records.sources
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (source.path, source.bytes, source.rows) == (str(path), path.stat().st_size, 10)
    assert any("empty text" in note for note in records.notes)
    line = 3 if name.split(".")[1] in ("csv", "tsv") else 2
    assert records.where(1) == f"{path}:{line}"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("chunk_rows", [1, 3, 10, 99])
def test_chunks_joined_are_the_whole(tmp_path, name, chunk_rows):
    path = tmp_path / name
    path.write_bytes(FORMATS[name]())
    whole = read_records(path)
    chunks = list(iter_records(path, labels="required", chunk_rows=chunk_rows))
    assert [len(chunk) for chunk in chunks] == [min(chunk_rows, 10 - n) for n in range(0, 10, chunk_rows)]
    assert [text for chunk in chunks for text in chunk.texts] == whole.texts
    assert [label for chunk in chunks for label in chunk.labels] == whole.labels
    assert [value for chunk in chunks for value in chunk.extras["id"]] == IDS
    assert [chunk.where(0) for chunk in chunks] == [whole.where(n) for n in range(0, 10, chunk_rows)]
    assert [note for chunk in chunks for note in chunk.notes] == list(whole.notes)
    assert chunks[-1].sources[0].sha256 == whole.sources[0].sha256
    assert all(chunk.sources[0].sha256 is None for chunk in chunks[:-1])


def test_several_files_with_columns_in_another_order(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,n\nx,p,1\n")
    (tmp_path / "b.csv").write_text("n;label;text\n2;q;y\n3;p;z\n")
    records = read_records([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert (records.texts, records.labels, records.extras) == (["x", "y", "z"], ["p", "q", "p"], {"n": ["1", "2", "3"]})
    assert records.rows.tolist() == [[0, 2], [1, 2], [1, 3]]
    assert [source.rows for source in records.sources] == [1, 2]
    assert records.where(2) == f"{tmp_path / 'b.csv'}:3"
    part = records.select([2, 0])
    assert (part.texts, part.labels, part.extras) == (["z", "x"], ["p", "p"], {"n": ["3", "1"]})
    assert part.where(0) == records.where(2)


@pytest.mark.parametrize(
    ("header", "rows", "text", "label"),
    [
        ("Sentiment,Review", ["pos,fine film", "neg,x"], "Review", "Sentiment"),
        ("a,b,c", ["1,pos,a long text here", "2,neg,another long text"], "c", "b"),
        ("label,text,class", ["1,t,2", "2,u,3"], "text", "label"),
        ("id,kind,words", ["1,k,a b", "2,k,c d", "3,j,e f"], "words", "kind"),
    ],
)
def test_columns_are_guessed_and_said(tmp_path, header, rows, text, label):
    path = tmp_path / "t.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    records = read_records(path)
    assert (records.text_column, records.label_column) == (text, label)
    assert any(f"took column {text!r} for the texts" in note for note in records.notes)
    assert any(f"took column {label!r} for the labels" in note for note in records.notes)


def test_asked_columns_are_taken_without_a_note(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label,other\na,b,c\nd,e,f\n")
    records = read_records(path, text="other", label="text")
    assert (records.texts, records.labels, records.notes) == (["c", "f"], ["a", "d"], ())


@pytest.mark.parametrize(("labels", "expected"), [("optional", ["x"]), ("none", None)])
def test_labels_when_they_are_not_required(tmp_path, labels, expected):
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\n")
    records = read_records(path, labels=labels)
    assert records.labels == expected
    assert records.extras == ({} if expected else {"label": ["x"]})
    path.write_text("words,kind\na,x\n")  # no well-known name: nothing is guessed
    assert read_records(path, labels="optional").labels is None


def test_optional_labels_missing_in_later_files_are_an_error(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,x\n")
    (tmp_path / "b.csv").write_text("text\nb\n")
    with pytest.raises(DataError, match="lacks 'label'"):
        read_records([tmp_path / "a.csv", tmp_path / "b.csv"], labels="optional")


def test_skipped_rows_are_counted(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\nb\nc,\nd,y,z\ne,y\n")
    records = read_records(path, skip_bad_rows=True)
    assert (records.texts, records.labels) == (["a", "e"], ["x", "y"])
    assert any("2 bad rows left out" in note and "t.csv:3" in note for note in records.notes)
    assert any("1 row without a label left out" in note for note in records.notes)


def test_empty_labels_may_be_kept(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x|y\nb,\n")
    assert read_records(path, keep_empty_labels=True).labels == ["x|y", ""]


def test_json_values_stay_as_written(tmp_path):
    path = tmp_path / "t.jsonl"
    lines = [
        '{"text": "a", "label": 1.50, "more": {"k": [1, "é"]}}',
        '{"label": true, "text": "\\u0000b", "more": null}',
        '{"text": "c", "label": 12345678901234567890123}',
    ]
    path.write_text("\n".join(lines))
    records = read_records(path)
    assert records.texts == ["a", "\0b", "c"]
    assert records.labels == ["1.50", "true", "12345678901234567890123"]
    assert records.extras == {"more": ['{"k": ["1", "é"]}', "", ""]}


def test_lists_of_labels_are_sets(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": []}\n{"text": "c", "label": ["z"]}\n')
    records = read_records(path)
    assert records.labels == ["x|y", "", "z"]
    assert records.label_separator == "|"


def test_parquet_types_become_text(tmp_path):
    polars = pytest.importorskip("polars")
    path = tmp_path / "t.parquet"
    frame = {"text": ["a", "b"], "label": [1, 0], "when": [None, 0.1], "tags": [["u", "v"], []]}
    polars.DataFrame(frame).write_parquet(path)
    records = read_records(path)
    assert records.labels == ["1", "0"]
    assert records.extras == {"when": ["", "0.1"], "tags": ["u|v", ""]}
    assert read_records(path, label="tags").label_separator == "|"


def test_parquet_in_slices(tmp_path, monkeypatch):
    polars = pytest.importorskip("polars")
    path = tmp_path / "t.parquet"
    polars.DataFrame({"text": [str(n) for n in range(25)], "label": ["x", "y"] * 12 + ["x"]}).write_parquet(path)
    monkeypatch.setattr("bilstm.data.parquet.SLICE_ROWS", 7)
    assert read_records(path).texts == [str(n) for n in range(25)]


def test_parquet_without_polars_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    path.write_bytes(as_parquet())
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bilstm\[tables\]'"):
        read_records(path)


def test_folder_of_classes(tmp_path):
    for name, text in {"pos/2.txt": "good\nfilm", "pos/10.txt": "", "neg/1.txt": "bad é", "unsup/0.txt": "?"}.items():
        file = tmp_path / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (tmp_path / "train" / "urls.txt").write_text("not a review")
    records = read_records(tmp_path / "train")
    assert records.texts == ["bad é", "", "good\nfilm"]
    assert records.labels == ["neg", "pos", "pos"]
    assert records.extras["file"] == ["neg/1.txt", "pos/10.txt", "pos/2.txt"]
    assert records.where(2) == str(tmp_path / "train" / "pos" / "2.txt")
    assert records.sources[0].is_folder
    assert any("'unsup' holds texts without labels" in note for note in records.notes)
    before = records.sources[0].sha256
    (tmp_path / "train" / "neg" / "1.txt").write_text("worse")
    assert read_records(tmp_path / "train").sources[0].sha256 != before


def test_standard_input(monkeypatch):
    class Input:
        buffer = io.BytesIO(b"one text, a line\r\n\r\nlast {")

    monkeypatch.setattr("sys.stdin", Input)
    records = read_records("-", labels="none")
    assert records.texts == ["one text, a line", "", "last {"]
    assert records.where(2) == "standard input:3"
    Input.buffer = io.BytesIO(b"text,label\na,x\n")
    assert read_records("-").texts == ["a"]
    Input.buffer = io.BytesIO(b'{"text": "a", "label": "x"}\n')
    assert read_records("-").labels == ["x"]
    Input.buffer = io.BytesIO(gzip.compress(b"a\nb\n"))
    assert read_records("-", labels="none").texts == ["a", "b"]


def test_text_file_is_one_text_a_line(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text('say "hi\nx,y;z\n')
    assert read_records(path, labels="none").texts == ['say "hi', "x,y;z"]


def test_misnamed_gzip_files_are_read_with_a_note(tmp_path):
    (tmp_path / "a.csv").write_bytes(gzip.compress(b"text,label\na,x\n"))
    (tmp_path / "b.csv.gz").write_bytes(b"text,label\na,x\n")
    for name in ("a.csv", "b.csv.gz"):
        records = read_records(tmp_path / name)
        assert records.texts == ["a"]
        assert any("packed with gzip" in note for note in records.notes)


def test_gzip_members_one_after_another_and_padding(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\na,x\n") + gzip.compress(b"b,y\n") + b"\0" * 512)
    assert read_records(path).texts == ["a", "b"]


@pytest.mark.parametrize("unpacked_block", [1, 7, 258, 1 << 20])
def test_gzip_in_small_pieces(tmp_path, monkeypatch, unpacked_block):
    content = os.urandom(500).hex().encode() * 3
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(content))
    monkeypatch.setattr("bilstm.data.byte_streams.UNPACKED_BLOCK_BYTES", unpacked_block)
    monkeypatch.setattr("bilstm.data.byte_streams.BLOCK_BYTES", 100)
    with ByteStream(path) as stream:
        assert stream.read_all() == content


def test_encoding_can_be_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("text,label\ncafé €,x\n".encode("cp1252"))
    assert read_records(path, encoding="cp1252").texts == ["café €"]
    path.write_bytes("\ufefftext,label\né,x\n".encode())
    assert read_records(path, encoding="utf8").text_column == "text"
    with pytest.raises(UsageError, match="no such text encoding"):
        read_records(path, encoding="klingon")
    with pytest.raises(UsageError, match="no such text encoding"):
        read_records(path, encoding="hex")


def keras_file(path, sequences, labels, protocol=4, name="train"):
    array = np.empty(len(sequences), dtype=object)
    array[:] = sequences
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (len(sequences),)})
    numbers = io.BytesIO()
    np.lib.format.write_array(numbers, np.asarray(labels))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"x_{name}.npy", header.getvalue() + pickle.dumps(array, protocol=protocol))
        archive.writestr(f"y_{name}.npy", numbers.getvalue())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_keras_file_of_ids(tmp_path, protocol):
    sequences = [[1, 255, 256, 65535, 65536, 88_000, 2**31 - 1, 2**31, 2**40], [], [7], list(range(2500))]
    keras_file(tmp_path / "imdb.npz", sequences, [1, 0, 0, 1], protocol)
    records = read_records(tmp_path / "imdb.npz")
    assert [ids.tolist() for ids in (records.ids[n] for n in range(4))] == sequences
    assert records.labels == ["1", "0", "0", "1"]
    assert records.texts == []
    assert records.select([2, 0]).ids[1].tolist() == sequences[0]
    assert records.where(1).endswith("imdb.npz:2")


def test_keras_parts_and_what_numpy_itself_saves(tmp_path):
    def lists(*rows):
        array = np.empty(len(rows), dtype=object)
        array[:] = rows
        return array

    path = tmp_path / "imdb.npz"
    train, test = lists([1, 2], [3]), lists([4], [5, 6], [])
    np.savez(path, x_train=train, y_train=np.array([0, 1]), x_test=test, y_test=np.array([1, 1, 0]))
    assert read_records(f"{path}:test").ids.lengths.tolist() == [1, 2, 0]
    records = read_records(path)
    assert records.ids.values.tolist() == [1, 2, 3]
    assert any("took the part train" in note for note in records.notes)
    with pytest.raises(UsageError, match="no part 'dev'"):
        read_records(f"{path}:dev")


def test_own_file_of_ids(tmp_path):
    path = tmp_path / "ids.npz"
    np.savez(
        path,
        values=np.array([3, 1, 2], dtype=np.int32),
        offsets=np.array([0, 2, 2, 3]),
        labels=np.array(["a", "b", "a"]),
    )
    records = read_records(path)
    assert [records.ids[n].tolist() for n in range(3)] == [[3, 1], [], [2]]
    assert records.labels == ["a", "b", "a"]


@pytest.mark.data
@pytest.mark.skipif("BILSTM_DATA" not in os.environ, reason="needs BILSTM_DATA, the folder with imdb/train.csv.gz")
def test_real_reviews():
    records = read_records(Path(os.environ["BILSTM_DATA"]) / "imdb" / "train.csv.gz")
    assert len(records) == 25_000
    assert sorted(map(records.labels.count, ("negative", "positive"))) == [12_500, 12_500]
    assert records.texts[0].startswith("Just too many incidents of violence.<br />")
