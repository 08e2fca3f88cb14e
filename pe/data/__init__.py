"""Records: schema, columns and the files they come from; populations of synthetic ones."""
