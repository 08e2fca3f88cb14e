"""What an API or an embedder of texts needs: the one text column."""

from __future__ import annotations

from pe.data.schema import Schema, Text
from pe.errors import SchemaError


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
