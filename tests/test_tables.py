"""Delimited tables: what a strict reader must give back is what the standard library wrote."""

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm.data import byte_streams
from bilstm.data.byte_streams import ByteStream, TextStream
from bilstm.data.records import read_records
from bilstm.data.tables import BadRows, open_delimited
from bilstm.errors import DataError

# every character a UTF-8 file can hold but NUL, which is refused
ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
LABELS = ANY_TEXT.filter(lambda label: label.strip())


def rows_of(content: bytes, name: str = "table.csv", **options) -> tuple[list[str], list[tuple[int, list[str]]]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        with ByteStream(path) as stream:
            table = open_delimited(TextStream(stream), BadRows(False), [], **options)
            return table.columns, list(table.rows)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(ANY_TEXT, LABELS), min_size=1, max_size=8),
    delimiter=st.sampled_from(",;\t|"),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_what_the_standard_library_writes_is_read_back(rows, delimiter, line_end, quoting):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerow(["text", "label"])
    for row in rows:
        # a text that holds another line end than the file's must be quoted, which QUOTE_MINIMAL may not do
        if quoting == csv.QUOTE_MINIMAL:
            row = [field.replace("\r", " ").replace("\n", " ") for field in row]
        writer.writerow(row)
    expected = list(csv.reader(io.StringIO(buffer.getvalue(), newline=""), delimiter=delimiter))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.csv")
        path.write_bytes(buffer.getvalue().encode())
        records = read_records(path, keep_empty_labels=True)
    assert [[text, label] for text, label in zip(records.texts, records.labels, strict=True)] == expected[1:]


@pytest.mark.parametrize("block", [1, 2, 3, 7])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_results_do_not_depend_on_block_borders(monkeypatch, block, line_end):
    content = line_end.join(["text,label", '"naïve, ""quoted""', 'second line",pos', "שלום 👍,neg", ""]).encode()
    whole = rows_of(content)
    monkeypatch.setattr(byte_streams, "BLOCK_BYTES", block)
    monkeypatch.setattr(byte_streams, "HEAD_BYTES", 4)
    assert rows_of(content) == whole
    assert whole[1][0] == (2, [f'naïve, "quoted"{line_end}second line', "pos"])
    assert whole[1][1] == (4, ["שלום 👍", "neg"])


def test_lines_are_those_of_the_file_not_of_the_records():
    _, rows = rows_of(b'text,label\n"a\n\nb",x\n\nc,y\n')
    assert [line for line, _ in rows] == [2, 6]


def test_other_line_separators_are_characters():
    _, rows = rows_of("text,label\na\u2028b\x85c\x0bd,x\n".encode())
    assert rows == [(2, ["a\u2028b\x85c\x0bd", "x"])]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_delimiter_is_recognised_although_texts_hold_commas(delimiter):
    lines = [f"review{delimiter}sentiment", *(f"well, well, {n}{delimiter}pos" for n in range(20))]
    columns, rows = rows_of("\n".join(lines).encode())
    assert columns == ["review", "sentiment"]
    assert rows[0] == (2, ["well, well, 0", "pos"])


def test_delimiter_inside_quotes_is_none():
    columns, _ = rows_of(b'"a;b;c;d",label\n"1;2;3;4",x\n')
    assert columns == ["a;b;c;d", "label"]


def test_quotes_may_have_no_meaning():
    _, rows = rows_of(b'text\tlabel\n"Great\tpos\n', "table.tsv", has_quotes=False)
    assert rows == [(2, ['"Great', "pos"])]


def test_a_field_of_ten_megabytes_is_read():
    long = "word " * 2_000_000
    _, rows = rows_of(f"text,label\n{long},x\nshort,y\n".encode())
    assert rows[0][1][0] == long
    assert rows[1] == (3, ["short", "y"])


def test_blank_lines_are_passed_over_and_said():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        path.write_bytes(b"\n\ntext,label\na,x\n\n  \nb,y\n\n")
        records = read_records(path)
    assert records.texts == ["a", "b"]
    assert records.rows[:, 1].tolist() == [4, 7]
    assert any("3 blank lines" in note for note in records.notes)


def test_quote_errors_name_the_line_where_the_quote_opened():
    with pytest.raises(DataError, match=r"table\.csv:3: the double quote \(\"\) that opens here is never closed"):
        rows_of(b'text,label\na,x\n"b,x\nc,y\nd,z\n')
    with pytest.raises(DataError, match=r"table\.csv:4: the quoted text that begins here is closed at line 5"):
        rows_of(b'text,label\n"a\n",x\n"b,x\n"c",y\n')
    # the second field of a record, after one that spans lines
    with pytest.raises(DataError, match=r"table\.csv:3: the double quote"):
        rows_of(b'text,label\n"a\nb","x\nc,y\n')


def test_the_limit_on_fields_is_not_lowered():
    before = csv.field_size_limit(2**31 - 1)
    try:
        rows_of(b"text,label\na,x\n")
        assert csv.field_size_limit() == 2**31 - 1
    finally:
        csv.field_size_limit(before)
