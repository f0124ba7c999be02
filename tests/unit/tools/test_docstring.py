"""Reading docstrings of three styles."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from callbox.tools.docstring import Docstring, docstring_style, read_docstring

GOOGLE = """Find orders of a customer.

    Only open ones are found.
    Closed ones are archived.

    Note:
        It is slow.

    Args:
        customer: The customer's id,
            like "C-1".
        limit (int, optional): How many.

    Returns:
        The orders.

    Raises:
        KeyError: There is no such customer.

    Example:
        >>> find("C-1")
    """

NUMPY = """Find orders of a customer.

    Only open ones are found.
    Closed ones are archived.

    Parameters
    ----------
    customer : str
        The customer's id,
        like "C-1".
    limit : int, optional
        How many.

    Returns
    -------
    list
        The orders.
    """

SPHINX = """Find orders of a customer.

    Only open ones are found.
    Closed ones are archived.

    :param customer: The customer's id,
        like "C-1".
    :param int limit: How many.
    :type customer: str
    :returns: The orders.
    :raises KeyError: There is no such customer.
    """


@pytest.mark.parametrize(("style", "text"), [("google", GOOGLE), ("numpy", NUMPY), ("sphinx", SPHINX)])
def test_three_styles_say_the_same(style: str, text: str):
    assert docstring_style(textwrap.dedent(text)) == style
    read = read_docstring(text)
    assert read.parameters == {"customer": 'The customer\'s id, like "C-1".', "limit": "How many."}
    expected = "Find orders of a customer.\n\nOnly open ones are found.\nClosed ones are archived."
    assert read.description == expected + ("\n\nNote: It is slow." if style == "google" else "")


def test_prose_is_the_description_as_it_is():
    assert read_docstring("  Do it.\n\n    With care.\n    ") == Docstring("Do it.\n\nWith care.")
    assert read_docstring(None) == Docstring()
    assert read_docstring("") == Docstring()


def test_a_sentence_that_ends_with_a_colon_is_no_section():
    text = "Run a query.\n\nTwo forms are known:\n- short\n- long"
    assert docstring_style(text) is None
    assert read_docstring(text).description == text


def test_numpy_may_document_several_at_once_and_sections_for_others():
    read = read_docstring(
        """Add.

        Parameters
        ----------
        a, b : int
            A number.

        Other Parameters
        ----------------
        *rest : int
            More of them.
        """
    )
    assert read.parameters == {"a": "A number.", "b": "A number.", "rest": "More of them."}


def test_paragraphs_and_lists_in_a_description_stay():
    read = read_docstring(
        """Send.

        Args:
            mode: How to send,
                one of:
                - fast
                - slow

                Default is fast.
        """
    )
    assert read.parameters["mode"] == "How to send, one of:\n- fast\n- slow\n\nDefault is fast."


def test_only_other_sections_are_left_out_too():
    assert read_docstring("Do it.\n\nReturns:\n    A text.\n").description == "Do it."


def test_prose_does_not_load_the_parser():
    use = "from callbox.tools.docstring import read_docstring as read; read('Do it.')"
    code = f"import sys; {use}; print('griffe' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
