"""The pattern gallery of the page: its pictures, their texts, and methods without a picture."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from reports.declared import declared_variants, exact_variant
from reports.documents import pictures
from reports.html import render
from reports.page.pattern_gallery import FACTS, FOLDER, Gallery, gallery, result

MOST_BYTES = 300_000  # of the gallery in a page


def rows(*variants: str) -> pd.DataFrame:
    names = list(variants)
    columns = {"variant": names, "curve": names, "label": names}
    return pd.DataFrame({**columns, "place": 0, "implementation": "auto"})


def shown(found: Gallery) -> str:
    return render("page/patterns.html", patterns=found)


def test_every_method_but_the_exact_one_has_its_picture_and_its_measured_shares() -> None:
    page = shown(gallery(rows(*reversed(declared_variants()))))
    assert len(page) < MOST_BYTES
    tags = re.findall(r'<img [^>]*src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    facts = json.loads((FOLDER / FACTS).read_text())["variants"]
    names = [name for name in declared_variants() if name != exact_variant()]
    assert len(tags) == len(names)
    for name, (content, alt) in zip(names, tags, strict=True):
        assert base64.b64decode(content) == (FOLDER / f"{name}.png").read_bytes()
        assert facts[name]["settings"] in alt
        assert result(name, facts[name]) in alt
    assert "Without a picture" not in page


def test_shares_are_those_of_the_keys_with_a_weight() -> None:
    facts = json.loads(pictures.facts())["variants"]["sliding_window"]
    exact, own = (weights[0, 0] for weights in pictures._weights("sliding_window"))
    window = torch.ones_like(exact).tril().triu(-int(pictures.small("sliding_window").window_size))
    count = torch.arange(1, pictures.TOKENS + 1)
    assert torch.equal(own != 0, window != 0)
    share = (window.sum(-1) / count).mean()
    assert facts["share_of_pairs"] == pytest.approx(float(share), abs=6e-4)
    held = (exact * window).sum(-1).mean()
    assert facts["exact_weight"] == pytest.approx(float(held), abs=6e-4)
    # In a row, the exact weights are the smaller ones: the others of the row have nothing outside.
    assert facts["common_weight"] == facts["exact_weight"]
    alone = json.loads(pictures.facts())["variants"]["full"]
    assert alone["share_of_pairs"] == alone["exact_weight"] == alone["common_weight"] == 1


def test_weights_that_are_no_shares_have_no_common_weight() -> None:
    facts = json.loads((FOLDER / FACTS).read_text())["variants"]
    assert facts["nystrom"]["common_weight"] is None
    assert "can be negative, or sum to another number than 1" in result("nystrom", facts["nystrom"])


def test_methods_without_a_picture_are_named(tmp_path: Path) -> None:
    for name in (FACTS, "lsh.png"):
        shutil.copy(FOLDER / name, tmp_path)
    found = gallery(rows("mine", "longformer", "lsh", "full"), tmp_path)
    assert [it.variant for it in found.pictures] == ["lsh"]
    assert found.missing == ["longformer", "mine"]
    assert "none of them: longformer, mine." in shown(found)


def test_a_page_without_pictures_says_so(tmp_path: Path) -> None:
    page = shown(gallery(rows("lsh"), tmp_path / "not there"))
    assert "none of them: lsh." in page
    assert "<img" not in page


def test_only_methods_of_the_runs_are_shown() -> None:
    assert [it.variant for it in gallery(rows("performer", "full")).pictures] == ["performer"]
