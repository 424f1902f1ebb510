from dragoman.output.grammar.keywords import canonical_text


def test_equal_documents_have_the_same_text_and_others_do_not() -> None:
    document = {"a": [1, {"b": 2.0, "c": None}], "d": True}
    assert canonical_text(document) == canonical_text({"d": True, "a": [1.0, {"c": None, "b": 2}]})
    assert canonical_text(document) != canonical_text({"d": 1, "a": [1, {"c": None, "b": 2}]})
    assert canonical_text([1, 2]) != canonical_text([2, 1])
