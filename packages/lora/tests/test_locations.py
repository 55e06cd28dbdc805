"""Hub ids of adapters: asked for once, kept through failures, asked again only in place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plait_kernels.errors import AdapterError
from plait_lora.catalog import AdapterCatalog
from plait_lora.locations import is_hub_id
from plait_lora.request import LoRARequest

Write = Callable[..., Path]
Make = Callable[..., AdapterCatalog]
ID = "org/adapter"


class Hub:
    """Answers with the directory it is told to answer with, and counts."""

    def __init__(self) -> None:
        self.newest: Path | None = None
        self.asked: list[tuple[str, str]] = []

    def locate(self, hub_id: str, where: str) -> str:
        self.asked.append((hub_id, where))
        if self.newest is None:
            text = f"{where}: the hub is down"
            raise AdapterError(text)
        return str(self.newest)


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def request(number: int = 1, *, in_place: bool = False, path: str = ID) -> LoRARequest:
    return LoRARequest(f"n{number}", number, path, load_inplace=in_place)


def test_what_has_the_form_of_an_id() -> None:
    assert all(map(is_hub_id, ("a/b", "Org-1/name_2.x")))
    assert not any(map(is_hub_id, ("a", "a/b/c", "/a/b", "./b", "~/b", "a/", "/", "é/b", "a b/c")))


def test_an_id_means_the_snapshot_of_its_first_use(
    tmp_path: Path, write_adapter: Write, make_catalog: Make, hub: Hub
) -> None:
    catalog = make_catalog(locate=hub.locate)
    hub.newest = write_adapter(tmp_path / "1", seed=1)
    old = catalog.resolve(request())
    assert hub.asked == [(ID, f"adapter 'n1' (id 1, {ID!r})")]
    hub.newest = write_adapter(tmp_path / "2", seed=2)
    assert catalog.resolve(request()) == catalog.resolve(request(2)) == old
    assert catalog.remove(1)
    assert catalog.resolve(request()) == old
    assert len(hub.asked) == 1
    new = catalog.resolve(request(in_place=True))
    assert new != old
    assert len(hub.asked) == 2
    assert catalog.resolve(request()) == new
    assert catalog.resolve(request(3)) == new
    assert len(hub.asked) == 2


def test_what_fails_moves_no_id(
    tmp_path: Path, write_adapter: Write, make_catalog: Make, hub: Hub
) -> None:
    catalog = make_catalog(locate=hub.locate)
    with pytest.raises(AdapterError, match=r"\(id 1, 'org/adapter'\): the hub is down"):
        catalog.resolve(request())
    hub.newest = write_adapter(tmp_path / "dora", config={"use_dora": True})
    with pytest.raises(AdapterError, match="use_dora"):
        catalog.resolve(request())
    hub.newest = write_adapter(tmp_path / "good", seed=1)
    good = catalog.resolve(request())
    assert good is not None
    hub.newest = tmp_path / "dora"
    with pytest.raises(AdapterError, match="use_dora"):
        catalog.resolve(request(in_place=True))
    hub.newest = None
    with pytest.raises(AdapterError, match="the hub is down"):
        catalog.resolve(request(in_place=True))
    assert catalog.resolve(request()) == good
    assert catalog.ids() == {1}


def test_who_waits_for_memory_asks_no_hub(
    tmp_path: Path, write_adapter: Write, make_catalog: Make, hub: Hub
) -> None:
    catalog = make_catalog(locate=hub.locate, max_cpu_loras=1)
    local = catalog.resolve(request(1, path=str(write_adapter(tmp_path / "local", seed=1))))
    assert local is not None
    catalog.hold(local)
    hub.newest = write_adapter(tmp_path / "hub", seed=2)
    for _ in range(3):
        assert catalog.resolve(request(2)) is None
        assert catalog.resolve(request(1, in_place=True)) is None
    assert hub.asked == []
    with pytest.raises(AdapterError, match="there is no directory"):
        catalog.resolve(request(3, path="/no/where"))
    catalog.drop(local)
    assert catalog.resolve(request(2)) is not None
    assert len(hub.asked) == 1


def test_an_evicted_adapter_is_read_from_its_snapshot(
    tmp_path: Path, write_adapter: Write, make_catalog: Make, hub: Hub
) -> None:
    catalog = make_catalog(locate=hub.locate, max_cpu_loras=1)
    hub.newest = write_adapter(tmp_path / "1", seed=1)
    first = catalog.resolve(request())
    catalog.resolve(request(2, path=str(write_adapter(tmp_path / "other", seed=3))))
    hub.newest = None
    assert catalog.resolve(request()) == first
    assert len(hub.asked) == 1


def test_a_local_directory_comes_before_an_id(
    tmp_path: Path, write_adapter: Write, make_catalog: Make, hub: Hub
) -> None:
    catalog = make_catalog(locate=hub.locate)
    local = catalog.resolve(request(path=str(write_adapter(Path(ID), seed=1))))
    assert hub.asked == []
    Path(ID).rename("away")
    hub.newest = write_adapter(tmp_path / "2", seed=2)
    assert catalog.resolve(request(2)) != local
    Path("away").rename(ID)
    assert catalog.resolve(request(3)) == local
    assert len(hub.asked) == 1


def test_without_a_hub_an_id_is_refused(make_catalog: Make) -> None:
    with pytest.raises(AdapterError, match="Download the adapter first"):
        make_catalog().resolve(request())
