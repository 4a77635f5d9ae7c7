import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minigpt.data.decoding import Reading
from minigpt.data.sources import FileSource
from minigpt.data.split import Place, Share, Split, after, as_json, from_json, limited, survey
from minigpt.errors import UserError
from minigpt.tokenizer.patterns import END_OF_TEXT

TRAIN, HELD_OUT = False, True


def whole(documents):
    """Return documents as pieces, one each."""
    return [(True, text) for text in documents]


def shares(split: Split, pieces) -> list[Share]:
    found, place = [], Place()
    for piece in pieces:
        found += split.shares(piece, place)
        place = after(place, piece)
    return found


def source(folder, *parts) -> FileSource:
    """Return a source with a file for each part, whose documents these are."""
    groups = []
    for number, documents in enumerate(parts):
        path = folder / f"{number}.txt"
        path.write_bytes(END_OF_TEXT.join(documents).encode())
        groups.append([path])
    return FileSource("a name", groups, Reading())


# --------------------------------------------------------------------------------------------------------- the rules


def test_by_characters_a_document_is_cut_in_two():
    assert shares(Split("characters", 6), whole(["abcd", "efg", "hij", "k"])) == [
        Share(TRAIN, True, False, "abcd"),
        Share(TRAIN, True, True, "ef"),
        Share(HELD_OUT, True, False, "g"),
        Share(HELD_OUT, True, True, "hij"),
        Share(HELD_OUT, True, True, "k"),
    ]


def test_a_cut_between_two_documents_cuts_none():
    assert shares(Split("characters", 4), whole(["abcd", "efg"])) == [
        Share(TRAIN, True, False, "abcd"),
        Share(HELD_OUT, True, False, "efg"),
    ]


@pytest.mark.parametrize("cut", [3, 4, 6])
def test_where_a_document_comes_in_pieces_each_part_sees_it_begin_once(cut):
    pieces = [(True, "abc"), (False, "def"), (False, "ghi"), (True, "j")]
    found = shares(Split("characters", cut), pieces)
    train = [share for share in found if not share.held_out]
    held_out = [share for share in found if share.held_out]
    assert "".join(share.text for share in train) == "abcdefghij"[:cut]
    assert "".join(share.text for share in held_out) == "abcdefghij"[cut:]
    assert [share.opens for share in train] == [True] + [False] * (len(train) - 1)
    assert [s.opens for s in held_out] == [True] + [False] * (len(held_out) - 2) + [True]
    assert [s.separated for s in held_out] == [False] * (len(held_out) - 1) + [True]
    assert not any(share.separated for share in train)


def test_whole_documents_are_held_out_at_even_distances():
    # A quarter of eight: the number held out, rounded, rises behind the documents 1 and 5.
    assert shares(Split("every", 0.25), whole("abcdefgh")) == [
        Share(TRAIN, True, False, "a"),
        Share(HELD_OUT, True, False, "b"),
        Share(TRAIN, True, True, "c"),
        Share(TRAIN, True, True, "d"),
        Share(TRAIN, True, True, "e"),
        Share(HELD_OUT, True, True, "f"),
        Share(TRAIN, True, True, "g"),
        Share(TRAIN, True, True, "h"),
    ]


@given(fraction=st.floats(0.001, 0.999), count=st.integers(1, 300))
def test_every_stretch_of_the_text_gives_its_share(fraction, count):
    found = [s.held_out for s in shares(Split("every", fraction), whole("x" * count))]
    for length in (count, count // 2, count // 7):
        for start in range(0, count - length + 1, 7):
            held_out = sum(found[start : start + length])
            assert abs(held_out - fraction * length) <= 1


def test_the_first_documents_are_held_out_where_that_was_asked_for():
    pieces = [(True, "a"), (False, "a"), (True, "b"), (True, "c"), (False, "c"), (True, "d")]
    assert shares(Split("first", 2), pieces) == [
        Share(HELD_OUT, True, False, "a"),
        Share(HELD_OUT, False, False, "a"),
        Share(HELD_OUT, True, True, "b"),
        Share(TRAIN, True, False, "c"),
        Share(TRAIN, False, False, "c"),
        Share(TRAIN, True, True, "d"),
    ]


RULES = st.builds(Split, st.just("characters"), st.integers(0, 60)) | st.builds(
    Split, st.just("every"), st.floats(0.01, 0.99)
) | st.builds(Split, st.just("first"), st.integers(0, 10))  # fmt: skip
PIECES = st.lists(st.tuples(st.booleans(), st.text(min_size=1, max_size=9)), max_size=12).map(
    lambda pieces: [(begins or number == 0, text) for number, (begins, text) in enumerate(pieces)]
)


@given(rule=RULES, pieces=PIECES)
def test_no_character_is_lost_and_all_but_the_first_document_of_a_part_are_separated(rule, pieces):
    found = shares(rule, pieces)
    assert "".join(share.text for share in found) == "".join(text for _, text in pieces)
    assert all(share.text for share in found)
    for part in (TRAIN, HELD_OUT):
        mine = [share for share in found if share.held_out == part]
        assert [share.opens for share in mine][:1] == [True] * bool(mine)
        assert [share.separated for share in mine[1:]] == [share.opens for share in mine[1:]]
        assert not any(share.separated for share in mine[:1])


# ----------------------------------------------------------------------------------------------------------- places


def test_a_place_counts_documents_characters_and_bytes():
    place = after(Place(), (True, "aä漢🙂"))
    assert place == Place(1, 4, 10)
    assert after(place, (False, "b")) == Place(1, 5, 11)


@given(pieces=PIECES, size=st.integers(1, 80), documents=st.integers(0, 5))
@example(pieces=[(True, "🙂🙂🙂")], size=10, documents=0)
def test_limits_keep_the_longest_beginning_and_no_half_character(pieces, size, documents):
    allowed, count = [], 0
    for begins, text in pieces:
        count += begins
        if not documents or count <= documents:
            allowed.append(text)
    found = "".join(text for _, text in limited(pieces, Place(), documents, size))
    wanted = "".join(allowed).encode()[:size].decode(errors="ignore")
    assert found == wanted
    assert all(text for _, text in limited(pieces, Place(), documents, size))


def test_limits_count_from_the_beginning_of_the_text():
    pieces = [(False, "ccc"), (True, "d")]
    assert list(limited(pieces, Place(3, 20, 20), 3, 0)) == [(False, "ccc")]
    assert list(limited(pieces, Place(3, 20, 20), 0, 22)) == [(False, "cc")]
    assert list(limited(pieces, Place(3, 20, 20), 0, 20)) == []
    assert list(limited(pieces, Place(3, 20, 20), 0, 0)) == pieces


# ----------------------------------------------------------------------------------------------------------- survey


def test_of_few_documents_the_last_share_of_the_characters_is_held_out(tmp_path):
    text = "x" * 1_115_394  # as long as Tiny Shakespeare
    found = survey(source(tmp_path, [text]), 0.1, 0, (0, 0))
    assert found == (Split("characters", 1_003_854), [Place()], 1_115_394)
    rule, _, size = survey(source(tmp_path, ["é"] * 10, ["é"] * 9), 0.1, 0, (0, 0))
    assert (rule, size) == (Split("characters", 17), 38)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.7, 0.9])
def test_a_share_that_comes_out_even_is_not_missed_by_rounding(tmp_path, fraction):
    rule, _, _ = survey(source(tmp_path, ["x" * 1000]), fraction, 0, (0, 0))
    assert rule.value == round(1000 * (1 - fraction))


def test_of_many_documents_whole_ones_are_held_out(tmp_path):
    parts = source(tmp_path, ["é"] * 8, ["ab"] * 11, ["c"])
    assert survey(parts, 0.1, 0, (0, 0)) == (
        Split("every", 0.1), [Place(), Place(8, 8, 16), Place(19, 30, 38)], 39,
    )  # fmt: skip


def test_counting_ends_behind_the_documents_to_hold_out(tmp_path):
    parts = source(tmp_path, ["a", "b"], ["c", "d"], ["e"], ["f"])
    parts.files[2].write_bytes(b"\xff is never read")
    rule, places, size = survey(parts, 0.1, 2, (0, 0))
    assert (rule, size) == (Split("first", 2), None)
    assert places[:2] == [Place(), Place(2, 2, 2)]
    assert len(places) == 4
    assert all(place.document > rule.value for place in places[2:])


def test_limits_decide_what_is_counted(tmp_path):
    documents = [f"é{n:02}" for n in range(40)]
    text = source(tmp_path, documents)
    assert survey(text, 0.5, 0, (30, 0)) == (Split("every", 0.5), [Place()], 120)
    assert survey(text, 0.5, 0, (3, 0)) == (Split("characters", 4), [Place()], 12)
    assert survey(text, 0.5, 0, (0, 9)) == (Split("characters", 3), [Place()], 8)
    assert survey(text, 0.5, 5, (6, 0)) == (Split("first", 5), [Place()], None)


def test_a_source_with_too_little_in_it_is_refused(tmp_path):
    with pytest.raises(UserError, match="a name holds no text"):
        survey(source(tmp_path, ["", " \n"], ["\t"]), 0.1, 0, (0, 0))
    with pytest.raises(UserError, match=r"has 3 documents, and the first 3 .* data\.val_documents"):
        survey(source(tmp_path, ["a", "b", "c"]), 0.1, 3, (0, 0))
    with pytest.raises(UserError, match="has 2 documents, and the first 2"):
        survey(source(tmp_path, ["a", "b", "c"]), 0.1, 2, (2, 0))


def test_rule_and_places_come_back_from_json():
    rule, places = Split("every", 0.1), [Place(), Place(3, 4, 5)]
    assert as_json(rule, places) == {"by": "every", "value": 0.1, "parts": [[0, 0, 0], [3, 4, 5]]}
    assert from_json(as_json(rule, places)) == (rule, places)
