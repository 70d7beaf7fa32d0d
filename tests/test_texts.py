from metazoo.text import some_of


def test_the_first_names_and_how_many_more_there_are() -> None:
    assert some_of([]) == ""
    assert some_of("abcde") == "a, b, c, d, e"
    assert some_of("abcdefg") == "a, b, c, d, e and 2 more"
    assert some_of(("only",), 1) == "only"
    assert some_of(("first", "second", "third"), 1) == "first and 2 more"
