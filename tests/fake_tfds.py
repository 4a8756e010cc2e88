"""Datasets as `tfds build NAME --file_format=array_record` leaves them, with made-up pictures."""

import io
import json

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

_FEATURES = "tensorflow_datasets.core.features.{}"
_OMNIGLOT_SIDE = 105
# Two of the first split's alphabets are in the second too, as in Omniglot's own.
OMNIGLOT = {
    "small1": {"Greek": range(0, 3), "Korean": range(3, 12), "Latin": range(12, 22)},
    "small2": {"Greek": range(0, 3), "Latin": range(12, 22), "Tagalog": range(22, 27)},
}
NUM_DRAWINGS = 4  # of each character


def write(data_dir, name, version, splits, *, shape, integers):
    """Writes a dataset of PNG pictures with some integers beside each.

    Args:
      data_dir: TFDS's data folder.
      name: of the dataset.
      version: of the dataset, "1.2.3".
      splits: `{split: [(PIL image, {name: integer}), ...]}`.
      shape: of the pictures, as TFDS would give them.
      integers: `{name: number of classes}`, None for a plain integer.

    Returns:
      The dataset's folder.
    """
    folder = data_dir / name / version
    folder.mkdir(parents=True)
    entries = []
    for split, records in splits.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for image, values in records:
            png = io.BytesIO()
            image.save(png, "PNG")
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(png.getvalue())
            for key, value in values.items():
                example.features.feature[key].int64_list.value.append(int(value))
            writer.write(example.SerializeToString())
        writer.close()
        entries.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": str(path.stat().st_size),
                "shardLengths": [str(len(records))],
            }
        )
    info = {"fileFormat": "array_record", "name": name, "splits": entries, "version": version}
    module = f"tensorflow_datasets.image_classification.{name}"
    (folder / "dataset_info.json").write_text(json.dumps(info | {"moduleName": module}))
    features = {
        "image": {
            "image": {"dtype": "uint8", "shape": {"dimensions": [str(side) for side in shape]}},
            "pythonClassName": _FEATURES.format("image_feature.Image"),
        }
    }
    for key, num_classes in integers.items():
        features[key] = (
            {
                "tensor": {"dtype": "int64", "encoding": "none", "shape": {}},
                "pythonClassName": _FEATURES.format("tensor_feature.Tensor"),
            }
            if num_classes is None
            else {
                "classLabel": {"numClasses": str(num_classes)},
                "pythonClassName": _FEATURES.format("class_label_feature.ClassLabel"),
            }
        )
    (folder / "features.json").write_text(
        json.dumps(
            {
                "featuresDict": {"features": features},
                "pythonClassName": _FEATURES.format("features_dict.FeaturesDict"),
            }
        )
    )
    return folder


def write_mnist(data_dir, *, train, test, version="3.0.1"):
    """Writes MNIST, `train` and `test` being pairs of images `[M, 28, 28]` and labels."""
    splits = {
        split: [(Image.fromarray(i), {"label": n}) for i, n in zip(*digits, strict=True)]
        for split, digits in (("train", train), ("test", test))
    }
    return write(data_dir, "mnist", version, splits, shape=(28, 28, 1), integers={"label": 10})


def glyph(character, drawing):
    """Ink of a made-up character, bool `[105, 105]`: two thick strokes, jittered by drawing."""
    rng = np.random.default_rng([character, drawing])
    row, column = 15 + (np.array([character * 7, character * 11]) % 60) + rng.integers(-2, 3, 2)
    ink = np.zeros((_OMNIGLOT_SIDE, _OMNIGLOT_SIDE), bool)
    ink[row : row + 3, 20:80] = True
    ink[25:85, column : column + 3] = True
    return ink


def write_omniglot(data_dir, alphabets=OMNIGLOT, *, version="3.0.0"):
    """Writes the small splits of an Omniglot whose characters are `glyph`s, in mixed order.

    Args:
      data_dir: TFDS's data folder.
      alphabets: `{split: {alphabet: characters}}`.
      version: of the dataset.
    """
    names = sorted({name for split in alphabets.values() for name in split})
    splits = {}
    for split, characters_of in alphabets.items():
        records = [
            (
                Image.fromarray(~glyph(character, drawing)),
                {
                    "label": character,
                    "alphabet": names.index(name),
                    "alphabet_char_id": character - characters[0],
                },
            )
            for name, characters in characters_of.items()
            for character in characters
            for drawing in range(NUM_DRAWINGS)
        ]
        order = np.random.default_rng(0).permutation(len(records))
        splits[split] = [records[i] for i in order]
    folder = write(
        data_dir,
        "omniglot",
        version,
        splits,
        shape=(_OMNIGLOT_SIDE, _OMNIGLOT_SIDE, 3),
        integers={"label": 1623, "alphabet": len(names), "alphabet_char_id": None},
    )
    (folder / "alphabet.labels.txt").write_text("\n".join(names))
    return folder
