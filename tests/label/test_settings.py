"""What decides the labels of a run."""

from __future__ import annotations

from pathlib import Path

from textseg.label.settings import weight_hashes


def test_weights_are_told_apart_by_every_file_of_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    (folder / "part").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    nested = folder / "part" / "model.safetensors"
    nested.write_bytes(b"1")
    preset = tmp_path / "mine.yaml"
    preset.write_text(f"name: mine\nsegmenter: {{kind: sam, model: {folder}}}\ndetector: {{kind: owl, model: a/b}}\n")
    first = weight_hashes(preset)
    assert list(first) == ["segmenter"]  # what lies on a hub goes by its id
    assert weight_hashes(preset) == first
    nested.write_bytes(b"2")
    assert weight_hashes(preset) != first
