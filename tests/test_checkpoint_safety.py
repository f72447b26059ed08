"""No code of a checkpoint is run and none is fetched, by whichever way it comes; a damaged one is refused."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_helpers import SMALL, fitted, small_data, tppsd, trainer
from small_models import small_model

from tppsd import Distillation, DraftTPP, Sampler, TargetTPP, load
from tppsd.lightning.requests import Requests
from tppsd.models.checkpoint import DIGEST_KEY, digest, read_plain, write_checkpoint

DATA = ["--data.process", "multivariate_hawkes", "--data.num_sequences", "20", "--data.t_end", "8"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
REFUSED = r"must be a file on this machine|not a tppsd checkpoint"
SIZE = ["--model.embed_dim", "8", "--model.num_heads", "2", "--model.num_components", "4"]


class Bait:
    """A value whose unpickling leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that must not appear; and nothing is fetched into the user's own cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "mark"


@pytest.fixture
def bait(tmp_path: Path, mark: Path) -> Path:
    """A checkpoint of a real run with a bait in it, which works."""
    path = fitted(TargetTPP(2, **SMALL), tmp_path / "good.ckpt")
    content = torch.load(path, weights_only=True)
    torch.save(content | {"bait": Bait(mark)}, tmp_path / "bait.ckpt")
    torch.load(tmp_path / "bait.ckpt", weights_only=False)
    assert mark.exists(), "the bait does nothing"
    mark.unlink()
    return tmp_path / "bait.ckpt"


@pytest.fixture
def url(bait: Path) -> Iterator[tuple[str, list[str]]]:
    """Where the bait is served, and what has been asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(bait.parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/bait.ckpt", asked
    server.shutdown()
    thread.join()
    server.server_close()


def commands(path: str) -> list[list[str]]:
    """Every way in which a command is told of a checkpoint."""
    size = [*SIZE, "--trainer.max_epochs", "1", "--trainer.logger", "false", "--trainer.log_every_n_steps", "1"]
    sampled = ["predict", *QUIET, "--requests.num_events", "2", "--requests.num_sequences", "2"]
    scored = [[verb, *DATA, *QUIET, "--ckpt_path", path] for verb in ("validate", "test")]
    distilled = ["fit", *DATA, *QUIET, *size, "--model", "DraftTPP", "--model.distillation.target", path]
    return [
        ["fit", *DATA, *QUIET, *size, "--ckpt_path", path], *scored, distilled, [*sampled, "--model.target", path],
        [*sampled, "--model.target", "good.ckpt", "--model.draft", path],
        [*sampled, "--model.target", "good.ckpt", "--ckpt_path", path],
    ]  # fmt: skip


def test_nothing_is_fetched(url: tuple[str, list[str]], mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address, asked = url
    for where in (address, "file://" + str(mark.parent / "bait.ckpt"), "memory://bait.ckpt", "simplecache::" + address):
        for arguments in commands(where)[: None if where is address else 1]:
            capsys.readouterr()
            assert tppsd(*arguments) == 2, arguments
            error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
            assert len(error) == 1 and where in error[0]
    assert not asked and not mark.exists() and not Path("outputs").exists()


def test_no_code_of_a_local_file_is_run(bait: Path, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in commands(str(bait)):
        capsys.readouterr()
        assert tppsd(*arguments) == 2, arguments
        assert not mark.exists()
    assert tppsd(*commands("good.ckpt")[0], "--weights_only", "false") == 2
    assert "--weights_only false would run what is in a checkpoint" in capsys.readouterr().err
    assert tppsd(*commands("good.ckpt")[0], "--trainer.max_epochs", "2") == 0, "the run itself can be resumed"


def test_nor_by_the_trainer_itself(url: tuple[str, list[str]], bait: Path, mark: Path) -> None:
    """Lightning fetches a URL and runs it; its option weights_only = False runs a local one."""
    module, data = TargetTPP(2, **SMALL), small_data()
    for path in (url[0], bait):
        for run in (trainer().fit, trainer().validate, trainer().test):
            for weights_only in (None, False):
                with pytest.raises(ValueError, match=REFUSED):
                    run(module, datamodule=data, ckpt_path=path, weights_only=weights_only)
        sampler = Sampler("good.ckpt")
        with pytest.raises(ValueError, match=REFUSED):
            trainer().predict(sampler, Requests(2, num_events=2).loader(), ckpt_path=path, weights_only=False)
        with pytest.raises(ValueError, match=REFUSED):
            TargetTPP.load_from_checkpoint(path, weights_only=False)
        with pytest.raises(ValueError, match=REFUSED):
            trainer().fit(DraftTPP(2, distillation=Distillation(path), **SMALL), data)
        with pytest.raises(ValueError, match=REFUSED):
            load(path)
    assert not url[1] and not mark.exists()


def test_a_folder_with_the_name_of_a_scheme_opens_no_door(
    mark: Path, bait: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """http:/host/x is a path too, and exists; Lightning would go to the network for http://host/x."""
    folder = Path("http:", "127.0.0.1")
    folder.mkdir(parents=True)
    bait.rename(folder / "x.ckpt")
    assert tppsd(*commands("http://127.0.0.1/x.ckpt")[0]) == 2
    assert "must be a file on this machine" in capsys.readouterr().err and not mark.exists()


@pytest.mark.parametrize("keyword", ["last", "best", "hpc", "registry:model"])
def test_a_keyword_of_lightning_is_no_file(keyword: str, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tppsd(*commands(keyword)[0]) == 2
    assert f"{keyword}: there is no such checkpoint file" in capsys.readouterr().err


def test_a_changed_bit_is_found(tmp_path: Path, mark: Path) -> None:
    """200 flipped bits of a checkpoint of either kind: refused, or of no consequence for anything that is read."""
    run = fitted(TargetTPP(2, **SMALL), tmp_path / "run.ckpt")
    small_model("thp").save(tmp_path / "core.ckpt")
    generator = torch.Generator().manual_seed(0)
    for path in (run, tmp_path / "core.ckpt"):
        whole, damaged = path.read_bytes(), tmp_path / "damaged.ckpt"
        expected, refused = digest(read_plain(path)), 0
        for bit in torch.randint(8 * len(whole), (200,), generator=generator).tolist():
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            damaged.write_bytes(changed)
            try:
                content = read_plain(damaged)
            except ValueError:
                refused += 1
            else:
                assert digest(content) == expected
        assert refused > 50


def test_a_damaged_checkpoint_is_refused_everywhere(mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One bit of one weight, which the file format itself does not notice; without a digest it is read as before."""
    good = fitted(TargetTPP(2, **SMALL), Path("good.ckpt"))
    content = torch.load(good, weights_only=True)
    content["state_dict"]["model.decoder.to_mixture.weight"].view(torch.int32)[0, 0] ^= 1
    torch.save(content, "bad.ckpt")
    with pytest.raises(ValueError, match=r"bad.ckpt: is damaged"):
        TargetTPP.load_from_checkpoint("bad.ckpt")
    for arguments in commands("bad.ckpt")[:-1]:
        capsys.readouterr()
        assert tppsd(*arguments) == 2, arguments
        assert "bad.ckpt: is damaged: its content does not have the SHA-256" in capsys.readouterr().err
    del content[DIGEST_KEY]
    torch.save(content, "old.ckpt")
    assert load("old.ckpt").content_hash() != load(good).content_hash()


def test_the_digest_is_of_all_that_is_kept(mark: Path) -> None:
    """Dropping what it looks at from the walk would leave two of these equal."""
    tensor = torch.arange(4.0)
    contents: list[Any] = [
        {"a": 1}, {"a": 2}, {"b": 1}, {"a": [1]}, {"a": "1"}, {"a": tensor}, {"a": tensor.double()}, {"a": tensor + 1},
        {"a": tensor.reshape(2, 2)}, {"a": {"b": 1}}, {"a": None}, {"a": True}, {"a": 1.0}, {}, {"a": torch.tensor(1)},
        {"a": tensor.bfloat16()}, {"a": [tensor, 1]}, {"a": [1, tensor]},
    ]  # fmt: skip
    assert len({digest(content) for content in contents}) == len(contents)
    for content in contents:
        write_checkpoint(content, "one.ckpt")
        assert digest(read_plain("one.ckpt")) == digest(content)
