"""Tagging of odd and bad files by the command line: each is done right, or refused with a message that says where."""

import json

import pytest
import torch

import bilstm
from bilstm.cli.app import main
from bilstm.data.conll import write_conll
from bilstm.data.tagged_files import read_tagged
from bilstm.data.tags import illegal_tags
from test_sequence_tagging import made_up
from test_tagging_run import FLAGS, run

torch.set_num_threads(1)


def written(path, count, seed, scheme="IOB2", more=()):
    """Write made-up sentences, and `more` of (tokens, tags), as CoNLL columns."""
    tokens, tags, _ = made_up(count, seed, scheme)
    path.write_text(write_conll([*zip(tokens, tags, strict=True), *more]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tmp_path_factory.mktemp("odd")


@pytest.fixture(scope="module")
def model(room):
    train, dev = written(room / "train.conll", 100, 0), written(room / "dev.conll", 30, 1)
    given = ["train", str(train), "--valid", str(dev), "-o", str(room / "ner"), "--max-epochs", "6", *FLAGS]
    assert main(given) == 0
    return room / "ner"


def test_sentences_of_one_and_of_two_thousand_tokens(room, capsys):
    long = (["Anna", "visits", "Rome", "."] * 500, ["B-PER", "O", "B-LOC", "O"] * 500)
    short = (["Lima"], ["B-LOC"])
    train = written(room / "long.conll", 60, 3, more=[long, short])
    dev = written(room / "long-dev.conll", 10, 4, more=[short, long])
    code, out, err = run(
        capsys, "train", train, "--valid", dev, "-o", room / "long", "--max-epochs", "6", "--json", *FLAGS
    )
    assert code == 0, err
    scores = json.loads(out)["dev"]
    assert scores["tokens"] == sum(map(len, read_tagged(dev).tokens))
    assert scores["f1"] > 0.5
    code, out, _ = run(capsys, "predict", room / "long", "--file", dev, "--format", "conll")
    assert code == 0
    (room / "answers.conll").write_text(out)
    answers = read_tagged(room / "answers.conll")
    assert [len(row) for row in answers.tokens[-2:]] == [1, 2000]
    assert answers.tokens == read_tagged(dev).tokens
    assert illegal_tags(answers.tags, "IOB2") == []


def test_tokens_never_seen(model, room, capsys):
    odd = room / "unseen.conll"
    odd.write_text(
        "Æthelred B-PER\nzwiedza O\nŁódź B-LOC\n\n東京 B-LOC\n🙂🙂 O\n" + "q" * 500 + " O\n\n", encoding="utf-8"
    )
    code, out, err = run(capsys, "evaluate", model, odd, "--json")
    assert code == 0, err
    scores = json.loads(out)
    assert scores["unseen_words"]["tokens"] == scores["tokens"] == 6
    assert scores["unseen_spans"]["support"] == 3
    _, out, _ = run(capsys, "predict", model, "--file", odd, "--json")
    answers = json.loads(out)["predictions"]
    assert [row["tokens"] for row in answers] == read_tagged(odd).tokens
    assert illegal_tags([row["tags"] for row in answers], "IOB2") == []


def test_tags_that_training_lacks_are_named_counted_and_wrong(model, room, capsys):
    song = (["Anna", "sings", "Imagine"], ["B-PER", "O", "B-SONG"])
    dev = written(room / "songs.conll", 20, 5, more=[song, song])
    said = "ags that training lacks, scored as wrong: SONG (2)."
    arguments = ["train", room / "train.conll", "--valid", dev, "-o", room / "songs", "--max-epochs", "4"]
    code, _, err = run(capsys, *arguments, *(flag for flag in FLAGS if flag != "--quiet"))
    assert code == 0, err
    assert said in err
    metrics = json.loads((room / "songs" / "metrics.json").read_text())
    assert metrics["dev"]["unknown_tags"] == {"SONG": 2}
    assert said in (room / "songs" / "report.html").read_text()
    code, out, err = run(capsys, "evaluate", model, dev, "--json")
    assert code == 0
    assert said in err
    scores = json.loads(out)
    assert scores["unknown_tags"] == {"SONG": 2}
    assert (scores["per_type"]["SONG"]["recall"], scores["per_type"]["SONG"]["support"]) == (0.0, 2)
    found, true = (scores["per_type"][name] for name in ("PER", "LOC"))
    assert scores["recall"] == pytest.approx(
        sum(part["recall"] * part["support"] for part in (found, true)) / (found["support"] + true["support"] + 2)
    )


def test_part_of_speech_that_training_lacks(room, capsys):
    for name, rows in (("pos", ["a DET\ndog NOUN\n", "it PRON\nruns VERB\n"] * 20), ("pos-dev", ["a DET\nwow INTJ\n"])):
        (room / f"{name}.conll").write_text("\n".join(rows))
    given = ["train", room / "pos.conll", "--valid", room / "pos-dev.conll", "-o", room / "pos", "--max-epochs", "2"]
    code, out, err = run(capsys, *given, *FLAGS, "--json")
    assert code == 0, err
    dev = json.loads(out)["dev"]
    assert dev["unknown_tags"] == {"INTJ": 1}
    assert dev["token_accuracy"] <= 0.5
    assert dev["per_tag"]["INTJ"]["f1"] == 0.0


def test_mixed_schemes_are_told_by_line(model, room, capsys):
    """Two thirds of the file are IOBES, a third is IOB2: one reading for all, the others named."""
    tokens, tags, _ = made_up(40, 6, "IOBES")
    more, others, _ = made_up(20, 7, "IOB2")
    mixed = room / "mixed.conll"
    mixed.write_text(write_conll([*zip(tokens, tags, strict=True), *zip(more, others, strict=True)]))
    broken = illegal_tags([*tags, *others], "IOBES")
    assert broken
    lines = [line for row in read_tagged(mixed).sentences for line in row.lines]
    first = lines[sum(map(len, [*tags, *others][: broken[0].sentence])) + broken[0].token]
    given = ["train", mixed, "-o", room / "mixed", "--max-epochs", "2"]
    code, _, err = run(capsys, *given, *(flag for flag in FLAGS if flag != "--quiet"))
    assert code == 0, err
    assert f"{len(broken)} tags break the scheme IOBES: {mixed}:{first} {broken[0]}" in " ".join(err.split())
    code, out, err = run(capsys, "evaluate", model, mixed, "--json")
    assert f"{len(broken)} tags break the scheme IOBES" in err
    # Scored by what the tags mean: as the same spans written in one scheme.
    same = room / "same.conll"
    from bilstm.data.tags import convert_tags

    as_one = [convert_tags(row, "IOB2") for row in [*tags, *others]]
    same.write_text(write_conll(zip([*tokens, *more], as_one, strict=True)))
    _, plain, _ = run(capsys, "evaluate", model, same, "--json")
    ignored = ("data", "model")
    assert {k: v for k, v in json.loads(out).items() if k not in ignored} == {
        k: v for k, v in json.loads(plain).items() if k not in ignored
    }


@pytest.mark.parametrize("scheme", ["IOB1", "IOBES"])
def test_answers_are_written_in_the_scheme_of_the_training_file(room, capsys, scheme):
    train = written(room / f"{scheme}.conll", 60, 8, scheme)
    folder = room / scheme
    code, _, err = run(capsys, "train", train, "-o", folder, "--max-epochs", "6", "--scheme", scheme, *FLAGS)
    assert code == 0, err
    answers = room / f"{scheme}-answers.conll"
    assert run(capsys, "predict", folder, "--file", train, "-o", answers)[0] == 0
    read, gold = read_tagged(answers), read_tagged(train)
    assert illegal_tags(read.tags, scheme) == []
    right = sum(
        a == b for one, other in zip(read.tags, gold.tags, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert right / sum(map(len, gold.tokens)) > 0.95


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict"])
def test_missing_column_on_a_line(model, room, capsys, verb):
    bad = written(room / "missing.conll", 20, 9)
    lines = bad.read_text().split("\n")
    at = next(number for number, line in enumerate(lines, start=1) if line.startswith("visits"))
    lines[at - 1] = "visits"
    bad.write_text("\n".join(lines))
    arguments = {
        "train": ["train", bad, "-o", room / "never", *FLAGS],
        "evaluate": ["evaluate", model, bad],
        "predict": ["predict", model, "--file", bad],
    }[verb]
    code, out, err = run(capsys, *arguments)
    assert code == 65
    assert f"missing.conll:{at}: 1 column where the file has 2 in 'visits'" in err
    assert "--skip-bad-rows" in err
    assert out == ""
    assert not (room / "never").exists()


def test_files_that_are_no_tagged_sentences(room, capsys):
    """Slot files of different length, JSON of unequal length, spans over each other: each named by file and line."""
    slots = room / "slots"
    slots.mkdir()
    (slots / "seq.in").write_text("play a song\nrain today\n")
    (slots / "seq.out").write_text("O O O\nO\n")
    (slots / "label").write_text("Play\nWeather\n")
    for name, line in (
        ("unequal", '{"tokens": ["a", "b"], "tags": ["O"]}'),
        ("over", '{"text": "New York City", "spans": [[0, 8, "LOC"], [4, 13, "LOC"]]}'),
        ("outside", '{"text": "Rome", "spans": [[0, 5, "LOC"]]}'),
        ("broken", '{"tokens": ["a"], "tags": }'),
    ):
        (room / f"{name}.jsonl").write_text(
            '{"tokens": ["Rome"], "tags": ["B-LOC"]}\n' * (name != "over") + line + "\n"
        )
    for path, message in [
        (slots, "seq.out:2: 1 tags for the 2 tokens of seq.in"),
        (room / "unequal.jsonl", "unequal.jsonl:2: 1 tags for 2 tokens"),
        (room / "over.jsonl", "over.jsonl:1: spans 'LOC' and 'LOC' overlap at character 4"),
        (room / "outside.jsonl", "outside.jsonl:2: span 0-5 'LOC' is not inside the text of 4 characters"),
        (room / "broken.jsonl", "broken.jsonl:2: not valid JSON"),
    ]:
        code, _, err = run(capsys, "train", path, "--task", "sequence-tagging", "-o", room / "never", *FLAGS)
        assert code == 65, err
        assert message in err
        assert "Traceback" not in err
    assert not (room / "never").exists()


def as_json(path, count, seed):
    """Write made-up sentences as text with character spans; two spaces between words, an emoji before them."""
    rows = []
    for tokens, tags in zip(*made_up(count, seed)[:2], strict=True):
        text, places = "🙂 ", []
        for token in tokens:
            places.append((len(text), len(text) + len(token)))
            text += token + "  "
        spans = []
        for (begin, end), tag in zip(places, tags, strict=True):
            if tag.startswith("B-"):
                spans.append({"start": begin, "end": end, "label": tag[2:]})
            elif tag.startswith("I-"):
                spans[-1]["end"] = end
        rows.append({"text": text, "spans": spans})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def test_the_whole_job_on_json_with_character_spans(room, capsys):
    train, test = room / "train.jsonl", room / "test.jsonl"
    as_json(train, 120, 10)
    gold = as_json(test, 30, 11)
    given = ["train", train, "--task", "sequence-tagging", "-o", room / "json", "--max-epochs", "8", *FLAGS]
    code, _, err = run(capsys, *given)
    assert code == 0, err
    code, out, _ = run(capsys, "evaluate", room / "json", test, "--json")
    assert json.loads(out)["f1"] > 0.95
    answers = room / "answers.jsonl"
    code, out, err = run(capsys, "predict", room / "json", "--file", test, "-o", answers)
    assert (code, out) == (0, "")
    rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == [row["text"] for row in gold]
    wrong = 0
    for row, true in zip(rows, gold, strict=True):
        assert [row["text"][begin:end] for begin, end in row["offsets"]] == row["tokens"]
        for span in row["spans"]:
            assert row["text"][span["start"] : span["end"]] == span["text"]
            assert 0 < span["score"] <= 1
        found = [{name: span[name] for name in ("start", "end", "label")} for span in row["spans"]]
        wrong += found != true["spans"]
    assert wrong <= 2
    # What was written can be read as training data again.
    read = read_tagged(answers)
    assert read.tags == bilstm.load(room / "json").predict(read.tokens)


def test_a_slot_folder_is_evaluated_with_its_intents(room, capsys):
    for part, count, seed in (("nlu-train", 120, 12), ("nlu-valid", 30, 13)):
        tokens, tags, intents = made_up(count, seed)
        (room / part).mkdir()
        for name, rows in (("seq.in", tokens), ("seq.out", tags), ("label", [[intent] for intent in intents])):
            (room / part / name).write_text("".join(" ".join(row) + "\n" for row in rows))
    folder, valid = room / "nlu", room / "nlu-valid"
    code, out, err = run(
        capsys, "train", room / "nlu-train", "--valid", valid, "-o", folder, "--max-epochs", "8", "--json", *FLAGS
    )
    assert code == 0, err
    summary = json.loads(out)
    assert "Task: sequence-tagging" in err
    code, out, _ = run(capsys, "evaluate", folder, valid, "--json")
    scores = json.loads(out)
    assert scores["intent"] == summary["dev"]["intent"]
    assert scores["intent"]["accuracy"] > 0.9
    _, out, _ = run(capsys, "predict", folder, "--file", valid, "--json")
    answers = json.loads(out)["predictions"]
    gold = read_tagged(valid)
    right = [row["intent"] == intent for row, intent in zip(answers, gold.intents, strict=True)]
    assert scores["intent"]["mistakes"] == right.count(False)
    whole = [ok and row["tags"] == tags for ok, row, tags in zip(right, answers, gold.tags, strict=True)]
    assert scores["sentence_accuracy"] == pytest.approx(sum(whole) / len(whole))
    assert all(0 < row["intent_score"] <= 1 for row in answers)
    # An intent that training lacks is named, counted and wrong.
    (valid / "label").write_text((valid / "label").read_text().replace(f"{gold.intents[0]}\n", "sing\n", 1))
    code, out, err = run(capsys, "evaluate", folder, valid, "--json")
    assert "intents that training lacks, scored as wrong: sing (1)." in err
    again = json.loads(out)["intent"]
    assert again["unknown"] == {"sing": 1}
    assert again["mistakes"] == scores["intent"]["mistakes"] + right[0]
    # Answers come back as columns and as words, with the intent in front of the text.
    _, out, _ = run(capsys, "predict", folder, "Eva leaves Lima .", "--format", "conll")
    assert out.splitlines()[0].startswith("Eva\tB-PER")
