"""Sets of key numbers are small and right, whatever the numbers."""

from hypothesis import given
from hypothesis import strategies as st

from provkeep.reading.keychecks import KeyUse, Numbers, _among

numbers = st.sets(st.integers(0, 2**53) | st.integers(0, 70_000), max_size=60)


def of(values):
    made = Numbers()
    for value in values:
        made.add([value])
    return made


@given(numbers, numbers)
def test_a_difference_is_that_of_sets(a, b):
    assert list(of(a).minus(of(b))) == sorted(a - b)


@given(numbers, st.lists(st.tuples(st.integers(0, 70_000), st.integers(0, 900)), max_size=8))
def test_numbers_inside_and_outside_of_ranges_are_told_apart(some, spans):
    ranges, end = [], -1
    for first, length in sorted(spans):
        if first > end:
            end = first + length
            ranges.append((first, end))
    inside = {n for n in some if any(a <= n <= b for a, b in ranges)}
    assert set(_among(sorted(some), ranges, inside=True)) == inside
    assert set(_among(sorted(some), ranges, inside=False)) == some - inside


def test_strange_ranges_of_an_erase_record_are_no_error():
    use = KeyUse()
    for gone in (None, "x", [1], [1, "2"], [5, 3, 9, 9]):
        use.meet(4, {"k": "erase", "gone": gone})
    assert use.gone() == [(5, 3), (9, 9)] and use.newest == 4
