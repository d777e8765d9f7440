"""Readers of tagged sentences: what is read, and what is refused with file and line."""

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm.data.conll import write_conll
from bilstm.data.tagged_files import read_tagged, sentences_of
from bilstm.data.tagged_sentences import joined_text
from bilstm.data.tags import tags_to_spans
from bilstm.data.word_spans import cut_at, token_spans
from bilstm.errors import DataError, InputNotFoundError, UsageError


@pytest.fixture
def file(tmp_path):
    def write(content, name="train.conll"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


FOUR = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\n"


def test_four_columns_without_final_blank_line(file):
    read = read_tagged(file(FOUR))
    assert read.tokens == [["EU", "rejects"], ["Peter"]]
    assert read.tags == [["B-ORG", "O"], ["B-PER"]]
    assert read.sentences[0].columns == {"pos": ["NNP", "VBZ"], "chunk": ["B-NP", "B-VP"]}
    assert (read.token_column, read.tag_column, read.format) == ("token", "ner", "conll")
    assert [sentence.lines for sentence in read.sentences] == [[3, 4], [6]]
    assert read.where(1).endswith("train.conll:6")
    assert read.sources[0].rows == 2
    assert read.notes == ()


@pytest.mark.parametrize("label", ["pos", "POS", 2, "2"])
def test_tag_column_by_name_or_number(file, label):
    assert read_tagged(file(FOUR), label=label).tags == [["NNP", "VBZ"], ["NNP"]]


def test_unknown_column_names_the_nearest(file):
    with pytest.raises(
        UsageError, match=r"no column 'chunks'; columns are token, pos, chunk, ner. Did you mean 'chunk'"
    ):
        read_tagged(file(FOUR), label="chunks")
    with pytest.raises(UsageError, match="--label 5: the file has columns 1 to 4"):
        read_tagged(file(FOUR), label=5)
    with pytest.raises(UsageError, match="both the token and the tag"):
        read_tagged(file(FOUR), label=1)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [" ", "\t", "   ", " \t "])
def test_separators_and_line_ends(file, separator, ending):
    lines = ["Rome", "x"], ["B-LOC", "O"]
    text = ending.join(separator.join(pair) for pair in zip(*lines, strict=True))
    read = read_tagged(file(text + ending * 3 + text))
    assert read.tokens == [["Rome", "x"]] * 2
    assert read.tags == [["B-LOC", "O"]] * 2


def test_blank_lines_may_hold_spaces_and_tabs(file):
    assert read_tagged(file("a\tO\n\t\nb\tO\n  \nc\tO")).tokens == [["a"], ["b"], ["c"]]


def test_tab_files_keep_spaces_inside_tokens(file):
    read = read_tagged(file("New York\tB-LOC\nis O\n"))
    assert read.tokens == [["New York", "is"]]


def test_odd_characters_stay_inside_tokens(file):
    token = "a\u2028b\x85c\u00a0d\u200b"
    assert read_tagged(file(f"{token} O\nNA O\n007 O\n")).tokens == [[token, "NA", "007"]]


def test_hash_signs_are_tokens_or_comments(file):
    text = "# sentence 1 of text\n# O\n#tag O\nx O\n\n# another comment here\n#news O\n# O\n"
    assert read_tagged(file(text)).tokens == [["#", "#tag", "x"], ["#news", "#"]]
    tabs = "# id = 1\n#\tO\n#tag\tO\n\n# id = 2\nx\tO\n"
    assert read_tagged(file(tabs)).tokens == [["#", "#tag"], ["x"]]
    assert read_tagged(file("# O\n")).tokens == [["#"]]


def test_missing_column_is_named_by_line(file):
    path = file("EU B-ORG\nrejects\nit O\n")
    with pytest.raises(DataError, match=r"train.conll:2: 1 column where the file has 2 in 'rejects'") as caught:
        read_tagged(path)
    assert caught.value.exit_code == 65
    with pytest.raises(DataError, match=r"train.conll:2: the tag is empty"):
        read_tagged(file("EU\tO\nrejects\t\n"))
    with pytest.raises(DataError, match=r"train.conll:2: the token is empty"):
        read_tagged(file("EU\tO\n\tO\n"))


def test_bad_sentences_can_be_left_out(file):
    read = read_tagged(file("a O\nb\nc O\n\nd O\n\ne O O\n"), skip_bad_rows=True)
    assert read.tokens == [["d"]]
    assert read.notes[0].endswith("left out 2 sentences with a bad line (lines 2, 7).")


def test_tokens_without_tags(file):
    path = file("Rome\nis\n\nbig\n")
    with pytest.raises(DataError, match="one column, there are no tags"):
        read_tagged(path)
    read = read_tagged(path, needs_tags=False)
    assert (read.tokens, read.tags) == ([["Rome", "is"], ["big"]], None)


def test_counted_tokens_and_named_columns(file):
    read = read_tagged(file("1 Rome x B-LOC\n2 is x O\n\n1 Big x O\n"))
    assert read.tokens == [["Rome", "is"], ["Big"]]
    assert "column 1 counts the tokens" in read.notes[0]
    named = read_tagged(file("# global.columns = FORM NER LEMMA\nRome B-LOC rome\n"), label="ner")
    assert (named.tokens, named.tags) == ([["Rome"]], [["B-LOC"]])


@pytest.mark.parametrize(
    ("content", "message"), [("", "the file is empty"), ("\n \n", "empty"), ("-DOCSTART- O\n\n", "no sentences")]
)
def test_files_without_sentences(file, content, message):
    with pytest.raises(DataError, match=message):
        read_tagged(file(content))


def test_gzip_encodings_and_several_files(file):
    packed = file(gzip.compress(b"Rome B-LOC\n"), "a.conll.gz")
    latin = file("Köln B-LOC\n".encode("latin-1"), "b.conll")
    with pytest.raises(DataError, match=r"b.conll:1: byte 0xF6"):
        read_tagged([packed, latin])
    read = read_tagged([packed, latin], encoding="latin-1")
    assert read.tokens == [["Rome"], ["Köln"]]
    assert read.where(1).endswith("b.conll:1")
    assert len(read.sources) == 2
    assert read.select([1]).tokens == [["Köln"]]
    with pytest.raises(UsageError, match="given twice"):
        read_tagged([latin, latin])
    with pytest.raises(InputNotFoundError):
        read_tagged(latin + "x")


word = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(word, st.sampled_from(["O", "B-X", "I-X"])), min_size=1, max_size=4), min_size=1))
def test_written_files_are_read_back(tmp_path_factory, pairs):
    # A first token that begins with a hash sign is told from a comment by its columns; both separators are tried.
    columns = [[list(part) for part in zip(*sentence, strict=True)] for sentence in pairs]
    path = tmp_path_factory.mktemp("written") / "x.conll"
    for separator in ("\t", " "):
        path.write_text(write_conll(columns, separator), encoding="utf-8")
        read = read_tagged(path)
        assert read.tokens == [tokens for tokens, _ in columns]
        assert read.tags == [tags for _, tags in columns]


CONLLU = """# sent_id = weblog-1
# text = Vámonos al mar, ¿no?
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_
3-4\tal\t_\t_\t_\t_\t_\t_\t_\t_
3\ta\ta\tADP\t_\t_\t5\tcase\t_\t_
4\tel\tel\tDET\t_\t_\t5\tdet\t_\t_
5\tmar\tmar\tNOUN\tNN\t_\t1\tobl\t_\tSpaceAfter=No
6\t,\t,\tPUNCT\t_\t_\t1\tpunct\t_\t_
6.1\tvamos\tir\tVERB\t_\t_\t_\t_\t_\t_
7\t¿\t¿\tPUNCT\t_\t_\t1\tpunct\t_\tSpaceAfter=No
8\tno\tno\tINTJ\t_\t_\t1\tdiscourse\t_\tSpaceAfter=No
9\t?\t?\tPUNCT\t_\t_\t1\tpunct\t_\t_
"""


def test_conllu_words_ranges_and_empty_nodes(file):
    read = read_tagged(file(CONLLU, "x.conllu"))
    assert read.tokens == [["Vamos", "nos", "a", "el", "mar", ",", "¿", "no", "?"]]
    assert read.tags == [["VERB", "PRON", "ADP", "DET", "NOUN", "PUNCT", "PUNCT", "INTJ", "PUNCT"]]
    sentence = read.sentences[0]
    assert sentence.name == "weblog-1"
    text, offsets = sentence.running_text()
    assert text == "Vámonos al mar, ¿no?"
    assert [text[begin:end] for begin, end in offsets] == [
        "Vámonos", "Vámonos", "al", "al", "mar", ",", "¿", "no", "?",
    ]  # fmt: skip
    assert [note.split(": ")[1] for note in read.notes] == [
        "2 multi-word tokens; their words are tagged.",
        "1 empty nodes passed over.",
    ]
    assert (read.tag_column, read.format) == ("upos", "conllu")


def test_conllu_text_is_composed_where_it_is_missing_or_wrong(file):
    expected = read_tagged(file(CONLLU, "x.conllu")).sentences[0].running_text()
    without = CONLLU.replace("# text = Vámonos al mar, ¿no?\n", "")
    assert read_tagged(file(without, "x.conllu")).sentences[0].running_text() == expected
    wrong = CONLLU.replace("# text = Vámonos al mar, ¿no?", "# text = Vámonos a la mar")
    assert read_tagged(file(wrong, "x.conllu")).sentences[0].running_text() == expected


def test_conllu_is_told_by_content_and_other_columns_can_be_tags(file):
    read = read_tagged(file(CONLLU, "x.txt"), label="deprel")
    assert read.format == "conllu"
    assert read.tags[0][0] == "root"
    assert read.sentences[0].columns["upos"][0] == "VERB"
    assert read_tagged(file(CONLLU, "x.txt"), label=4).tag_column == "upos"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("6\t,\t,\tPUNCT\t_", "6\t,\t,\tPUNCT", r"x.conllu:10: 9 tab-separated columns where CoNLL-U has 10"),
        ("6\t,", "8\t,", r"x.conllu:10: word 8 after word 5"),
        ("6\t,", "six\t,", r"x.conllu:10: 'six' is no CoNLL-U id"),
        ("3-4\tal", "2-4\tal", r"x.conllu:6: range 2-4 does not fit after word 2"),
        ("3-4\tal", "3-40\tal", r"x.conllu:14: range 3-40 in a sentence of 9 words"),
        ("mar\tNOUN", "mar\t_", r"x.conllu:9: word 'mar' has no upos"),
    ],
)
def test_broken_conllu_is_named_by_line(file, old, new, message):
    with pytest.raises(DataError, match=message):
        read_tagged(file(CONLLU.replace(old, new), "x.conllu"))


def test_conllu_column_without_values(file):
    with pytest.raises(
        DataError, match=r"column feats holds no tag.*Columns with values: lemma, upos, xpos, head, deprel"
    ):
        read_tagged(file(CONLLU, "x.conllu"), label="feats")
    assert read_tagged(file(CONLLU, "x.conllu"), label="feats", needs_tags=False).tags is None


@pytest.fixture
def slots(tmp_path):
    def write(**files):
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text, encoding="utf-8")
        return str(tmp_path)

    return write


def test_slot_folder(slots):
    folder = slots(seq_in="play jazz \nflow español\n", seq_out="O B-genre \nO O\n", label="Play\nAdd\n")
    read = read_tagged(folder)
    assert read.tokens == [["play", "jazz"], ["flow", "español"]]
    assert read.tags == [["O", "B-genre"], ["O", "O"]]
    assert read.intents == ["Play", "Add"]
    assert (read.format, read.intent_column) == ("slots", "label")
    assert read.sources[0].path == folder


def test_broken_slot_folder_is_named(slots, tmp_path):
    folder = slots(seq_in="play jazz\nx\n")
    with pytest.raises(InputNotFoundError, match=r"holds no seq.out"):
        read_tagged(folder)
    assert read_tagged(folder, needs_tags=False).tags is None
    slots(seq_out="O\nO\n")
    with pytest.raises(DataError, match=r"seq.out:1: 1 tags for the 2 tokens"):
        read_tagged(folder)
    slots(seq_out="O O\n")
    with pytest.raises(DataError, match=r"seq.out: 1 lines where .*seq.in has 2"):
        read_tagged(folder)
    slots(seq_out="O O\nO\n", label="A\n \n")
    with pytest.raises(DataError, match=r"label:2: the label is empty"):
        read_tagged(folder)
    with pytest.raises(InputNotFoundError, match=r"holds no seq.in"):
        read_tagged(os.path.dirname(folder))


def test_json_lines_of_tokens(file):
    rows = [{"tokens": ["Rome", "!"], "tags": ["B-LOC", "O"], "intent": "x"}, {"words": ["a"], "ner_tags": ["O"]}]
    read = read_tagged(file("\n".join(map(json.dumps, rows)), "x.jsonl"))
    assert read.tokens == [["Rome", "!"], ["a"]]
    assert read.tags == [["B-LOC", "O"], ["O"]]
    assert [sentence.intent for sentence in read.sentences] == ["x", None]


def test_json_lines_of_spans(file):
    text = "Angela Merkel visited São Paulo-Norte 🙂 today."
    rows = [
        {"text": text, "spans": [{"start": 0, "end": 14, "label": "PER"}, [22, 31, "LOC"]]},
        {"text": "nothing", "entities": []},
    ]
    read = read_tagged(file("\n".join(map(json.dumps, rows)), "x.jsonl"))
    first = read.sentences[0]
    found = [
        (span.type, text[first.offsets[span.begin][0] : first.offsets[span.end - 1][1]])
        for span in tags_to_spans(first.tags)
    ]
    assert found == [("PER", "Angela Merkel"), ("LOC", "São Paulo")]
    assert read.notes == (f"{read.sources[0].path}: 1 spans without the white space at their ends.",)
    assert read.sentences[1].tags == ["O"]


def test_spans_inside_tokens_cut_them(file):
    read = read_tagged(file(json.dumps({"text": "preWW2era", "spans": [[3, 6, "EVENT"]]})))
    assert read.tokens == [["pre", "WW2", "era"]]
    assert read.tags == [["O", "B-EVENT", "O"]]
    assert "1 tokens cut" in read.notes[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{bad}", "x.jsonl:1: not valid JSON"),
        ('{"words": ["a"]}', "x.jsonl:1: no 'tags' or 'ner_tags'; keys are 'words'"),
        ('{"tokens": ["a"], "tags": ["O", "O"]}', "x.jsonl:1: 2 tags for 1 tokens"),
        ('{"tokens": ["a"], "tags": [3]}', "x.jsonl:1: tags must be texts"),
        ('{"tokens": ["a", ""], "tags": ["O", "O"]}', "x.jsonl:1: tokens must be a list of texts"),
        ('{"text": "ab", "spans": [[0, 3, "X"]]}', r"span 0-3 'X' is not inside the text of 2 characters"),
        ('{"text": "ab", "spans": [[1, 1, "X"]]}', r"span 1-1 'X' is not inside"),
        ('{"text": "a b", "spans": [[1, 2, "X"]]}', "covers only white space"),
        ('{"text": "a b c", "spans": [[0, 3, "X"], [2, 5, "Y"]]}', "spans 'X' and 'Y' overlap at character 2"),
        ('{"text": "ab", "spans": [["0", 1, "X"]]}', "is no span; expected start, end and label"),
        ('{"other": 1, "spans": []}', "neither 'tokens' nor 'text'; keys are 'other', 'spans'"),
    ],
)
def test_broken_json_lines_are_named(file, row, message):
    with pytest.raises(DataError, match=message):
        read_tagged(file(row, "x.jsonl"))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_tokens_of_text_lose_nothing(text):
    spans = token_spans(text)
    covered = "".join(text[begin:end] for begin, end in spans)
    assert covered == "".join(text.split())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert all(text[begin:end].strip() == text[begin:end] != "" for begin, end in spans)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("I don't know, she'll go.", ["I", "do", "n't", "know", ",", "she", "'ll", "go", "."]),
        ("Mr. Smith's U.S. trip cost $1,000.50!", ["Mr.", "Smith", "'s", "U.S.", "trip", "cost", "$", "1,000.50", "!"]),
        ("see http://a.b/c?d=1. @bob #fun :)", ["see", "http://a.b/c?d=1", ".", "@bob", "#fun", ":)"]),
        ("wait... WHAT?!! a-b", ["wait", "...", "WHAT", "?", "!!", "a", "-", "b"]),
        ("שלום, العالم。你好", ["שלום", ",", "العالم", "。", "你好"]),
    ],
)
def test_tokens_of_text_by_hand(text, tokens):
    assert [text[begin:end] for begin, end in token_spans(text)] == tokens


def test_cutting_tokens():
    assert cut_at([(0, 4), (5, 9)], [0, 4, 5, 9]) == ([(0, 4), (5, 9)], 0)
    assert cut_at([(0, 9)], [3, 6, 3]) == ([(0, 3), (3, 6), (6, 9)], 1)
    assert joined_text([]) == ("", [])


def test_lists_given_from_python():
    read = sentences_of([["a", "b"], ["c"]], [["O", "O"], ["B-X"]], ["x", "y"])
    assert (read.tokens, read.tags, read.intents) == ([["a", "b"], ["c"]], [["O", "O"], ["B-X"]], ["x", "y"])
    assert read.where(1, 0) == "sentence 1:0"
    for arguments, message in [
        (([["a"]], []), "1 sentences but 0 tags"),
        ((["ab"], [["O", "O"]]), "Sentence 0 is a text"),
        (([["a", "b"]], [["O"]]), "Sentence 0 has 2 tokens but 1 tags"),
        (([["a", 3]], [["O", "O"]]), "Sentence 0: 3 is not a token"),
    ]:
        with pytest.raises(UsageError, match=message):
            sentences_of(*arguments)


@pytest.mark.data
def test_real_files():
    folder = os.environ.get("BILSTM_DATA")
    if not folder:
        pytest.skip("BILSTM_DATA does not name the folder of the real data sets")
    root = Path(folder)
    ewt = read_tagged(root / "ewt/en_ewt-ud-dev.conllu")
    assert (len(ewt), sum(map(len, ewt.tokens))) == (2001, 25147)
    assert len({tag for tags in ewt.tags for tag in tags}) == 17
    wnut = read_tagged(root / "wnut17/emerging.dev.conll")
    assert (len(wnut), sum(len(tags_to_spans(tags)) for tags in wnut.tags)) == (1009, 836)
    snips = read_tagged(root / "snips/valid")
    assert (len(snips), len(set(snips.intents))) == (700, 7)
