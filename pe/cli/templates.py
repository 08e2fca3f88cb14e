"""What ``pe init`` writes: a commented configuration, and an example of a schema."""

from __future__ import annotations

from typing import Any

import tomli_w

CONFIG = """\
# One run of Private Evolution. 'pe plan {config}' shows what it will do, 'pe synthesize {config} --create' does it.

[private]
path = {data}              # CSV, TSV, JSONL, Parquet, Arrow, npz, or a folder of images by class; relative to this file
# user = "patient_id"      # whose record it is, with privacy.unit = "user": protects all records of a user together
source = {source}          # the ledger's name for these data: all runs on one source share its budget
{reading}schema = "schema.toml"     # public knowledge: columns, domains, label set
{label}

[privacy]
epsilon = 1.0
delta = 1e-6               # well below 1 / (number of records)
adjacency = "{adjacency}"   # add-remove: the number of records is private; replace-one: it is public
{shares}

{api}

[evolution]
# method = "{method}"      # cross-tables (no API, no rounds), herded-tables, tab-pe, image-pe, text-pe, aug-pe,
# iterations = 10          # kernel-votes; settings of rounds, for all or one per iteration: parents, variations, keep,
# seed = 0                 # selection, threshold, degree, lookahead, nearest, vote_weights, budget_weights
# targets = ["column"]     # of tables: what models will be trained to predict, beside the label; numbers too

[output]
run = {run}
# rows = 1000              # by default 1000; of cross-tables about as many as there are private records
# formats = ["{formats}", "parquet"]   # csv, jsonl, parquet, hf, imagefolder, npz
"""

API = """\
[api]
kind = "{kind}"             # tabular, text_render, nearest, or "package.module:Class"\
"""

TEXT_API = """\
[api]                      # writes the texts, and knows nothing but what is public
kind = "ngram"             # phrases of a public corpus, without a model or a network
corpus = "public.jsonl"    # CSV, JSONL, Parquet ..., or .txt with a text per line; never the private data
# corpus_text = "text"     # its column of texts, and of labels, where it has any: corpus_label = "stars"

# [api]
# kind = "transformers"    # a language model on this machine: a folder, or a name on the Hugging Face hub
# model = "./model"

# [api]
# kind = "openai"          # any OpenAI-compatible endpoint; the key is read from OPENAI_API_KEY
# model = "gpt-4o-mini"

# [embedder]
# kind = "sentence"        # on this machine, always; model = "./model" names another than all-MiniLM-L6-v2
# dtype = "bfloat16"       # about twice as fast where the processor has it\
"""

SCHEMA = """\
# What everyone may know about the records. Values outside are clipped or replaced by the column's default.

[columns.age]
type = "integer"
min = 0
max = 120

[columns.income]
type = "float"
min = 0.0
max = 1e6
# step = 0.01            # released numbers are multiples of it

[columns.region]
type = "categorical"     # "ordinal" where the values have an order
values = ["north", "south"]   # or values_file = "regions.txt", a public list with one value a line
# default = "north"      # what a missing or undeclared value becomes
# missing = true         # or: missing values stay missing

# [columns.joined]
# type = "date"          # or "datetime"
# min = "2015-01-01"
# max = "2025-12-31"

# [columns.active]
# type = "boolean"

# [columns.id]
# type = "key"           # fresh ids for the output, random ("uuid4") unless a format is named; private ones are never
# format = "P-{:06d}"    # read, so numbered ids should begin (start = 1) where no private id can be

# [[constraints]]        # what holds in every record
# kind = "order"         # order, sum or determines
# columns = ["low", "high"]

# [columns.image]
# type = "image"
# height = 28
# width = 28
# channels = 1
"""


def toml_value(value: Any) -> str:
    """A text, a number or a list of them in TOML's spelling, on one line, whatever the text holds."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(each) for each in value) + "]"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").rstrip("\n")
