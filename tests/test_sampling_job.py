"""A sampling job ends well only when it is done; what is missing, damaged or another's is found and named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lightning_helpers import SMALL, fitted, tppsd, trainer

from tppsd import Sampler, SampleWriter, TargetTPP
from tppsd.lightning import shard_writer as writer_module
from tppsd.lightning.job_folder import JOB, LOCK, MANIFEST, Lock, claim
from tppsd.lightning.requests import Requests
from tppsd.lightning.shards import Shard, fault, fingerprint, shard_name
from tppsd.sampling.results import SampledSequences

REQUESTS = Requests(8, num_events=4, chunk_size=2)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return fitted(TargetTPP(2, **SMALL), tmp_path_factory.mktemp("target") / "target.ckpt")


def run(target: Path, folder: Path, seed: int = 3, requests: Requests = REQUESTS, **arguments: Any) -> int:
    """Sequences that were sampled now."""
    writer = SampleWriter(folder)
    trainer(callbacks=[writer], **arguments).predict(
        Sampler(target, seed=seed), requests.loader(), return_predictions=False
    )
    return writer.num_sequences


@pytest.fixture(scope="module")
def finished(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of four files that is done."""
    folder = tmp_path_factory.mktemp("finished") / "samples"
    assert run(target, folder) == 8
    return folder


@pytest.fixture
def job(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(finished, tmp_path / "samples"))


def verify(folder: Path) -> int:
    """Exit status of `tppsd verify`."""
    try:
        return tppsd("verify", folder)
    except SystemExit as ended:
        return int(ended.code or 0)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}


def name(chunk: int) -> str:
    return shard_name(chunk, 4)


def empty(folder: Path) -> None:
    (folder / name(1)).write_bytes(b"")


def cut(folder: Path) -> None:
    whole = (folder / name(1)).read_bytes()
    (folder / name(1)).write_bytes(whole[: len(whole) // 2])


def text(folder: Path) -> None:
    (folder / name(1)).write_text("no Parquet")


def misnumbered(folder: Path) -> None:
    shutil.copy(folder / name(2), folder / name(1))


def fewer_rows(folder: Path) -> None:
    table = pq.read_table(folder / name(1))
    pq.write_table(table.slice(0, 1), folder / name(1))


def flipped_page(folder: Path) -> None:
    """A bit of an event time, which a reader without checksums may read."""
    row_group = pq.ParquetFile(folder / name(1)).metadata.row_group(0)
    columns = [row_group.column(i) for i in range(row_group.num_columns)]
    times = next(column for column in columns if column.path_in_schema.startswith("time_since_start"))
    changed = bytearray((folder / name(1)).read_bytes())
    changed[times.data_page_offset + times.total_compressed_size // 2] ^= 4
    (folder / name(1)).write_bytes(changed)


def gone(folder: Path) -> None:
    (folder / name(1)).unlink()


DAMAGES = [empty, cut, text, misnumbered, fewer_rows, flipped_page, gone]


@pytest.mark.parametrize("with_manifest", [True, False], ids=["finished", "unfinished"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_damaged_is_named_and_sampled_again_and_nothing_else(
    damage: Callable[[Path], None],
    with_manifest: bool,
    job: Path,
    target: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = content(job)
    damage(job)
    if not with_manifest:
        (job / MANIFEST).unlink()
    assert verify(job) == 1
    named = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train-")]
    assert [line.split(":")[0] for line in named] == [name(1)]
    assert run(target, job) == 2
    assert damage is gone or f"{name(1)} " in caplog.text
    assert content(job) == before
    assert verify(job) == 0
    assert "all 4 files are there" in capsys.readouterr().out
    assert run(target, job) == 0


def test_a_shard_of_another_job_is_left_alone(job: Path, target: Path, tmp_path: Path) -> None:
    """The same indices of the same model, by another seed, or with the same seed and another end."""
    for other, seed, requests in (("seed", 4, REQUESTS), ("end", 3, Requests(8, num_events=5, chunk_size=2))):
        run(target, tmp_path / other, seed, requests)
        shutil.copy(tmp_path / other / name(1), job / name(1))
        (job / MANIFEST).unlink(missing_ok=True)
        before = content(job)
        with pytest.raises(ValueError, match=rf"{name(1)} holds samples of another job; move it away"):
            run(target, job)
        assert content(job) == before
        assert verify(job) == 1


def test_files_that_are_not_of_the_job_are_named(job: Path, target: Path) -> None:
    shutil.copy(job / name(1), job / shard_name(1, 5))
    with pytest.raises(ValueError, match=r"train-00001-of-00005.parquet is not of this job, which has 4 chunks"):
        run(target, job)
    (job / shard_name(1, 5)).rename(job / "mine.parquet")
    with pytest.raises(ValueError, match=r"already holds 5 Parquet files \(mine.parquet"):
        run(target, job)


def test_a_folder_in_the_place_of_a_file_is_named(job: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone(job)
    (job / name(1)).mkdir()
    with pytest.raises(ValueError, match=rf"{name(1)} is a folder, where a file of samples must be"):
        run(target, job)
    assert verify(job) == 1
    assert f"{name(1)}: is a folder" in capsys.readouterr().out


@pytest.mark.parametrize("when", ["folder", "file"])
def test_what_vanishes_while_others_are_sampled_is_no_success(
    when: str, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole folder after the second chunk, or the first file alone."""
    folder, write = tmp_path / "samples", writer_module.write_shard

    def then_remove(samples: SampledSequences, path: Path, job: dict[str, Any]) -> None:
        write(samples, path, job)
        if path.name == name(1):
            shutil.rmtree(folder) if when == "folder" else (folder / name(0)).unlink()

    monkeypatch.setattr(writer_module, "write_shard", then_remove)
    said = "was removed or emptied while it was being written" if when == "folder" else "the job is not done, 1 of 4"
    with pytest.raises(ValueError, match=said):
        run(target, folder)
    assert not (folder / MANIFEST).exists()
    monkeypatch.undo()
    assert run(target, folder) == (8 if when == "folder" else 2)


def test_a_part_that_was_asked_for_is_a_success_without_a_manifest(target: Path, tmp_path: Path) -> None:
    assert run(target, tmp_path / "samples", limit_predict_batches=2) == 4
    assert not (tmp_path / "samples" / MANIFEST).exists()
    assert run(target, tmp_path / "samples") == 4


def test_every_flipped_bit_is_found(job: Path) -> None:
    """With the manifest all of 300; without it those in pages, by their checksums: this small file is mostly footer."""
    record, path = json.loads((job / JOB).read_text()), job / name(1)
    shard, whole, table = Shard(path.name, 2, 2), path.read_bytes(), pq.read_table(path)
    manifest = {s["name"]: s["sha256"] for s in json.loads((job / MANIFEST).read_text())["shards"]}
    silent = 0
    for bit in torch.randint(8 * len(whole), (300,), generator=torch.Generator().manual_seed(0)).tolist():
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert fault(job, shard, record, manifest[path.name]) is not None
        try:
            if fault(job, shard, record) is None and not pq.read_table(path).equals(table):
                silent += 1
        except ValueError:  # another job's, as far as anyone can tell
            pass
    assert silent <= 3  # 0 with pyarrow 26, whose footers have all names twice


def test_the_manifest_says_what_there_is(job: Path, target: Path) -> None:
    manifest = json.loads((job / MANIFEST).read_text())
    assert manifest["job"] == json.loads((job / JOB).read_text()) and manifest["job"]["target"] is not None
    assert {"tppsd", "torch", "python"} <= manifest["versions"].keys()
    assert [(s["name"], s["first_index"], s["last_index"], s["rows"]) for s in manifest["shards"]] == [
        (name(i), 2 * i, 2 * i + 1, 2) for i in range(4)
    ]


@pytest.mark.parametrize("file", [JOB, MANIFEST])
@pytest.mark.parametrize("damage", [b"[1]", b"\xff\xfe\x00", b"", b"{", b"null", b"[" * 100_000])
def test_damaged_records_are_a_sentence(
    damage: bytes, file: str, job: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job / file).write_bytes(damage)
    assert verify(job) == 2
    assert f"{file} is damaged" in capsys.readouterr().err
    if file == JOB:
        with pytest.raises(ValueError, match=r"\.job\.json is damaged, so that nobody knows"):
            run(target, job)
    else:  # it is written anew
        assert run(target, job) == 0 and verify(job) == 0


def test_verify_wants_a_folder_of_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(tmp_path) == verify(tmp_path / "nowhere") == 2
    assert "is not a folder of samples" in capsys.readouterr().err


def test_one_folder_has_one_writer(target: Path, tmp_path: Path) -> None:
    """Until it has ended; its lock names the process, and goes with it."""
    lock = Lock(tmp_path / "samples")
    lock.acquire()
    with pytest.raises(ValueError, match=rf"is being written by process {os.getpid()} on .*, since 20"):
        run(target, tmp_path / "samples")
    lock.release()
    assert not (tmp_path / "samples").exists()
    assert run(target, tmp_path / "samples") == 8 and not (tmp_path / "samples" / LOCK).exists()
    (tmp_path / "samples" / LOCK).write_text("process 1 on another machine")  # left by one that was killed
    assert run(target, tmp_path / "samples") == 0


def test_jobs_cannot_mix(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no locks, the one that is second to leave its record is refused."""
    jobs = [{"seed": seed} for seed in range(2)]
    assert claim(tmp_path, jobs[0]) and not claim(tmp_path, jobs[0])
    with pytest.raises(ValueError, match=r"samples of another job \(seed is 0 there and 1 here\)"):
        claim(tmp_path, jobs[1])

    monkeypatch.setattr(Lock, "acquire", lambda self: self.path.parent.mkdir(parents=True, exist_ok=True))
    seen: list[str] = []
    write = writer_module.write_shard

    def start_another(samples: SampledSequences, path: Path, job: dict[str, Any]) -> None:
        if not seen:
            seen.append("another")
            with pytest.raises(ValueError, match=r"samples of another job \(seed is 3 there and 4 here\)"):
                run(target, path.parent, seed=4)
        write(samples, path, job)

    monkeypatch.setattr(writer_module, "write_shard", start_another)
    assert run(target, tmp_path / "samples") == 8 and verify(tmp_path / "samples") == 0


def test_what_killed_writers_have_left_is_removed(job: Path, target: Path) -> None:
    left = [f".{name(0)}.123", f"..{name(0)}.123.123", f"{JOB}.77.1", f"{MANIFEST}.77"]
    for file in left:
        (job / file).write_text("half")
    (job / ".mine").write_text("kept")
    (job / f"{name(0)}.bak").write_text("kept")
    run(target, job)
    there = {path.name for path in job.iterdir()}
    assert there.isdisjoint(left) and {".mine", f"{name(0)}.bak"} <= there


def test_fingerprints_differ_with_the_job() -> None:
    assert fingerprint({"a": 1, "b": None}) == fingerprint({"b": None, "a": 1}) != fingerprint({"a": 2, "b": None})
