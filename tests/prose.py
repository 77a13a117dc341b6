"""What counts as words in a text cell: of chapters and of exercises the same."""

import re

MOST_WORDS = 60
NO_WORDS = [
    re.compile(r"\$\$.*?\$\$|<!--.*?-->", re.DOTALL),
    re.compile(r"^#+ .*$", re.MULTILINE),  # a heading
    re.compile(r"\$[^$]+\$"),  # a formula
    re.compile(r"(?<=\])\([^)]*\)"),  # where a link leads
]
NO_WORDS_OF_A_PROMPT = [
    re.compile(r"^    .*$", re.MULTILINE),  # code
    re.compile(r"^\*\d+ minutes · .*\*$", re.MULTILINE),
    re.compile(r"(· )?\[[^]]*\]\(\.\./notebooks/.*?\)"),  # the way back
]


def words(text):
    """The words of a text cell; headings, formulas and where links lead are none."""
    for what in NO_WORDS:
        text = what.sub(" ", text)
    return [word for word in text.split() if re.search(r"\w", word)]


def words_of_a_prompt(text):
    """Those of a text cell among exercises; nor are its code, its minutes and the way back."""
    for what in NO_WORDS_OF_A_PROMPT:
        text = what.sub(" ", text)
    return words(text)
