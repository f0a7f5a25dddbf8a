from __future__ import annotations

import re
import sys
import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import pytest

import vhsbench.harness.common.registry
from vhsbench import generators
from vhsbench.harness.common.registry import Factory, Registry, RegistryError, nearest


class Point:
    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value


def registry(monkeypatch, *points: Point) -> Registry[object]:
    monkeypatch.setattr(vhsbench.harness.common.registry, "entry_points", lambda group: list(points))
    return Registry("generator", "group", {"nano": "collections:OrderedDict"})


def test_names_come_from_builtins_and_entry_points(monkeypatch):
    found = registry(monkeypatch, Point("mine", "collections:Counter"))
    assert found.names() == ["mine", "nano"]
    assert found.create("mine") == {}


def test_steps_are_known_without_building(monkeypatch):
    # factories that cannot be called: one says its steps, one takes none
    monkeypatch.setattr(
        vhsbench.harness.common.registry, "four", lambda *, weights, steps=4: 1 / 0, raising=False
    )
    monkeypatch.setattr(vhsbench.harness.common.registry, "once", lambda *, weights: 1 / 0, raising=False)
    targets = {name: f"vhsbench.harness.common.registry:{name}" for name in ("four", "once")}
    monkeypatch.setattr(generators, "REGISTRY", Registry("generator", "group", targets))
    assert [generators.steps_of(name, {}) for name in ("four", "once")] == [4, 1]
    assert generators.steps_of("four", {"steps": 2}) == 2
    assert [generators.steps_of(name, {}) for name in ("sana-1.5", "sana-sprint")] == [16, 1]
    with pytest.raises(RegistryError, match="did you mean 'four'"):
        generators.steps_of("fuor", {})


@dataclass(frozen=True, kw_only=True)
class Size:
    width: int = 1
    height: int = 2


def test_the_options_of_a_factory_are_the_fields_of_its_dataclass(monkeypatch):
    area = Factory(
        Size, lambda size: size.width * size.height, lambda size: {"sides": [size.width, size.height]}
    )
    monkeypatch.setattr(vhsbench.harness.common.registry, "area", area, raising=False)
    found = Registry("shape", "group", {"area": "vhsbench.harness.common.registry:area"})
    assert found.create("area", width=3) == 6
    assert found.identity("area", height=5) == {"name": "area", "sides": [1, 5]}
    assert found.default("area", "height") == 2
    with pytest.raises(RegistryError, match="'area' has no option 'widht'; did you mean 'width'"):
        found.create("area", widht=3)


def test_an_unknown_name_is_answered_with_the_nearest(monkeypatch):
    with pytest.raises(RegistryError, match="unknown generator 'nanoo'; did you mean 'nano'"):
        registry(monkeypatch).create("nanoo")


@pytest.mark.parametrize(
    ("point", "why"),
    [
        (Point("nano", "x:y"), "'nano' is one of vhsbench's own; x:y needs another name"),
        (Point("mine", "x:y"), "'mine' is registered twice: collections:Counter and x:y"),
        (Point("../up", "x:y"), "'../up' names files: letters, digits, '.', '_', '+' and '-' alone, no '.' at the beginning"),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_added_breaks_no_other(monkeypatch, point, why):
    found = registry(monkeypatch, Point("mine", "collections:Counter"), point)
    assert found.names() == ["mine", "nano"]
    assert found.create("mine") == {}
    assert found.refused() == {f"{point.name} = x:y": why}
    with pytest.raises(RegistryError, match=re.escape(f"generator {why}.")):
        found.register(point.name, "x:y")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence."),
        ("import sys; sys.exit(3)", "SystemExit: 3."),
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'."),
        ("def create(: pass", "SyntaxError: invalid syntax (broken_plugin.py, line 1)."),
    ],
)
def test_a_plugin_that_raises_at_import_is_a_sentence(monkeypatch, tmp_path, code, said):
    (tmp_path / "broken_plugin.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    with pytest.raises(RegistryError) as error:
        registry(monkeypatch, Point("broken", "broken_plugin:create")).create("broken")
    assert str(error.value) == f"generator 'broken' cannot be loaded from 'broken_plugin:create': {said}"


def test_an_option_that_is_needed_is_named(monkeypatch):
    found = registry(monkeypatch, Point("one_option", f"{__name__}:one_option"))
    with pytest.raises(RegistryError, match="generator 'one_option' needs the option 'size'"):
        found.create("one_option")


@pytest.mark.parametrize("target", ["no.such.module:f", "collections:Missing", "collections:abc"])
def test_a_broken_entry_says_so_when_it_is_used_and_not_before(monkeypatch, target):
    found = registry(monkeypatch, Point("broken", target))
    assert "broken" in found.names()
    with pytest.raises(RegistryError, match="'broken'"):
        found.create("broken")


def test_registering_twice_is_refused(monkeypatch):
    found = registry(monkeypatch)
    found.register("other", "collections:Counter")
    with pytest.raises(RegistryError, match="twice"):
        found.register("other", "collections:deque")


def test_the_nearest_name_is_found_in_any_case():
    assert nearest("A100", ["a100", "h100"]) == "did you mean 'a100'?"
    assert nearest("x", []) == "known: none."


def any_option(**options: object) -> object:
    raise AssertionError("checking options builds nothing")


def one_option(size: int) -> object:
    raise AssertionError("checking options builds nothing")


def test_options_are_checked_without_building(monkeypatch):
    found = registry(
        monkeypatch, *(Point(f.__name__, f"{__name__}:{f.__name__}") for f in (any_option, one_option))
    )
    found.check_options("any_option", ["whatever"])
    found.check_options("one_option", ["size"])
    with pytest.raises(
        RegistryError, match="generator 'one_option' has no option 'sise'; did you mean 'size'"
    ):
        found.check_options("one_option", {"sise": 3})


def test_an_identity_is_the_factorys_own_or_its_options(monkeypatch):
    def told(**options):
        raise AssertionError("built")

    told.identity = lambda **options: {"weights": "sha", **options}
    monkeypatch.setattr(vhsbench.harness.common.registry, "told", told, raising=False)
    point = Point("mine", "collections:Counter")
    point.dist = type("Distribution", (), {"name": "my-package", "version": "1.2"})
    found = Registry("generator", "group", {"told": "vhsbench.harness.common.registry:told"})
    monkeypatch.setattr(vhsbench.harness.common.registry, "entry_points", lambda group: [point])
    assert found.identity("told", steps=2) == {"name": "told", "weights": "sha", "steps": 2}
    assert found.identity("mine", a=1) == {"name": "mine", "package": "my-package 1.2", "options": {"a": 1}}
    with pytest.raises(RegistryError, match="did you mean 'told'"):
        found.identity("tolt")


class Member(Protocol):
    name: str

    def must(self) -> int: ...

    def may(self) -> str: ...

    @property
    def place(self) -> str: ...


class MemberDefaults:
    name: str

    def may(self) -> str:
        return f"{self.name}'s default"

    @cached_property
    def place(self) -> str:
        return f"beside {self.name}"


class Brief:
    name = "brief"

    def must(self) -> int:
        return 1


class Full(Brief):
    place = "here"

    def may(self) -> str:
        return "its own"


class Lacking:
    name = "lacking"


class Closed:
    """Has no room for what it leaves out."""

    name = "closed"
    must = Brief.must

    __slots__ = ()


@pytest.fixture
def members() -> Registry[Member]:
    targets = {c.__name__.lower(): f"{__name__}:{c.__name__}" for c in (Brief, Full, Lacking, Closed)}
    return Registry("member", "group", targets, Member, MemberDefaults)


def test_members_left_out_are_the_defaults(members):
    brief, full = members.create("brief"), members.create("full")
    assert (brief.must(), brief.may(), brief.place) == (1, "brief's default", "beside brief")
    assert (full.may(), full.place) == ("its own", "here")
    assert (type(full), isinstance(brief, Brief)) == (Full, True)
    gone = weakref.ref(brief)
    del brief
    assert gone() is None  # it is not kept by what it was given


@pytest.mark.parametrize(("name", "member"), [("lacking", "must"), ("closed", "may")])
def test_a_member_without_a_default_is_named(members, name, member):
    with pytest.raises(RegistryError) as error:
        members.create(name)
    assert str(error.value) == f"member '{name}' lacks '{member}'; {__name__} says what a member has."
