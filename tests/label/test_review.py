"""The review page: what it holds, that no name can break out of it, and its decision file coming back."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.label.stores import CLASSES, KEYS, SETTINGS, fill, make_store, mask_of, new_mask, picture
from textseg.errors import ConfigError, DataError
from textseg.label import queue
from textseg.label.records import Failed
from textseg.label.review import ReviewConfig, apply_decisions, fingerprint, write
from textseg.label.store import Store

EVIL = "</script><script>alert(1)</script>.png"
CHROMIUM = next((p for p in ("chromium", "chromium-browser", "google-chrome") if shutil.which(p)), None)


def parsed(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    text = path.read_text("utf-8")
    about = re.search(r"^const ABOUT = (.*);$", text, re.M)
    cards = re.search(r"^const PICTURES = (\[\n.*?^\]);$", text, re.M | re.S)
    assert about is not None and cards is not None
    return json.loads(about[1]), json.loads(cards[1].replace(",\n]", "\n]"))


def evil_store(folder: Path) -> Path:
    size = (40, 60)
    scores = {EVIL: 0.5, "b & 'c'.png": 0.95, "字.png": 0.7}
    with Store.write(folder / "labels") as store:
        store.begin(SETTINGS, (CLASSES[2], "<img src=x onerror=alert(1)>"))
        path = picture(folder / "a.png", size)
        rows = {k: (path, [new_mask(mask_of(size, (5, 5, 30, 30)), CLASSES[2], s)]) for k, s in scores.items()}
        fill(store, rows)
        store.record(Failed(EVIL + "2", "x", "ImageError", "</script><b>zero bytes"))
    return folder / "labels"


def test_the_page_is_self_contained_and_ordered(tmp_path: Path) -> None:
    out = make_store(tmp_path)
    with Store.read(out) as store:
        (page,) = write(store, tmp_path / "review.html")
    about, cards = parsed(page)
    assert sorted(card["key"] for card in cards) == sorted(KEYS)
    assert [card["u"] for card in cards] == sorted((card["u"] for card in cards), reverse=True)
    assert (about["done"], about["empty"], about["failed"]) == (6, 1, 1)
    assert about["failures"] == [["broken.jpg", "zero bytes <b>"]]
    assert sum(one["masks"] for one in about["classes"]) == 10
    assert all(sum(one["scores"]) == one["masks"] for one in about["classes"])
    text = page.read_text("utf-8")
    assert "default-src 'none'" in text
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)[^"']+""", text) == []
    assert [url for url in re.findall(r"https?://[^\s\"']+", text) if "w3.org" not in url] == []
    for card in cards:
        assert card["image"].startswith("data:image/jpeg;base64,")
        assert all(mask["path"].startswith("M") and mask["path"].endswith("Z") for mask in card["masks"])


def test_names_cannot_break_out(tmp_path: Path) -> None:
    with Store.read(evil_store(tmp_path)) as store:
        (page,) = write(store, tmp_path / "<b> & review.html")
    text = page.read_text("utf-8")
    assert text.count("<script>") == text.count("</script>") == 1
    assert "alert(1)</script>" not in text and "<img src=x" not in text
    about, cards = parsed(page)
    assert cards[0]["key"] == EVIL
    assert about["classes"][1]["name"].startswith("<img")


def test_pages_and_the_queue(tmp_path: Path) -> None:
    with Store.read(evil_store(tmp_path)) as store:
        pages = write(store, tmp_path / "r.html", ReviewConfig(per_page=2))
        assert [page.name for page in pages] == ["r.html", "r-2.html"]
        assert [card["key"] for page in pages for card in parsed(page)[1]] == [EVIL, "字.png", "b & 'c'.png"]
        (page,) = write(store, tmp_path / "q.html", ReviewConfig(confident=0.6, only_waiting=True))
        assert [card["key"] for card in parsed(page)[1]] == [EVIL]
        with pytest.raises(ConfigError):
            ReviewConfig(confident=2)
        with pytest.raises(DataError, match="cannot write"):
            write(store, tmp_path / "a.png" / "x.html")


def test_a_picture_that_is_gone_has_no_thumbnail(tmp_path: Path) -> None:
    out = evil_store(tmp_path)
    (tmp_path / "a.png").unlink()
    with Store.read(out) as store:
        (page,) = write(store, tmp_path / "r.html")
    assert {card["image"] for card in parsed(page)[1]} == {""}


def decisions(store: Store, page: Path, **verdicts: str | None) -> dict[str, Any]:
    about, _ = parsed(page)
    rows = {row.key: row for row in store.masks()}
    listed = [{"key": key, "print": fingerprint(rows[key]), "verdict": v} for key, v in verdicts.items()]
    return {"format": about["format"], "store": about["store"], "decisions": listed, "seen": []}


def test_decisions_come_back(tmp_path: Path) -> None:
    out, saved = evil_store(tmp_path), tmp_path / "decisions.json"
    with Store.write(out) as store:
        (page,) = write(store, tmp_path / "r.html")
        values = decisions(store, page, **{EVIL: "reject", "字.png": "accept"})
        saved.write_text(json.dumps({**values, "seen": ["b & 'c'.png", "gone.png"]}), "utf-8")
        for _ in range(2):  # twice does no harm
            done = apply_decisions(store, saved)
            assert (done.accepted, done.rejected, done.stale) == (1, 1, ())
        assert {row.key: row.verdict for row in store.masks()} == {
            EVIL: "reject", "字.png": "accept", "b & 'c'.png": None}  # fmt: skip
        assert queue.reviewed(store) == {"b & 'c'.png": "seen"}
        assert queue.waiting(store) == {}
        saved.write_text(json.dumps(decisions(store, page, **{EVIL: None})), "utf-8")
        assert apply_decisions(store, saved).withdrawn == 1
        store.begin(SETTINGS, ())  # a mask that has changed since does not get another's verdict
        fill(store, {EVIL: (tmp_path / "a.png", [new_mask(mask_of((40, 60), (0, 0, 9, 9)), CLASSES[2])])})
        saved.write_text(json.dumps({**values}), "utf-8")
        done = apply_decisions(store, saved)
        assert done.stale == ((EVIL, "the mask has changed or is gone"),)
        assert next(store.masks(EVIL)).verdict is None


def test_wrong_decision_files_are_told(tmp_path: Path) -> None:
    saved = tmp_path / "decisions.json"
    with Store.write(evil_store(tmp_path)) as store:
        (page,) = write(store, tmp_path / "r.html")
        values = decisions(store, page)
        wrong: list[tuple[Any, str]] = [
            ([], "not a decision file"),
            ({**values, "format": 99}, "not a decision file"),
            ({**values, "store": "other"}, "another store"),
            ({**values, "decisions": [{"key": "a", "print": "b", "verdict": "maybe"}]}, "decision 0"),
            ({**values, "decisions": ["x"]}, "decision 0"),
        ]
        for content, message in wrong:
            saved.write_text(json.dumps(content), "utf-8")
            with pytest.raises(DataError, match=message):
                apply_decisions(store, saved)
        with pytest.raises(DataError, match="cannot be read"):
            apply_decisions(store, tmp_path / "none.json")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_it(tmp_path: Path) -> None:
    with Store.read(evil_store(tmp_path)) as store:
        (page,) = write(store, tmp_path / "r.html")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               "--window-size=1200,900", "--virtual-time-budget=3000"]  # fmt: skip
    shot = tmp_path / "shot.png"
    dump = [*command, "--dump-dom", page.as_uri()]
    done = subprocess.run(dump, capture_output=True, timeout=120, check=True)
    text = done.stdout.decode("utf-8")
    assert text.count('class="card') == 3 and "wait for a person" in text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text  # shown as text
    subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], capture_output=True, timeout=120, check=True)
    with PIL.Image.open(shot) as made:
        assert np.asarray(made.convert("L")).std() > 5
