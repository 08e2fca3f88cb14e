"""What an API or an embedder of texts needs: the one text column, and how long its texts are."""

from __future__ import annotations

from pe.data.schema import Schema, Text
from pe.errors import SchemaError


def word_count(text: str) -> int:
    """The length of a text in words: what white space parts and has a letter or a digit, so that no punctuation counts.

    >>> word_count("Well - it's 3.50, isn't it?!")
    5
    """
    return sum(any(map(str.isalnum, piece)) for piece in text.split())


def text_alone(schema: Schema, who: str) -> Text:
    """The text column of a schema that has no other feature; raises SchemaError, which begins with ``who``.

    Such an API fills that column, and nothing would vote on others: they become the label, or are left out.
    """
    if schema.text is None:
        raise SchemaError(f"{who} needs a text column. Nothing was spent.")
    others = [column.name for column in schema.features if column is not schema.text]
    if others:
        raise SchemaError(
            f"{who} knows one text column ('{schema.text.name}') and a label, the schema also has '{others[0]}': make "
            "it the label, or list it in ignore. Nothing was spent."
        )
    return schema.text
