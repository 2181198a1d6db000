"""Files of puzzles become tokens, made-up puzzles keep the rules, and damaged files are told in one line."""

from pathlib import Path

import numpy as np
import pytest

from augment.sudoku import extends
from pipeline.data.puzzles import csv_files
from pipeline.data.puzzles.kinds import PUZZLE_KINDS, KindName
from pipeline.data.puzzles.sources import load_puzzles
from tests.pipeline.tiny import refusal
from tests.pipeline.tinypuzzles import tiny_puzzles, write_csv

QUESTION = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
ANSWER = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
MAZE, SOLVED = "S # G    ", "S # G o  "


def write(path: Path, *lines: str, header: str = "source,question,answer,rating") -> Path:
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return path


def fault(path: Path, kind: KindName = "sudoku") -> str:
    """The message with which a file is refused, from the name of the file on."""
    message = refusal(lambda: load_puzzles(f"{kind}:{path}", "train"))
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_a_sudoku_is_read_as_the_tokens_of_the_authors(tmp_path: Path) -> None:
    puzzles = load_puzzles(f"sudoku:{write(tmp_path / 'a.csv', f'book,{QUESTION},{ANSWER},3')}", "train")
    assert puzzles.questions.dtype == puzzles.answers.dtype == np.uint8
    assert puzzles.questions[0].ravel().tolist() == [int(digit) + 1 for digit in QUESTION.replace(".", "0")]
    assert puzzles.answers[0].ravel().tolist() == [int(digit) + 1 for digit in ANSWER]
    assert (puzzles.kind, puzzles.name, len(puzzles)) == ("sudoku", f"sudoku:{tmp_path / 'a.csv'}", 1)
    assert (puzzles.question_texts(), puzzles.answer_texts()) == ([QUESTION], [ANSWER])


def test_a_maze_is_read_as_the_tokens_of_the_authors(tmp_path: Path) -> None:
    puzzles = load_puzzles(f"maze:{write(tmp_path / 'a.csv', f'x,{MAZE},{SOLVED},1')}", "train")
    assert puzzles.questions.tolist() == [[[3, 2, 1], [2, 4, 2], [2, 2, 2]]]
    assert puzzles.answers.tolist() == [[[3, 2, 1], [2, 4, 2], [5, 2, 2]]]
    assert (puzzles.question_texts(), puzzles.answer_texts()) == ([MAZE], [SOLVED])


@pytest.mark.parametrize(("kind", "side"), [("sudoku", 4), ("sudoku", 9), ("maze", 5), ("maze", 30)])
def test_what_is_written_is_what_is_read(kind: KindName, side: int, tmp_path: Path) -> None:
    puzzles = tiny_puzzles(kind, 20, side=side)
    loaded = load_puzzles(f"{kind}:{write_csv(tmp_path / 'a.csv', puzzles)}", "test")
    assert np.array_equal(loaded.questions, puzzles.questions)
    assert np.array_equal(loaded.answers, puzzles.answers)
    assert not (loaded.questions == 0).any()


def test_tokens_without_a_character_are_written_as_question_marks() -> None:
    assert PUZZLE_KINDS["sudoku"].to_texts(np.array([[[0, 1], [5, 255]]])) == ["?.??"]
    assert PUZZLE_KINDS["maze"].to_texts(np.array([[[0, 1], [5, 6]]])) == ["?#o?"]


def test_columns_come_in_any_order_quoted_or_not_with_byte_order_mark_or_without(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.csv", f"{ANSWER},{QUESTION.replace('.', '0')}", header="answer,question")
    quoted = tmp_path / "b.csv"
    quoted.write_bytes(
        b'\xef\xbb\xbf"question","source, of ""it""","answer"\r\n'
        + f'"{QUESTION}","two\nlines, one field",{ANSWER}\r\n\r\n'.encode()
    )
    for path in (plain, quoted):
        puzzles = load_puzzles(f"sudoku:{path}", "test")
        assert (puzzles.question_texts(), puzzles.answer_texts()) == ([QUESTION], [ANSWER])


@pytest.mark.parametrize("header", ["quizzes,solutions", " Puzzle , Solution ", "QUESTION,ANSWER", "quiz,answer"])
def test_columns_have_the_names_that_are_usual(tmp_path: Path, header: str) -> None:
    puzzles = load_puzzles(f"sudoku:{write(tmp_path / 'a.csv', f'{QUESTION},{ANSWER}', header=header)}", "train")
    assert (puzzles.question_texts(), puzzles.answer_texts()) == ([QUESTION], [ANSWER])


def test_a_question_column_counts_before_others_and_questions_may_come_alone(tmp_path: Path) -> None:
    puzzles = load_puzzles(f"sudoku:{write(tmp_path / 'a.csv', f'17,{QUESTION}', header='puzzle,question')}", "test")
    assert (puzzles.question_texts(), puzzles.answers) == ([QUESTION], None)


def test_answers_that_are_not_there_or_not_asked_for_are_left_unread(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", tiny_puzzles(), with_answers=False)
    assert load_puzzles(f"sudoku:{path}", "test").answers is None
    path = write(tmp_path / "a.csv", f"x,{QUESTION},no answer at all,1")
    assert load_puzzles(f"sudoku:{path}", "test", with_answers=False).answers is None
    assert load_puzzles("sudoku:generated:side=4,count=2", "test", with_answers=False).answers is None


def test_all_lines_have_answers_and_one_size_or_none_has(tmp_path: Path) -> None:
    small = tiny_puzzles(count=1).question_texts()[0]
    answered, unanswered, other = (f"x,{QUESTION},{ANSWER},1", f"x,{QUESTION},,1", f"x,{small},{small},1")
    for lines, message in (
        ((answered, unanswered), "has no answer, and other lines have one"),
        ((unanswered, answered), "has an answer, and other lines have none"),
        ((answered, other), "question has 16 characters, expected 81"),
    ):
        assert fault(write(tmp_path / "a.csv", *lines)) == f"line 3: {message}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"x,{QUESTION[1:]},{ANSWER},1", "question has 80 characters, expected 81"),
        (f"x,{QUESTION},{ANSWER}5,1", "answer has 82 characters, expected 81"),
        (f"x,{QUESTION[:4]}x{QUESTION[5:]},{ANSWER},1", "question has 'x' as character 5, expected only '.123456789'"),
        (f"x,{QUESTION[:80]}\x00,{ANSWER},1", None),
        (f"x,{QUESTION[:80]}é,{ANSWER},1", "question has '\\xe9' as character 81, expected only '.123456789'"),
        (f"x,{QUESTION},{ANSWER[::-1]},1", "answer must be a solution"),
        (f"x,{ANSWER[1:]}5,{ANSWER},1", "answer must be a solution"),
        (f"x,{QUESTION},{ANSWER}", "expected 4 fields, got 3"),
        ('x,"', "unexpected end of data"),
        ('x,"a"b', "not CSV, as line 18 shows"),
    ],
)
def test_a_bad_sudoku_is_told_by_its_line(line: str, message: str | None, tmp_path: Path) -> None:
    good = f"x,{QUESTION},{ANSWER},1"
    told = fault(write(tmp_path / "a.csv", *[good] * 16, line))
    assert "line 18" in told or "line 19" in told
    assert message is None or message in told


@pytest.mark.parametrize(
    ("question", "answer", "message"),
    [
        ("S # S    ", SOLVED, "question must have exactly one S, exactly one G and no o"),
        (SOLVED, SOLVED, "question must have exactly one S"),
        (MAZE, "S o G    ", "answer must be the question with some of its free cells turned into o"),
        (MAZE, "S # G.   ", "answer has '.' as character 6, expected only '# SGo'"),
        ("S # G  ", "S # G  ", "question has 7 characters, expected a square, 4 to 900"),
    ],
)
def test_a_bad_maze_is_told_by_its_line(question: str, answer: str, message: str, tmp_path: Path) -> None:
    told = fault(write(tmp_path / "a.csv", f"x,{question},{answer},1", f"x,{MAZE},{SOLVED},1"), "maze")
    assert told.startswith(f"line 2: {message}")


def test_a_bad_maze_without_an_answer_behind_a_good_one_is_told_by_its_line(tmp_path: Path) -> None:
    told = fault(write(tmp_path / "a.csv", MAZE, "S # GG   ", header="question"), "maze")
    assert told.startswith("line 3: question must have exactly one S, exactly one G and no o")


def test_the_first_three_bad_lines_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "ROWS_AT_ONCE", 16)
    path = write_csv(tmp_path / "a.csv", tiny_puzzles(count=42))
    lines = path.read_text().split("\n")
    bad = [5, 23, 33, 35, 37]
    for number in bad:
        lines[number - 1] = "x,1"
    path.write_text("\n".join(lines))
    told = "; ".join(f"line {number}: expected 4 fields, got 2" for number in bad[:3])
    assert fault(path) == f"{told}; reading stopped here"


def test_lines_are_counted_as_they_are_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "", f'"two\nlines",{QUESTION},{ANSWER},1', "", "x,1")
    assert fault(path) == "line 6: expected 4 fields, got 2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, expected a header that names question and answer"),
        (b"source,question,answer,rating\n\n", "has a header and no puzzles"),
        (
            b"source,rating\n",
            "line 1: the header must name one column question or puzzle or quizzes or quiz, got source, rating",
        ),
        (b"question,answer,answer\n", "the header has answer twice"),
        (b"question,answer\n1234567,\n", "line 2: question has 7 characters, expected 16 or 81"),
        (b"question,answer\n1\xff2,3\n", "line 2: not UTF-8: invalid start byte at byte 1"),
        (b"question,answer\n" + b"1" * 200_000, "not CSV, as line 2 shows: field larger than field limit (131072)"),
    ],
)
def test_a_foreign_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert fault(path) == message


@pytest.mark.parametrize("name", ["missing.csv", "new\nline.csv"])
def test_a_missing_file_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    assert "no such file" in refusal(lambda: load_puzzles(f"sudoku:{tmp_path / name}", "train"), FileNotFoundError)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("size=4", "unknown setting size: expected side, clues, count, seed"),
        ("", "unknown setting '': expected side, clues, count, seed"),
        ("side", "side must be a number from 1 on, got ''"),
        ("count=0", "count must be a number from 1 on, got 0"),
        ("count=many", "count must be a number from 1 on, got many"),
        ("seed=-1", "seed must be a number from 0 on, got -1"),
        ("side=4,side=9", "side is given twice"),
        ("side=5", "side must be 4 or 9, got 5"),
        ("side=4,clues=17", "clues, got 17"),
    ],
)
def test_bad_settings_of_generated_puzzles_are_told(settings: str, message: str) -> None:
    assert message in refusal(lambda: load_puzzles(f"sudoku:generated:{settings}", "train"))


@pytest.mark.parametrize("spec", ["chess:a.csv", "sudoku:", "sudoku", ""])
def test_an_unknown_source_lists_what_there_is(spec: str) -> None:
    with pytest.raises(ValueError, match=r"expected one of sudoku:FILE\.csv, sudoku:generated"):
        load_puzzles(spec, "train")


def test_a_limit_draws_puzzles_without_replacement_in_their_order(tmp_path: Path) -> None:
    spec = f"sudoku:{write_csv(tmp_path / 'a.csv', tiny_puzzles(count=50))}"
    everything = load_puzzles(spec, "train").question_texts()
    first, again, other = (load_puzzles(spec, "train", limit=20, seed=seed) for seed in (0, 0, 1))
    places = [everything.index(text) for text in first.question_texts()]
    assert places == sorted(set(places))
    assert len(places) == 20
    assert first.question_texts() == again.question_texts() != other.question_texts()
    asked = load_puzzles(spec, "test", limit=20, seed=0)
    assert asked.question_texts() != first.question_texts()  # one file may be limited for training and for tests
    assert extends(first.questions - np.uint8(1), first.answers - np.uint8(1)).all()
    assert load_puzzles(spec, "train", limit=50).question_texts() == everything
