"""miniImageNet with the split of Ravi and Larochelle (ICLR 2017): 100 classes of ImageNet, 64/16/20."""

from pathlib import Path

from metazoo.data.image_files import class_folders, load_class_folders
from metazoo.data.images import ImageSet
from metazoo.data.splits import assert_disjoint
from metazoo.errors import DataError, UsageError

_LISTS = {
    "train": """
        n01532829 house finch; n01558993 robin; n01704323 triceratops; n01749939 green mamba; n01770081 harvestman;
        n01843383 toucan; n01910747 jellyfish; n02074367 dugong; n02089867 Walker hound; n02091831 Saluki; n02101006
        Gordon setter; n02105505 komondor; n02108089 boxer; n02108551 Tibetan mastiff; n02108915 French bulldog;
        n02111277 Newfoundland; n02113712 miniature poodle; n02120079 Arctic fox; n02165456 ladybug; n02457408
        three-toed sloth; n02606052 rock beauty; n02687172 aircraft carrier; n02747177 ashcan; n02795169 barrel;
        n02823428 beer bottle; n02966193 carousel; n03017168 chime; n03047690 clog; n03062245 cocktail shaker; n03207743
        dishrag; n03220513 dome; n03337140 file; n03347037 fire screen; n03400231 frying pan; n03476684 hair slide;
        n03527444 holster; n03676483 lipstick; n03838899 oboe; n03854065 organ; n03888605 parallel bars; n03908618
        pencil box; n03924679 photocopier; n03998194 prayer rug; n04067472 reel; n04243546 slot; n04251144 snorkel;
        n04258138 solar dish; n04275548 spider web; n04296562 stage; n04389033 tank; n04435653 tile roof; n04443257
        tobacco shop; n04509417 unicycle; n04515003 upright; n04596742 wok; n04604644 worm fence; n04612504 yawl;
        n06794110 street sign; n07584110 consomme; n07697537 hotdog; n07747607 orange; n09246464 cliff; n13054560
        bolete; n13133613 ear
        """,
    "val": """
        n01855672 goose; n02091244 Ibizan hound; n02114548 white wolf; n02138441 meerkat; n02174001 rhinoceros beetle;
        n02950826 cannon; n02971356 carton; n02981792 catamaran; n03075370 combination lock; n03417042 garbage truck;
        n03535780 horizontal bar; n03584254 iPod; n03770439 miniskirt; n03773504 missile; n03980874 poncho; n09256479
        coral reef
        """,
    "test": """
        n01930112 nematode; n01981276 king crab; n02099601 golden retriever; n02110063 malamute; n02110341 dalmatian;
        n02116738 African hunting dog; n02129165 lion; n02219486 ant; n02443484 black-footed ferret; n02871525 bookshop;
        n03127925 crate; n03146219 cuirass; n03272010 electric guitar; n03544143 hourglass; n03775546 mixing bowl;
        n04146614 school bus; n04149813 scoreboard; n04418357 theater curtain; n04522168 vase; n07613480 trifle
        """,
}
CLASSES: dict[str, dict[str, str]] = {
    part: dict(entry.split(" ", 1) for entry in " ".join(text.split()).split("; ")) for part, text in _LISTS.items()
}
"""WordNet ids of the classes of each part, with their first names in ImageNet."""

_SIDE = 84


def load_mini_imagenet(root: Path, part: str, side: int | None = None) -> ImageSet:
    """Read one part from class folders; all their images are used, in the order of their names.

    A folder named by a WordNet id gives the class name `n01532829 house finch`, any other folder its own name.

    Args:
        root: folder that contains `train`, `val` and `test` with class folders, or one folder for each WordNet id
            (folders of other classes, such as the rest of ImageNet, are ignored).
        part: `train`, `val` or `test`.
        side: side of the images in pixels; None for 84.

    Raises:
        UsageError: `root` has neither form.
        DataError: the classes are not those of the published split, a class is missing, has no image or is in two
            parts, or an image cannot be read.
    """
    folders = _split_folders(root, part) if (root / part).is_dir() else _published_folders(root, part)
    known = CLASSES[part]
    names = [f"{folder.name} {known[folder.name]}" if folder.name in known else folder.name for folder in folders]
    return load_class_folders(folders, names, _SIDE if side is None else side, f"mini-imagenet-{part}")


def _split_folders(root: Path, part: str) -> list[Path]:
    parts = {name: class_folders(root / name) for name in CLASSES if (root / name).is_dir()}
    assert_disjoint(*([folder.name for folder in folders] for folders in parts.values()))
    folders, wanted = parts[part], len(CLASSES[part])
    if len(folders) != wanted:
        problem = f"has {len(folders)} class folders, not the {wanted} of mini-imagenet/{part}"
        raise DataError(root / part, problem, f"give {root / part} itself if it is your own data set")
    for folder in folders:
        other = next((name for name, classes in CLASSES.items() if folder.name in classes), part)
        if other != part:
            remedy = f"move it there, or give {root / part} itself if the split is your own"
            raise DataError(folder, f"belongs to {other} in the published split", remedy)
    return folders


def _published_folders(root: Path, part: str) -> list[Path]:
    folders = [root / wnid for wnid in CLASSES[part]]
    missing = [folder for folder in folders if not folder.is_dir()]
    if len(missing) == len(folders):
        remedy = f"give a folder with train, val and test, or with WordNet ids such as {folders[0].name}"
        raise UsageError(root, "not miniImageNet", remedy)
    if missing:
        problem = f"lacks {len(missing)} of {len(folders)} classes, such as {missing[0].name}"
        raise DataError(root, problem, "add them")
    return folders
