"""From the lines of pages to Markdown: words rejoined, order of reading, blocks, and what belongs to paper left out."""

import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.extract.assemble import assemble
from pipelines.extract.layout import lay_out
from pipelines.extract.page import WRAPPED_HYPHEN, Block, Line, Page, PageContent
from pipelines.extract.reading_order import jumps_back, reading_order
from pipelines.extract.tables import Table
from pipelines.extract.wrapping import continues, join_pair, mend_hyphens

WIDTH, HEIGHT = 600.0, 800.0
# Without vowels: no piece of a word is a conjunction, before which a hyphen stays.
words = st.lists(st.text("bcdfghjklm", min_size=1, max_size=9), min_size=1, max_size=60)


def line(text, left, top, size=10.0, letter=0.5, **how):
    """A line whose letters are `letter` em wide."""
    return Line(text, (left, top, left + letter * size * len(text), top + 1.2 * size), size, **how)


def page_of(lines, number=1):
    return PageContent(number, WIDTH, HEIGHT, [lines])


def texts(lines, tables=()):
    return [(block.kind, block.text) for block in lay_out(page_of(lines), tables)]


def wrapped(text, left=50.0, top=100.0, width=250.0, pitch=12.0, **how):
    """Lines of at most `width` points."""
    lines, line_text = [], ""
    for word in text.split():
        if line_text and (len(line_text) + 1 + len(word)) * 5 > width:
            lines.append(line_text)
            line_text = word
        else:
            line_text = f"{line_text} {word}".strip()
    lines.append(line_text)
    return [line(piece, left, top + index * pitch, **how) for index, piece in enumerate(lines)]


PROSE = (
    "The people of the valley kept to the old road because it was dry in winter and shaded in summer, and because "
    "nobody had ever thought of asking whether there might be another one that went around the hill on its far side."
)


# --- wrapped lines ---


@settings(max_examples=40)
@given(words, st.randoms(use_true_random=False))
def test_words_broken_at_line_ends_come_back_whole(whole, chance):
    text = " ".join(whole)
    pieces, rest = [], text
    while len(rest) > 12:
        cut = chance.randrange(2, 12)
        before, after = rest[:cut], rest[cut:]
        if before[-1] == " " or after[0] == " ":
            pieces.append(before.strip())
        else:
            pieces.append(before + "-")
        rest = after.strip()
    pieces = [piece for piece in (*pieces, rest) if piece]
    joined = pieces[0]
    for piece in pieces[1:]:
        joined = join_pair(joined, piece)
    assert mend_hyphens([joined]) == [text]


@pytest.mark.parametrize(
    ("before", "after", "joined"),
    [
        ("Haupt-", "und Nebenfach", "Haupt- und Nebenfach"),
        ("the CD-", "ROM drive", "the CD-ROM drive"),
        ("in 1990-", "1995", "in 1990-1995"),
        ("AD 2018–", "23", "AD 2018–23"),
        ("soft\u00ad", "ware", "software"),
        ("日本語の", "文章です", "日本語の文章です"),
        ("한국어", "문장", "한국어 문장"),
        ("see /usr/", "share", "see /usr/share"),
        ("an end.", "A begin", "an end. A begin"),
    ],
)
def test_pairs_of_lines(before, after, joined):
    assert mend_hyphens([join_pair(before, after)]) == [joined]


def test_a_compound_keeps_its_hyphen_if_the_document_writes_it_elsewhere():
    pieces = [f"A well{WRAPPED_HYPHEN}known and a won{WRAPPED_HYPHEN}derful case", "It is Well-known."]
    assert mend_hyphens(pieces) == ["A well-known and a wonderful case", "It is Well-known."]


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("the end of a", "sentence", True),
        ("It ended.", "and so on", False),
        ("He met", "John there", False),
        ("a long sentence with many words in it, which names", "Then", False),
        (
            "これは長い文章でありページの終わりで切れていてまだまだ続くはずの段落の途中のところなのであってそれが",
            "次のページにも同じ段落の文章がずっと続いていくということを示すためだけの長い長い例文なのですからね",
            True,
        ),
        ("これは終わりです。" * 6, "次の段落がここからはじまるのであり" * 4, False),
    ],
)
def test_a_paragraph_goes_on_or_not(before, after, same):
    assert continues(before, after) is same


# --- order of reading ---


@settings(max_examples=30)
@given(st.integers(1, 4), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_columns_between_full_lines_are_read_one_after_the_other(columns, heights, chance):
    boxes, top = [], 0.0
    for rows in heights:
        boxes.append((0.0, top, 100.0 * columns, top + 8))
        top += 10
        for column in range(columns):
            boxes.extend(
                (100.0 * column, top + 10 * row, 100.0 * column + 90, top + 10 * row + 8) for row in range(rows)
            )
        top += 10 * rows
    assert not jumps_back(boxes)
    order = list(range(len(boxes)))
    chance.shuffle(order)
    shuffled = [boxes[index] for index in order]
    assert [shuffled[index] for index in reading_order(shuffled)] == boxes
    mirrored = [(-right, top, -left, bottom) for left, top, right, bottom in shuffled]
    assert [shuffled[index] for index in reading_order(mirrored, rtl=True)] == boxes


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.integers(0, 50)] * 4), max_size=12))
def test_any_boxes_have_an_order(corners):
    boxes = [(float(x), float(y), float(x + w), float(y + h)) for x, y, w, h in corners]
    assert sorted(reading_order(boxes)) == list(range(len(boxes)))


def two_columns(across):
    left, right = wrapped(PROSE, left=40), wrapped(PROSE.upper(), left=320)
    pairs = [line for pair in zip(left, right, strict=True) for line in pair]
    return pairs if across else [*right, *left]


@pytest.mark.parametrize("across", [True, False])
def test_columns_drawn_line_by_line_or_in_the_wrong_order_are_read_from_left_to_right(across):
    assert texts(two_columns(across)) == [("paragraph", PROSE), ("paragraph", PROSE.upper())]


def test_a_header_that_is_drawn_last_comes_first():
    lines = [*wrapped(PROSE), line("A header", 50, 20)]
    assert texts(lines) == [("paragraph", "A header"), ("paragraph", PROSE)]


# --- blocks ---


def test_paragraphs_end_at_gaps_at_indents_and_where_a_word_would_have_had_room():
    first = wrapped(PROSE)
    gap = wrapped("It goes on. " + PROSE, top=first[-1].box[1] + 24)
    indented = wrapped(PROSE, top=gap[-1].box[1] + 12)
    indented[0] = line("    " + indented[0].text[:44], 62, indented[0].box[1])
    blocks = texts([*first, *gap, *indented])
    assert [kind for kind, _ in blocks] == ["paragraph"] * 3
    assert blocks[0][1] == PROSE
    assert blocks[1][1] == "It goes on. " + PROSE


def test_short_lines_of_verse_keep_their_breaks():
    verse = ["I met a traveller from an antique land", "Who said", "Two vast and trunkless legs", "Stand in sand"]
    lines = [line(text, 50, 100 + 12 * index) for index, text in enumerate(verse)]
    assert texts([*lines, *wrapped(PROSE, top=200)])[0] == ("paragraph", "\n".join(verse))


def test_headings_by_size_and_by_weight():
    lines = [
        line("A Title", 50, 50, size=18.0),
        *wrapped(PROSE, top=100),
        line("A bold line", 50, 180, bold=True),
        *wrapped(PROSE, top=200),
        line("A bold line that ends a sentence.", 50, 290, bold=True),
    ]
    assert [kind for kind, _ in texts(lines)] == ["heading", "paragraph", "heading", "paragraph", "paragraph"]


def test_a_raised_number_at_the_begin_of_a_line_changes_no_size():
    lines = wrapped(PROSE)
    lines[2] = replace(lines[2], size=6.0, box=(50.0, lines[2].box[1] - 1, *lines[2].box[2:]))
    assert texts(lines) == [("paragraph", PROSE)]


def test_lists_with_bullets_numbers_and_levels():
    lines = [
        line("•", 50, 100),
        line("first item, long enough for its line, that", 70, 100),
        line("goes on here", 70, 112),
        line("◦", 80, 124),
        line("inner", 95, 124),
        line("• second", 50, 136),
        line("1. one", 50, 160),
        line("2. two", 50, 172),
    ]
    assert [text for kind, text in texts(lines) if kind == "list"] == [
        "- first item, long enough for its line, that goes on here",
        "  - inner",
        "- second",
        "1. one",
        "2. two",
    ]


def test_code_keeps_its_indentation_and_its_empty_lines():
    code = ["def f(x):", "    if x > 0:", "        return {x: 1}", "", "print(f(3))"]
    lines = [*wrapped(PROSE)]
    for index, text in enumerate(code):
        if text:
            indent = len(text) - len(text.lstrip())
            lines.append(line(text.lstrip(), 50 + 6 * indent, 200 + 12 * index, letter=0.6, mono=True, font="Mono"))
    assert texts(lines) == [("paragraph", PROSE), ("code", "\n".join(code))]


def test_a_page_typed_on_a_machine_is_no_code():
    lines = wrapped(PROSE, letter=0.5, mono=True, font="Courier")
    assert texts(lines) == [("paragraph", PROSE)]


def test_a_code_word_at_the_begin_of_a_line_makes_no_code():
    lines = wrapped(PROSE)
    lines[1] = replace(lines[1], mono=True, font="Courier")
    code = [
        line(f"x = [{index}]; y = {{}}", 50, 300 + 12 * index, letter=0.6, mono=True, font="Courier")
        for index in range(3)
    ]
    assert texts([*lines, *code])[0] == ("paragraph", PROSE)


def test_pieces_of_a_stretched_line_are_words_and_cells_of_a_table_are_not():
    lines = wrapped(PROSE)
    words = lines[1].text.split()
    step = (lines[0].box[2] - 50 - 5 * len(words[-1])) / (len(words) - 1)
    pieces = [line(word, 50 + step * index, lines[1].box[1]) for index, word in enumerate(words)]
    stretched = [lines[0], *pieces, *lines[2:]]
    assert texts(stretched)[0][1].split() == PROSE.split()
    cells = [line(text, 50 + 150 * column, 300 + 12 * row) for row in range(3) for column, text in enumerate("abc")]
    assert texts(cells) == [("paragraph", "a  b  c\na  b  c\na  b  c")]


def test_a_table_takes_the_place_of_its_lines():
    above, below = wrapped(PROSE, top=100), wrapped(PROSE, top=300)
    inside = [line(text, 60, 200 + 12 * index) for index, text in enumerate("abc")]
    table = Table((50.0, 195.0, 300.0, 240.0), "| a |\n| --- |\n| b |")
    assert texts([*above, *inside, *below], [table]) == [
        ("paragraph", PROSE),
        ("table", table.markdown),
        ("paragraph", PROSE),
    ]


def test_right_to_left_pieces_are_joined_in_logical_order():
    lines = [line("שלום לכולם", 240, 100), line(" וברוכים הבאים", 160, 100), *wrapped("בית ספר " * 12, top=130)]
    assert texts(lines)[0] == ("paragraph", "שלום לכולם וברוכים הבאים")


def turned(lines, turn):
    """The same lines on a page turned clockwise."""
    moved = []
    for one in lines:
        left, top, right, bottom = one.box
        box = {
            90: (HEIGHT - bottom, left, HEIGHT - top, right),
            180: (WIDTH - right, HEIGHT - bottom, WIDTH - left, HEIGHT - top),
            270: (top, WIDTH - right, bottom, WIDTH - left),
        }[turn]
        moved.append(replace(one, box=box, turn=turn))
    return moved


@pytest.mark.parametrize("turn", [90, 180, 270])
@pytest.mark.parametrize("across", [True, False])
def test_a_turned_page_reads_like_an_upright_one(turn, across):
    lines = two_columns(across)
    width, height = (WIDTH, HEIGHT) if turn == 180 else (HEIGHT, WIDTH)
    content = PageContent(1, width, height, [turned(lines, turn)])
    assert [(block.kind, block.text) for block in lay_out(content)] == texts(lines)


def test_letters_set_from_top_to_bottom_are_read_column_by_column_from_the_right():
    columns = ["日本語の文章は", "右から左へ", "読みます"]
    lines = [
        Line(
            letter, (500.0 - 20 * column, 100.0 + 10 * row, 510.0 - 20 * column, 110.0 + 10 * row), 10.0, vertical=True
        )
        for column, text in enumerate(columns)
        for row, letter in enumerate(text)
    ]
    assert "".join(text for _, text in texts(lines)).replace("\n", "") == "".join(columns)


@settings(max_examples=60)
@given(
    st.lists(
        st.builds(
            Line,
            st.text(st.sampled_from("aZ 1.-•日ש\u00a0\x07\uf0b7()|"), max_size=8),
            st.tuples(*[st.floats(-50, 900)] * 4),
            st.sampled_from([0.0, 1.0, 9.5, 10.0, 30.0]),
            st.sampled_from(["", "Courier"]),
            st.booleans(),
            st.booleans(),
            st.booleans(),
            st.booleans(),
            st.sampled_from([0, 0, 0, 90, 180, 270]),
        ),
        max_size=12,
    )
)
def test_no_lines_are_too_odd(lines):
    pages = []
    for number in (1, 2, 3):
        content = PageContent(number, WIDTH, HEIGHT, [lines])
        pages.append(Page(number, "text_layer", "", 1.0, WIDTH, HEIGHT, lay_out(content)))
    text, spans = assemble(pages)
    assert "".join(text[begin:end] for _, begin, end in spans) == text
    assert WRAPPED_HYPHEN not in text


@settings(max_examples=40)
@given(words)
def test_every_letter_of_a_paragraph_is_kept_once(whole):
    lines = wrapped(" ".join(whole))
    got = "".join(text for _, text in texts(lines))
    assert "".join(got.split()).removeprefix("-") == "".join(whole)


# --- pages become one text ---


def paper(number, body, header="", footer="", header_top=30.0, size=10.0):
    """A page of paragraphs under a header and over a footer."""
    blocks = [Block("paragraph", header, (50, header_top, 300, header_top + 10), 8.0)] if header else []
    blocks += [
        Block("paragraph", text, (50, 100 + 40 * index, 550, 130 + 40 * index), size) for index, text in enumerate(body)
    ]
    blocks += [Block("paragraph", footer, (290, 770, 310, 780), 8.0)] if footer else []
    return Page(number, "text_layer", "", 1.0, WIDTH, HEIGHT, blocks)


def sentence(number):
    return f"Paragraph {number} of the body says that {PROSE}"


@pytest.mark.parametrize("numbers", ["arabic", "roman", "kanji", "of", "dashes", "section"])
def test_running_headers_and_page_numbers_go_and_the_body_stays(numbers):
    romans = "i ii iii iv v vi vii viii ix x xi xii".split()
    kanji = "一 二 三 四 五 六 七 八 九 十 十一 十二".split()
    footers = {
        "arabic": [str(n) for n in range(7, 19)],
        "roman": romans,
        "kanji": kanji,
        "of": [f"Page {n} of 12" for n in range(1, 13)],
        "dashes": [f"– {n} –" for n in range(1, 13)],
        "section": [f"7-{n}" for n in range(1, 13)],
    }[numbers]
    pages = [
        paper(n, ["Remember this line.", sentence(n)], "THE LEFT BOOK" if n % 2 else f"Chapter {1 + n // 6}", footer)
        for n, footer in enumerate(footers, 1)
    ]
    text, spans = assemble(pages)
    expected = "\n\n".join(f"Remember this line.\n\n{sentence(n)}" for n in range(1, 13))
    assert text == expected
    assert [number for number, _, _ in spans] == list(range(1, 13))
    assert text[spans[3][1] : spans[3][2]].strip() == f"Remember this line.\n\n{sentence(4)}"


def test_a_header_that_changes_with_every_section_goes_where_others_stood():
    pages = [paper(n, [sentence(n)], "Some Title" if n % 4 else f"Only once: {chr(64 + n)}x") for n in range(1, 17)]
    assert assemble(pages)[0] == "\n\n".join(sentence(n) for n in range(1, 17))


def test_lines_that_recur_in_the_body_or_at_other_heights_stay():
    pages = [paper(n, ["Note", sentence(n)], "Dear reader", header_top=20.0 + 9 * (n % 7)) for n in range(1, 10)]
    text, _ = assemble(pages)
    assert text.count("Note") == 9
    assert text.count("Dear reader") == 9


def test_numbers_that_do_not_count_with_the_pages_stay():
    values = [40, 12, 99, 7, 63, 5]
    pages = [paper(n, [sentence(n)], footer=str(value)) for n, value in enumerate(values, 1)]
    text, _ = assemble(pages)
    assert all(f"\n\n{value}" in text for value in values)


def test_titles_of_slides_that_differ_stay():
    pages = []
    for number, title in enumerate(("Begin", "Middle", "Later", "Near the end", "End"), 1):
        page = paper(number, ["a point of the talk", "another point"], footer=str(number))
        page.blocks.insert(0, Block("heading", title, (50, 30, 300, 60), 28.0))
        pages.append(page)
    text, _ = assemble(pages)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Begin", "# Middle", "# Later", "# Near the end", "# End",
    ]  # fmt: skip


def test_a_paragraph_and_a_word_over_a_page_end_are_joined():
    pages = [
        paper(1, ["A paragraph that is cut in the mid-"], "Header", "1"),
        paper(2, ["dle of a word and goes on until its"], "Header", "2"),
        paper(3, ["end.", "The next one."], "Header", "3"),
    ]
    text, spans = assemble(pages)
    assert text == "A paragraph that is cut in the middle of a word and goes on until its end.\n\nThe next one."
    assert text[spans[0][1] : spans[0][2]].endswith("middle")
    assert text[spans[1][1] : spans[1][2]].strip() == "of a word and goes on until its"


def test_footnotes_do_not_stand_between_the_parts_of_a_paragraph():
    pages = [paper(1, ["The text goes on"]), paper(2, ["on the next page."])]
    pages[0].blocks.append(Block("paragraph", "1 A note.", (50, 600, 300, 610), 7.0))
    assert assemble(pages)[0] == "1 A note.\n\nThe text goes on on the next page."


def test_levels_of_headings_come_from_their_sizes_in_the_whole_file():
    def heading(text, size):
        return Block("heading", text, (50, 200, 300, 220), size)

    pages = [
        Page(1, "text_layer", "", 1.0, WIDTH, HEIGHT, [Block("paragraph", "The Title", (50, 200, 300, 250), 30.0)]),
        paper(2, [sentence(1)]),
        paper(3, [sentence(2)]),
    ]
    pages[1].blocks[:0] = [heading("Part", 16.0), heading("Section", 13.0), heading("Small bold caption", 7.0)]
    text, _ = assemble(pages)
    assert text.startswith("# The Title\n\n## Part\n\n### Section\n\nSmall bold caption\n\n")


def test_code_and_lists_over_a_page_end_go_on():
    pages = [paper(1, []), paper(2, [])]
    pages[0].blocks = [
        Block("list", "- one", (50, 700, 90, 710), 10.0),
        Block("code", "a = 1", (50, 720, 90, 730), 10.0),
    ]
    pages[1].blocks = [
        Block("code", "b = 2", (50, 100, 90, 110), 10.0),
        Block("list", "- two", (50, 120, 90, 130), 10.0),
    ]
    assert assemble(pages)[0] == "- one\n\n```\na = 1\nb = 2\n```\n\n- two"


def test_pages_that_all_hold_the_same_line_keep_it():
    assert assemble([paper(n, [], "Sample") for n in range(1, 9)])[0].count("Sample") == 8


def test_no_pages_and_empty_pages():
    assert assemble([]) == ("", [])
    text, spans = assemble([paper(1, []), paper(2, ["x"]), paper(3, [])])
    assert (text, spans) == ("x", [(1, 0, 0), (2, 0, 1), (3, 1, 1)])


@pytest.mark.slow
def test_five_thousand_pages_take_time_in_proportion():
    def seconds(count):
        chance = random.Random(0)
        pages = [
            paper(
                n,
                [sentence(n), f"It broke{WRAPPED_HYPHEN}n{n} at {chance.random()} and"] * 5,
                f"Header {n // 30}",
                str(n),
            )
            for n in range(count)
        ]
        begin = time.process_time()
        text, spans = assemble(pages)
        assert len(spans) == count and "Header" not in text
        return time.process_time() - begin

    assert seconds(5000) < 10 * max(seconds(1250), 0.02)
