"""Self-contained checkpoints: what goes in comes out, and what cannot be read is said with the file's name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import DTYPES, ENCODERS, random_batch, small_model

from tppsd.data.statistics import DataStatistics
from tppsd.models.checkpoint import CHECKPOINT_KEY, FORMAT_VERSION, describe, load
from tppsd.models.transformer_tpp import TransformerTPP

STATISTICS = DataStatistics(
    3, 0.25, 1.5, 2.0, 0.001, 10, 20.0, 1, True, (5, 3, 2), (1, 0, 0), mark_names=("a", "b", "c"), time_unit="hours"
)


def trained_looking(encoder: str = "thp", dtype: torch.dtype = torch.float32, **settings) -> TransformerTPP:
    model = small_model(encoder, dtype=dtype, **settings)
    model.set_statistics(STATISTICS)
    return model


def write_lightning_style(model: TransformerTPP, path: Path, **changes) -> None:
    """The Trainer's layout: weights under `model.`, our record beside them."""
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    record = {**describe(model), "role": "target"} | changes
    torch.save({"state_dict": weights, "epoch": 3, "hyper_parameters": {"lr": 0.1}, CHECKPOINT_KEY: record}, path)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_saved_model_comes_back_the_same(tmp_path: Path, encoder: str, dtype: torch.dtype) -> None:
    model = trained_looking(encoder, dtype, mark_decoder="independent", dropout=0.1, feedforward_dim=24)
    model.save(tmp_path / "new folder" / "model.ckpt")
    loaded = load(tmp_path / "new folder" / "model.ckpt")
    assert not loaded.training
    assert loaded.config == model.config and loaded.statistics == STATISTICS
    assert loaded.content_hash() == model.content_hash()
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    batch = random_batch([5, 2])
    batch = batch._replace(event_times=batch.event_times + 1e6, t_end=batch.t_end + 1e6)  # far from the window's start
    assert torch.equal(loaded.log_likelihood(batch), model.log_likelihood(batch))


def test_a_trainers_checkpoint_is_read_without_the_trainer(tmp_path: Path) -> None:
    model = trained_looking()
    write_lightning_style(model, tmp_path / "last.ckpt")
    loaded = load(str(tmp_path / "last.ckpt"))
    assert loaded.content_hash() == model.content_hash() and loaded.statistics == STATISTICS


def test_saving_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    first, second = trained_looking(), trained_looking()
    first.save(tmp_path / "model.ckpt")
    second.save(tmp_path / "model.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]
    assert load(tmp_path / "model.ckpt").content_hash() == second.content_hash() != first.content_hash()


def test_statistics_travel_with_a_plain_state_dict() -> None:
    source, destination = trained_looking(), small_model(dtype=torch.float32)
    destination.load_state_dict(source.state_dict())
    assert destination.statistics == STATISTICS


def test_the_hash_changes_with_weights_statistics_and_configuration() -> None:
    model = trained_looking()
    hashes = [model.content_hash()]
    assert model.content_hash() == hashes[0] and len(hashes[0]) == 64
    with torch.no_grad():
        model.decoder.to_mixture.bias[0] += 1e-6
    hashes.append(model.content_hash())
    model.set_statistics(DataStatistics(3))
    hashes.append(model.content_hash())
    model.config["dropout"] = 0.3
    hashes.append(model.content_hash())
    assert len(set(hashes)) == 4


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.ckpt: there is no such checkpoint file"):
        load(tmp_path / "absent.ckpt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken zip"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"notes\.txt: not a tppsd checkpoint"):
        load(tmp_path / "notes.txt")


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], {CHECKPOINT_KEY: {}}])
def test_another_projects_checkpoint_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt: not a tppsd checkpoint"):
        load(tmp_path / "other.ckpt")


def test_a_newer_format_says_what_to_do(tmp_path: Path) -> None:
    write_lightning_style(trained_looking(), tmp_path / "new.ckpt", format_version=FORMAT_VERSION + 1)
    with pytest.raises(
        ValueError, match=r"new\.ckpt: has checkpoint format 2, this version reads up to 1; upgrade tppsd"
    ):
        load(tmp_path / "new.ckpt")


@pytest.mark.parametrize(
    "change", [{"embed_dim": 32}, {"num_layers": 3}, {"encoder": "sahp"}, {"num_marks": 2}, {"width": 3}]
)
def test_weights_that_do_not_fit_the_configuration_are_named(tmp_path: Path, change: dict) -> None:
    model = trained_looking()
    write_lightning_style(model, tmp_path / "mixed.ckpt", config=model.config | change)
    with pytest.raises(ValueError, match=r"mixed\.ckpt: its weights do not fit its configuration"):
        load(tmp_path / "mixed.ckpt")
