"""Tables by noisy tables: public counting queries over a schema, and records fitted to their noisy answers.

``levels`` turns columns into few levels (``smooth``: by way of cosines, where noise hides intervals), ``measure``
counts records in small cross-tables, ``plan`` chooses which from public facts, ``fit`` finds a maximum-entropy density
for noisy answers, by way of the ``moments`` of particles, and draws records from it. Nothing here adds noise or spends
budget: answers come from ``pe.privacy.release``, everything else is public or post-processing.
"""
