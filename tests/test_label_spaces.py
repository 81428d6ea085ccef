"""Which classes of a network count as a class of a dataset."""

import importlib.util

import pytest

from interpeval.datasets.label_spaces import COCO_IN_IMAGENET, LabelMapError, network_classes

CLASSES = ("cat", "dog", "cow")


def written(tmp_path, text):
    path = tmp_path / "map.csv"
    path.write_bytes(text.encode())
    return str(path)


def pairs(table):
    return [tuple(pair) for pair in table.nonzero().tolist()]


def test_a_file_maps_names_to_indices(tmp_path):
    table = network_classes(written(tmp_path, "cat,3\ncow,0\ncat,1\n"), CLASSES)
    assert table.shape == (3, 4)
    assert pairs(table) == [(0, 1), (0, 3), (2, 0)]


@pytest.mark.parametrize(
    "text",
    [
        "dog,1 4\n",  # several indices in one cell
        "class,index\ndog,1\ndog,4\n",  # a heading
        "\ufeffdog , 1\r\n\r\ndog,4\r\n",  # as spreadsheets write it
        '"dog","1 4"\n,\n',
    ],
)
def test_usual_ways_to_write_a_file_mean_the_same(tmp_path, text):
    assert pairs(network_classes(written(tmp_path, text), CLASSES)) == [(1, 1), (1, 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat,1\nbird,2\n", "line 2: `bird` is no class of the dataset; its classes are: cat, dog, cow"),
        ("cat,1\ndog,x\n", "line 2: must be a class and the index of a network's class below 10000000, was `dog,x`"),
        ("cat,1x\n", "line 1: must be a class and the index"),  # a class of the dataset is no heading
        ("cat,-1\n", "line 1: must be a class and the index"),
        ("cat,1.0\n", "line 1: must be a class and the index"),
        ("cat,\n", "line 1: must be a class and the index"),
        ("cat,1,2\n", "line 1: must be a class and the index"),
        ("cat\n", "line 1: must be a class and the index"),
        ("cat,99999999\n", "line 1: must be a class and the index"),
        ("class,index\n", "no counterpart for any class of the dataset: cat, dog, cow"),
        ("", "no counterpart for any class"),
    ],
)
def test_files_that_say_something_else_are_refused(tmp_path, text, message):
    with pytest.raises(LabelMapError, match=message.replace("`", ".")):
        network_classes(written(tmp_path, text), CLASSES)


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path):
    with pytest.raises(LabelMapError, match=r"imagenet` or a CSV file, `.*map.csv` cannot be read"):
        network_classes(str(tmp_path / "map.csv"), CLASSES)
    (tmp_path / "map.csv").write_bytes(b"cat,\xff\n")
    with pytest.raises(LabelMapError, match=r"map.csv` cannot be read"):
        network_classes(str(tmp_path / "map.csv"), CLASSES)


def test_imagenet_is_known_by_the_names_of_coco():
    table = network_classes("imagenet", ("person", "zebra", "dog"))
    assert table.shape == (3, 1000)
    assert pairs(table) == [(1, 340), *((2, index) for index in range(151, 269))]
    with pytest.raises(LabelMapError, match="no counterpart for any class of the dataset: gnu"):
        network_classes("imagenet", ("gnu",))


def test_no_class_of_imagenet_counts_as_two_categories():
    indices = [index for known in COCO_IN_IMAGENET.values() for index in known]
    assert len(indices) == len(set(indices))


def test_the_indices_are_those_of_classes_with_these_names(real_data):
    names = (real_data / "weights" / "imagenet_classes.txt").read_text(encoding="utf-8").lower().splitlines()
    parts = {  # where ImageNet's names of the classes do not hold COCO's
        "airplane": ("airliner", "warplane", "wing"), "bicycle": ("bicycle", "bike"), "cat": ("cat",),
        "cell phone": ("cellular phone",), "couch": ("couch",), "cow": ("ox", "buffalo"), "cup": ("cup", "mug"),
        "elephant": ("elephant", "tusker"), "horse": ("horse", "sorrel"), "hot dog": ("hot dog",),
        "laptop": ("laptop", "notebook"), "motorcycle": ("moped", "scooter"), "sheep": ("ram", "sheep"),
        "stop sign": ("street sign",), "tv": ("monitor", "screen", "television"),
        "train": ("train", "locomotive", "passenger car", "streetcar"), "bus": ("bus", "trolley"),
    }  # fmt: skip
    for category, indices in COCO_IN_IMAGENET.items():
        for index in indices if category != "dog" else ():
            assert any(part in names[index] for part in parts.get(category, (category,))), (category, names[index])
    assert names[151] == "chihuahua"  # the dogs of ImageNet stand in one block
    assert names[268] == "mexican hairless"
    assert "wolf" in names[269]


def test_the_table_is_that_of_the_sample_data(real_data):
    spec = importlib.util.spec_from_file_location("sample_data", real_data / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert {name: sorted(known) for name, known in module.COCO2IN.items()} == {
        name: list(known) for name, known in COCO_IN_IMAGENET.items()
    }
