"""Constructors read from source: nothing is imported, and what fits an annotation is known."""

import ast
import sys

import pytest

from medvit.signatures import accepts, classes_in, nearest, package_folder, resolve, signature

SYSTEMS = ("medvit.systems",)


def test_the_arguments_of_a_system_are_read_with_types_defaults_and_meanings():
    found = resolve("ThoraxMAE", SYSTEMS)
    assert found and found[0] == "medvit.systems.thorax_mae.ThoraxMAE"
    arguments = signature(*found).arguments
    assert list(arguments)[:3] == ["labels", "image_size", "patch"]
    assert "self" not in arguments
    assert arguments["mean"].default_text == "0.5056"  # the constant's value, not its name
    assert arguments["pool"].type_text == "Literal['mean', 'class']"
    assert "patch tokens" in arguments["pool"].text
    assert arguments["weights"].is_path and not arguments["labels"].is_path
    assert arguments["weights"].text.endswith("release.")  # the whole of a description, over lines


def test_every_argument_of_the_shipped_systems_and_data_has_a_meaning():
    for name, homes in (("ThoraxMAE", SYSTEMS), ("ThoraxMAEPretraining", SYSTEMS), ("Cases", ("medvit.data",))):
        sign = signature(*resolve(name, homes))
        assert not [argument.name for argument in sign.arguments.values() if not argument.text], name


def test_the_same_arguments_are_found_as_by_import():
    import inspect

    from medvit.systems.thorax_mae import ThoraxMAE

    read = signature(*resolve("ThoraxMAE", SYSTEMS)).arguments
    imported = inspect.signature(ThoraxMAE).parameters
    assert list(read) == list(imported)
    assert read.pop("centre_share").default_text == "224 / 256"
    for name, argument in read.items():
        default = ast.literal_eval(argument.default_text)
        assert default == imported[name].default, name


def test_dotted_names_and_names_re_exported_by_a_package_are_found():
    assert resolve("medvit.systems.thorax_mae.ThoraxMAE", ()) is not None
    assert resolve("lightning.pytorch.callbacks.ModelCheckpoint", ()) is not None
    assert resolve("medvit.systems.thorax_mea.ThoraxMAE", ()) is None
    assert resolve("ThoraxMAY", SYSTEMS) is None
    assert resolve("nowhere.at.all.Thing", ()) is None


def test_a_class_without_a_constructor_has_that_of_its_base_in_the_same_file(tmp_path):
    file = tmp_path / "some.py"
    file.write_text(
        "class A:\n    def __init__(self, x: int, *, y: str = 'z', **more): ...\nclass B(A): ...\nclass C: ...\n"
    )
    sign = signature("some.B", file)
    assert list(sign.arguments) == ["x", "y"] and sign.open
    assert sign.arguments["x"].default is None and sign.arguments["y"].default is not None
    assert signature("some.C", file) is None
    assert signature("some.D", file) is None


def test_reading_a_package_does_not_import_it(tmp_path, monkeypatch):
    package = tmp_path / "signature_canary"
    package.mkdir()
    canary = tmp_path / "canary"
    (package / "__init__.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n")
    (package / "parts.py").write_text(
        f"{(package / '__init__.py').read_text()}\nclass Part:\n    def __init__(self, a: int): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert classes_in("signature_canary") == {"Part": package / "parts.py"}
    assert package_folder("signature_canary") == package
    assert list(signature(*resolve("signature_canary.parts.Part", ())).arguments) == ["a"]
    assert not canary.exists() and "signature_canary" not in sys.modules


@pytest.mark.parametrize(
    ("annotation", "fits", "refused"),
    [
        ("int", [1, -1], [1.0, True, "1", None, [1]]),
        ("float", [1, 1.5], [True, "1", None]),
        ("bool", [True, False], [0, 1, "true"]),
        ("str", ["a", ""], [1, None, ["a"]]),
        ("Path", ["a/b"], [1, None]),
        ("Path | None", ["a/b", None], [1]),
        ("Optional[int]", [1, None], ["a", 1.0]),
        ("Union[int, str]", [1, "a"], [1.5, None]),
        ("str | list[str]", ["a", ["a", "b"], []], [["a", 1], 1, {"class": "x"}]),
        ("Literal['mean', 'class']", ["mean"], ["max", None]),
        ("'int | None'", [1, None], ["a"]),
        ("SomethingElse", [1, "a", None, {}], []),
    ],
)
def test_values_fit_annotations(annotation, fits, refused):
    tree = ast.parse(annotation, mode="eval").body
    assert all(accepts(tree, value) for value in fits)
    assert not any(accepts(tree, value) for value in refused)


def test_without_an_annotation_everything_fits():
    assert accepts(None, object())


def test_the_nearest_name_is_offered_only_when_it_is_near():
    assert nearest("mask_ration", ["mask_ratio", "mean"]) == "mask_ratio"
    assert nearest("zebra", ["mask_ratio", "mean"]) is None
