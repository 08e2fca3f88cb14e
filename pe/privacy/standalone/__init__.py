"""Check a certificate of pe-synth with nothing but Python's standard library (3.11 or later).

    python verify_certificate.py release/certificate.json [--public-key FILE] [--json]

For whoever receives synthetic data: a second implementation that shares no code with the first, and that
``pe budget verifier`` writes as one file. It recomputes the ledger's hash chain, what every charge costs from its noise
and sensitivity, the sums against every grant in force and against the claim, and the epsilon spent; it compares what
the certificate states with the release entry that ends its chain, the files with their digests, and the signature, if
there is one, with the issuer's public key. It prints what holds (exit 0), or one sentence on the first thing that does
not (exit 1); exit 2: not readable as a certificate. It shows that the certificate is consistent, not that its issuer
ran what the ledger says, and what it cannot recompute (privacy-loss distributions) it names.

A charge must be at least its recomputed cost, and a sum at most its limit, both evaluated to about 40 digits and with
no tolerance. The cost of discrete Gaussian noise contains 1e-9 (relative, of mu) for the resolution of the scan of its
trade-off curve; 2**-100 of every delta is set aside for noise beyond 13 standard deviations. Only reported epsilons (of
the spending, of groups), which are floats, may fall short of the recomputed ones by 1e-9.
"""

from pe.privacy.standalone.accounting import Refused
from pe.privacy.standalone.program import Verifier, main
from pe.privacy.standalone.reading import Unreadable

__all__ = ["Refused", "Unreadable", "Verifier", "main"]
