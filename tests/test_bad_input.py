"""Input that cannot be read as what it should be: one clear line with file and row and what to do, nothing changed.

The cases are those of the documentation's table of what table readers get wrong, and of damaged or hostile files.
"""

import gzip
import io
import os
import pickle
import re
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm.data.keras_ids import read_ids
from bilstm.data.records import iter_records, read_records
from bilstm.errors import BilstmError, DataError, InputNotFoundError, UsageError

HEADER = b"text,label\n"
GOOD = b"text,label\na good film,pos\na bad film,neg\n"

# name of the file, its bytes, options, what the message must say (file and row first), what it must advise
CASES = {
    "empty": ("e.csv", b"", {}, r"^e\.csv: the file is empty", "names of the columns"),
    "blank lines only": (
        "e.csv",
        b"\n\r\n  \n",
        {},
        r"^e\.csv: the file holds only blank lines",
        "names of the columns",
    ),
    "header only": ("e.csv", HEADER, {}, r"^e\.csv: there are no data rows", "right file"),
    "header without line end": ("e.csv", b"text,label", {}, r"^e\.csv: there are no data rows", "right file"),
    "no header": ("e.csv", b",\n,\n", {}, r"^e\.csv: the file has no line with the names", ""),
    "missing text column": ("e.csv", GOOD, {"text": "txt"}, r"^e\.csv: there is no column 'txt' \(--text\)", "'text'?"),
    "missing label column": (
        "e.csv",
        GOOD,
        {"label": "Labels"},
        r"no column 'Labels' \(--label\)",
        "Did you mean 'label'",
    ),
    "missing column, none near": ("e.csv", GOOD, {"text": "zzz"}, "no column 'zzz'", "The columns are 'text', 'label'"),
    "one column for both": ("e.csv", GOOD, {"text": "text", "label": "text"}, "cannot be both", "The columns are"),
    "no column for labels": ("e.csv", b"text\na\nb\n", {}, "no column can be the labels", "--label"),
    "duplicate header": (
        "e.csv",
        b"text,label,text\na,b,c\n",
        {},
        r"^e\.csv:1: two columns are called 'text' \(columns 1 and 3\)",
        "Rename",
    ),
    "duplicate header after blank lines": ("e.csv", b"\n\ntext,text\na,b\n", {}, r"^e\.csv:3: two columns", "Rename"),
    "row too long": ("e.csv", GOOD + b"a,b,c\n", {}, r"^e\.csv:4: 3 fields where the header has 2", "double quotes"),
    "row too short": ("e.csv", GOOD + b"alone\n", {}, r"^e\.csv:4: 1 field where the header has 2", "--skip-bad-rows"),
    "row too short after a long text": (
        "e.csv",
        HEADER + b'"a\n\nb",x\nalone\n',
        {},
        r"^e\.csv:5: 1 field",
        "--skip-bad-rows",
    ),
    "unclosed quote": ("e.csv", GOOD + b'"open,pos\nb,neg\n', {}, r"^e\.csv:4: the double quote .* never closed", '""'),
    "quote closed too early": (
        "e.csv",
        HEADER + b'"a "b" c",pos\n',
        {},
        r"^e\.csv:2: the quoted text that begins here is closed at line 2",
        '""',
    ),
    "line end inside a field": (
        "e.csv",
        HEADER + b"a\rb,pos\n",
        {},
        r"^e\.csv:2: a line end \(CR\) inside",
        "double quotes",
    ),
    "missing labels": (
        "e.csv",
        HEADER + b"a,x\nb,\nc,y\nd,  \n",
        {},
        r"^e\.csv:3: 2 of 4 rows have no label in column 'label' \(first at line 3, 5\)",
        "--skip-bad-rows",
    ),
    "broken UTF-8": (
        "e.csv",
        GOOD + b"caf\xe9,pos\n",
        {},
        r"^e\.csv:4: byte 0xE9 at offset 45 is not UTF-8 text \(after .*caf'\)",
        "--encoding cp1252",
    ),
    "UTF-8 cut off at the end": ("e.csv", GOOD + "é".encode()[:1], {}, r"^e\.csv:4: byte 0xC3", "--encoding"),
    "wrong encoding named": (
        "e.csv",
        HEADER + b"a\x81,x\n",
        {"encoding": "cp1252"},
        r"^e\.csv:2: byte 0x81 at offset 12 is not CP1252",
        "--encoding",
    ),
    "odd UTF-16": ("e.csv", GOOD.decode().encode("utf-16") + b"x", {}, r"^e\.csv:4: byte 0x78", "--encoding"),
    "NUL byte": ("e.csv", GOOD + b"a\0b,pos\n", {}, r"^e\.csv:4: NUL character", "tr -d"),
    "first line is a row": (
        "e.csv",
        b"so good,pos\nso bad,neg\nfine too,pos\n",
        {},
        r"^e\.csv:1: the first line looks like a row.*'pos'",
        "--text",
    ),
    "first line is a text": (
        "e.csv",
        b"this is a text of more than six words\nanother\n",
        {"labels": "none"},
        r"^e\.csv:1: the first line looks",
        "--text",
    ),
    "zip": ("e.zip", b"PK\x03\x04rest", {}, r"^e\.zip: this is a zip archive", "unzip"),
    "Excel": ("e.xlsx", b"PK\x03\x04rest", {}, r"^e\.xlsx: this is an Excel workbook", "as CSV"),
    "bzip2": ("e.csv.bz2", b"BZh91AY", {}, r"this is a bzip2 file", "bunzip2"),
    "xz": ("e.csv.xz", b"\xfd7zXZ\x00", {}, "this is a xz file", "unxz"),
    "zstd": ("e.csv.zst", b"\x28\xb5\x2f\xfd", {}, "this is a zstd file", "unzstd"),
    "PDF": ("e.pdf", b"%PDF-1.7", {}, "this is a PDF file", "CSV"),
    "truncated gzip": (
        "e.csv.gz",
        gzip.compress(GOOD)[:-5],
        {},
        r"^e\.csv\.gz: the gzip file ends too early",
        "fetch it again",
    ),
    "gzip header only": ("e.csv.gz", gzip.compress(GOOD)[:5], {}, "ends too early", "fetch it again"),
    "gzip with a wrong checksum": (
        "e.csv.gz",
        gzip.compress(GOOD)[:-8] + b"12345678",
        {},
        "damaged gzip data",
        "again",
    ),
    "rubbish after gzip": ("e.csv.gz", gzip.compress(GOOD) + b"rubbish", {}, "damaged gzip data", "again"),
    "more than allowed": (
        "e.csv",
        GOOD,
        {"max_bytes": 20},
        r"^e\.csv: holds more than the allowed 20 bytes",
        "--max-bytes",
    ),
    "more than allowed, packed": (
        "e.csv.gz",
        gzip.compress(GOOD),
        {"max_bytes": 20},
        "more than the allowed 20 bytes",
        "--max-bytes",
    ),
    "empty JSONL": ("e.jsonl", b"", {}, r"^e\.jsonl: the file is empty", "one JSON object a line"),
    "JSON array": ("e.json", b'[{"text": "a"}]', {}, r"^e\.json: this is one JSON array", "jq -c"),
    "bad JSON": (
        "e.jsonl",
        b'{"text": "a", "label": "x"}\n{"text": \n',
        {},
        r"^e\.jsonl:2: not valid JSON",
        "one JSON object",
    ),
    "JSON that is no object": (
        "e.jsonl",
        b'{"text": "a", "label": "x"}\n3\n',
        {},
        r"^e\.jsonl:2: a JSON str, not",
        '"label"',
    ),
    "JSON key twice": (
        "e.jsonl",
        b'{"text": "a", "text": "b", "label": "x"}\n',
        {},
        r"^e\.jsonl:1: the key 'text' stands twice",
        "one of them",
    ),
    "JSON nested deeply": (
        "e.jsonl",
        b'{"text": ' + b"[" * 100_000 + b"\n",
        {},
        r"^e\.jsonl:1: JSON nested too deeply",
        "flat",
    ),
    "JSON without text": (
        "e.jsonl",
        b'{"text": "a", "label": "x"}\n{"label": "y"}\n',
        {},
        r"^e\.jsonl:2: no text in column 'text'",
        "Fill",
    ),
    "JSON null label": (
        "e.jsonl",
        b'{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n',
        {},
        r"^e\.jsonl:2: 1 of 2 rows have no label",
        "--skip-bad-rows",
    ),
    "JSON half surrogate": (
        "e.jsonl",
        b'{"text": "\\ud800", "label": "x"}\n',
        {},
        r"^e\.jsonl:1: half of a surrogate pair",
        "Correct",
    ),
    "JSON list with a bar": (
        "e.jsonl",
        b'{"text": "a", "label": ["x|y"]}\n',
        {},
        r"^e\.jsonl:1: the list entry 'x\|y' holds",
        "Correct",
    ),
    "no Parquet": ("e.parquet", GOOD, {}, r"^e\.parquet: not a Parquet file", "complete"),
    "damaged Parquet": (
        "e.parquet",
        b"PAR1" + b"\x15" * 200 + b"PAR1",
        {},
        r"^e\.parquet: the Parquet file cannot be read",
        "damaged",
    ),
    "no ids": ("e.npz", GOOD, {}, r"^e\.npz: not an \.npz file", "damaged"),
    "empty npz": ("e.npz", b"", {}, r"^e\.npz: not an \.npz file", "damaged"),
}


def one_line(error: BilstmError) -> str:
    message = str(error)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("case", CASES)
def test_bad_file(tmp_path, monkeypatch, case):
    name, content, options, says, advises = CASES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_records(name, **options)
    message = one_line(caught.value)
    assert re.search(says, message), message
    assert advises in message
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("case", [case for case in CASES if not CASES[case][0].endswith(".npz")])
def test_bad_file_in_chunks(tmp_path, monkeypatch, case):
    name, content, options, _, advises = CASES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    chunks = iter_records(name, **{"labels": "required", "chunk_rows": 2, **options})
    with pytest.raises(DataError) as caught:
        list(chunks)
    assert advises in one_line(caught.value)


def test_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "reviews.csv").write_bytes(GOOD)
    with pytest.raises(
        InputNotFoundError, match=r"review\.csv: there is no such file. Similar names there: reviews\.csv"
    ) as caught:
        read_records(tmp_path / "review.csv")
    assert caught.value.exit_code == 66
    for path in (tmp_path / "reviews.csv" / "x", "no\0name", tmp_path / "no" / "such" / "folder.csv"):
        with pytest.raises(InputNotFoundError):
            read_records(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(GOOD)
    path.chmod(0)
    with pytest.raises(InputNotFoundError, match="Permission denied"):
        read_records(path)


def test_no_input_and_the_same_input_twice(tmp_path):
    with pytest.raises(UsageError, match="No input"):
        read_records([])
    with pytest.raises(UsageError, match="given twice"):
        read_records(["a.csv", "a.csv"])
    with pytest.raises(UsageError, match="read alone"):
        read_records(["a.npz", "b.csv"])
    with pytest.raises(UsageError, match="chunk_rows"):
        next(iter_records("a.csv", chunk_rows=0))


def test_files_with_other_columns(tmp_path):
    (tmp_path / "a.csv").write_bytes(GOOD)
    (tmp_path / "b.csv").write_bytes(b"text,class\na,x\n")
    with pytest.raises(DataError, match=r"b\.csv: other columns than .*a\.csv: it lacks 'label' and has 'class'"):
        read_records([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_folders_without_classes(tmp_path):
    with pytest.raises(DataError, match=r"no class folders.*pos/\*\.txt"):
        read_records(tmp_path)
    (tmp_path / "train" / "pos").mkdir(parents=True)
    (tmp_path / "train" / "pos" / "1.txt").write_text("a")
    with pytest.raises(DataError, match=r"Give one of its parts, for example .*train"):
        read_records(tmp_path)


def test_bad_text_in_a_folder_names_the_file(tmp_path):
    (tmp_path / "pos").mkdir()
    (tmp_path / "pos" / "1.txt").write_bytes(b"fine\ncaf\xe9")
    with pytest.raises(DataError, match=r"pos/1\.txt:2: byte 0xE9"):
        read_records(tmp_path)
    (tmp_path / "pos" / "1.txt").write_bytes(b"x" * 30)
    (tmp_path / "pos" / "2.txt").write_bytes(b"x" * 30)
    with pytest.raises(DataError, match=r"2\.txt: holds more than the allowed 20 bytes"):
        read_records(tmp_path, max_bytes=50)


def test_a_gzip_bomb_is_stopped(tmp_path):
    path = tmp_path / "bomb.csv.gz"
    packer = zlib.compressobj(9, wbits=31)
    with path.open("wb") as file:
        file.write(packer.compress(HEADER))
        for _ in range(80):
            file.write(packer.compress((b"a bad film " * 100 + b",neg\n") * 1000))
        file.write(packer.flush())
    assert path.stat().st_size < 400_000
    given = []

    def read():
        for chunk in iter_records(path, labels="required"):
            given.append(len(chunk))

    with pytest.raises(DataError, match=r"unpacks to more than 100 times its size .*gzip bomb.*--max-bytes"):
        read()
    assert 0 < sum(given) < 70_000  # stopped on the way, at 64 MiB
    # the same file is read where the user allows its size
    assert sum(map(len, iter_records(path, max_bytes=100_000_000))) == 80_000


def test_a_parquet_bomb_is_stopped(tmp_path, monkeypatch):
    polars = pytest.importorskip("polars")
    path = tmp_path / "t.parquet"
    polars.DataFrame({"text": ["long " * 1000] * 20_000, "label": ["x"] * 20_000}).write_parquet(path)
    monkeypatch.setattr("bilstm.data.parquet.RATIO_FREE_BYTES", 1 << 20)
    with pytest.raises(DataError, match="unpacks to more than"):
        read_records(path)


def test_a_file_that_grows_while_it_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(HEADER + b"a film,pos\n" * 100_000)
    chunks = iter_records(path, labels="required", chunk_rows=1000)
    next(chunks)
    with path.open("ab") as file:
        file.write(b"one more,neg\n")
    with pytest.raises(
        DataError, match=r"changed while it was read \(1100011 bytes at the start, 1100024 at the end\)"
    ):
        list(chunks)


def test_a_file_that_is_rewritten_while_it_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(HEADER + b"a film,pos\n" * 100_000)
    os.utime(path, ns=(1, 1))
    chunks = iter_records(path, labels="required", chunk_rows=1000)
    next(chunks)
    with path.open("r+b") as file:  # the same size
        file.seek(len(HEADER) + 50_000 * len(b"a film,pos\n"))
        file.write(b"b")
    with pytest.raises(DataError, match="changed while it was read"):
        list(chunks)


def test_a_text_that_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("bilstm.data.byte_streams.MAX_LINE_CHARACTERS", 1 << 20)
    path = tmp_path / "t.csv"
    path.write_bytes(HEADER + b"x" * (1 << 22))
    with pytest.raises(DataError, match=r"t\.csv:2: the line is longer than"):
        read_records(path)


def test_a_field_beyond_the_limit_names_where_it_opened(tmp_path, monkeypatch):
    import csv

    monkeypatch.setattr("bilstm.data.tables.MAX_FIELD_CHARACTERS", 200_000)
    before = csv.field_size_limit(131_072)
    path = tmp_path / "t.csv"
    path.write_bytes(HEADER + b'a,x\n"b,y\n' + b"word,z\n" * 50_000)
    try:
        with pytest.raises(DataError, match=r"t\.csv:3: a text longer than 200000 characters begins here"):
            read_records(path)
    finally:
        csv.field_size_limit(before)


def test_notes_tell_what_was_passed_over_and_texts_are_not_changed(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'text,label,\n,x,1\n"  ",NA,2\nNone,None,3\n007,0,4\n')
    records = read_records(path, text="text", label="label")
    assert records.texts == ["", "  ", "None", "007"]
    assert records.labels == ["x", "NA", "None", "0"]
    assert records.extras == {"unnamed_3": ["1", "2", "3", "4"]}
    assert any("2 empty texts kept (first at line 2)" in note for note in records.notes)
    assert any("column 3 has no name" in note for note in records.notes)


# --- hostile files of ids: nothing in a pickle may run ----------------------------------------------------------------


class Hostile:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


def npz_with(path, name, body, shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.npy", header.getvalue() + body)


def object_array(*rows):
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize(
    "thing",
    [
        Hostile(),
        [Hostile()],
        object_array([1], Hostile()),
        object_array([1], [Hostile()]),
        object_array([1], ["text"]),
        object_array([1], [1.5]),
        object_array([1], 7),
        object_array([1], [[2]]),
        object_array([1], [2**70]),
        object_array([1], [True]),
        object_array([1], [np.int64(3)]),
        {"a": 1},
        [1, 2],
        None,
    ],
    ids=lambda thing: re.sub(r"\W+", " ", repr(thing))[:30],
)
def test_pickles_of_other_things_are_refused_and_not_run(tmp_path, thing, protocol):
    path = tmp_path / "t.npz"
    npz_with(path, "x_train", pickle.dumps(thing, protocol=protocol), (2,))
    with pytest.raises(DataError, match=r"t\.npz: x_train"):
        read_ids(path)


def test_a_list_repeated_without_end_is_refused(tmp_path):
    shared = list(range(1000))
    path = tmp_path / "t.npz"
    npz_with(path, "x_train", pickle.dumps(object_array(*[shared] * 1000), protocol=4), (1000,))
    with pytest.raises(DataError, match="repeated without end"):
        read_ids(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_of_ids_gives_our_error_or_ids(data):
    body = bytearray(pickle.dumps(object_array([1, 2, 300], [70_000], []), protocol=4))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(1, len(body)))]
    path = TEMPORARY / "t.npz"
    npz_with(path, "x_train", bytes(body), (3,))
    try:
        ids = read_ids(path)[0]
    except DataError as error:
        one_line(error)
    else:
        assert len(ids) == 3


@pytest.fixture(scope="module", autouse=True)
def _temporary(tmp_path_factory):
    global TEMPORARY
    TEMPORARY = tmp_path_factory.mktemp("ids")


def test_no_module_of_the_data_stage_can_load_a_pickle():
    import bilstm.data

    folder = os.path.dirname(bilstm.data.__file__)
    for name in sorted(os.listdir(folder)):
        if name.endswith(".py"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                source = file.read()
            assert not re.search(r"import pickle|allow_pickle=True|pickle\.load|np\.load\(", source), name


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"other": np.zeros(3)}, "holds no array 'x_train'"),
        ({"values": np.array([1, 2]), "offsets": np.array([0, 3])}, "last offset must equal"),
        ({"values": np.array([1, 2]), "offsets": np.array([0, 2, 1, 2])}, "never decrease"),
        ({"values": np.array([1.5]), "offsets": np.array([0, 1])}, "values must hold whole numbers"),
        ({"values": np.array([-1]), "offsets": np.array([0, 1])}, "negative id -1"),
        (
            {"values": np.array([1]), "offsets": np.array([0, 1]), "labels": np.array([1, 2])},
            "2 labels for 1 sequences",
        ),
        ({"values": np.zeros(0, int), "offsets": np.array([0])}, "there are no sequences"),
        ({"x_train": np.zeros((2, 2, 2), int)}, "one sequence a row"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, says):
    path = tmp_path / "t.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=says) as caught:
        read_records(path, labels="optional")
    one_line(caught.value)


def test_ids_without_labels_where_they_are_required(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, values=np.array([1]), offsets=np.array([0, 1]))
    with pytest.raises(DataError, match="holds no labels"):
        read_records(path)


def test_an_npz_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("bilstm.data.keras_ids.RATIO_FREE_BYTES", 1 << 20)
    path = tmp_path / "t.npz"
    np.savez_compressed(path, values=np.zeros(1_000_000, dtype=np.int64), offsets=np.array([0, 1_000_000]))
    with pytest.raises(DataError, match="unpacks to more than"):
        read_ids(path)


# --- any bytes at all -------------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(
    content=st.one_of(st.binary(max_size=200), st.text('a,"\n\r;\t|\0 é', max_size=60).map(str.encode)),
    name=st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.parquet", "t.txt", "t.csv.gz", "t.npz"]),
    is_skipping=st.booleans(),
)
def test_any_bytes_give_records_or_one_of_our_errors(content, name, is_skipping):
    path = TEMPORARY / name
    path.write_bytes(content)
    try:
        records = read_records(path, labels="none", skip_bad_rows=is_skipping)
    except BilstmError as error:
        one_line(error)
    else:
        assert len(records) == len(records.texts) > 0


@settings(max_examples=100, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=3))
def test_a_damaged_gzip_file_is_never_read_differently(flips):
    packed = bytearray(gzip.compress(GOOD, mtime=0))
    for at, change in flips:
        packed[at % len(packed)] ^= change
    path = TEMPORARY / "t.csv.gz"
    path.write_bytes(packed)
    try:
        records = read_records(path)
    except BilstmError as error:
        one_line(error)
    else:  # bits of the gzip header (time, operating system) carry no content
        assert records.texts == ["a good film", "a bad film"]


def test_a_name_with_a_line_break_in_a_damaged_file_of_ids_stays_on_one_line(tmp_path):
    path = tmp_path / "t.npz"
    body = pickle.dumps(object_array([1, 2], [3]), protocol=4).replace(b"numpy", b"n\nmpy", 1)
    npz_with(path, "x_train", body, (2,))
    with pytest.raises(DataError, match=r"n\\nmpy") as caught:
        read_ids(path)
    one_line(caught.value)
