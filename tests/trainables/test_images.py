import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from scipy.stats import chi2_contingency, chisquare
from torchvision import transforms

from tune_sam.trainables.data import cifar10
from tune_sam.trainables.data.images import ImageStore, Places
from tune_sam.trainables.wideresnet import WideResNet

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")),
]
ON_EACH_DEVICE = pytest.mark.parametrize("device", DEVICES)
WIDERESNET = WideResNet()
SETTING = WIDERESNET.settings["cifar10"]
UNLIKELY = 1e-3  # the seeds are fixed, so what passes once passes always
PAD, HEIGHT, WIDTH = 2, 6, 5
PLACES = [(down, right, flip) for down in range(2 * PAD + 1) for right in range(2 * PAD + 1) for flip in (False, True)]


def pictures(count, height=32, width=32, seed=0):
    """Store of images that are brighter at one corner, another one for each image, and of another mean per channel."""
    random = np.random.default_rng(seed)
    slope = random.uniform(-1, 1, (count, 2, 1, 1, 1))
    rows, columns = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[:, None]
    pixels = (
        0.5
        + 0.2 * (slope[:, 0] * rows + slope[:, 1] * columns)
        + np.array([-0.1, 0, 0.1])
        + 0.1 * random.standard_normal((count, height, width, 3))
    )
    return ImageStore(
        torch.from_numpy(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)),
        torch.arange(count) % 10,
        cifar10.MEAN,
        cifar10.STD,
    )


def crop_and_flip(images, pad, border):
    return Places.crop_and_flip(images, pad).taken(images, border)


def cutout(images, size, probability):
    n, channels, height, width = images.shape
    everything = torch.arange(n * height * width, device=images.device).view(n, height, width)
    return Places(everything).cutout(size, probability).taken(images, torch.ones(channels, device=images.device))


def is_channels_last(images):
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


def numbered(count, device="cpu"):
    """Images [count, 3, HEIGHT, WIDTH] of which no two pixels are alike, and a border unlike any of them."""
    images = torch.arange(1.0, 1 + count * 3 * HEIGHT * WIDTH).reshape(count, 3, HEIGHT, WIDTH)
    return images.to(device), torch.tensor([-1.0, -2.0, -3.0], device=device)


def every_crop(image, border):
    """What padding, a crop and perhaps a flip by torchvision can make of an image, in the order of PLACES."""
    padded = torch.cat(
        [TF.pad(channel[None], [PAD] * 4, fill=float(value)) for channel, value in zip(image, border, strict=True)]
    )
    crops = [(TF.crop(padded, down, right, HEIGHT, WIDTH), flip) for down, right, flip in PLACES]
    return torch.stack([TF.hflip(crop) if flip else crop for crop, flip in crops])


def which(images, candidates):
    """For each image the one candidate that it equals."""
    same = (images[:, None] == candidates).flatten(2).all(2)
    assert (same.sum(1) == 1).all()
    return same.int().argmax(1)


# -- the store


def test_a_batch_is_what_torchvisions_transforms_make_of_each_image():
    store = pictures(7, 9, 12)
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(cifar10.MEAN, cifar10.STD)])
    order = [6, 0, 0, 3]
    images, targets = store.batch(torch.tensor(order))
    assert images.dtype == torch.float32
    assert targets.tolist() == order
    expected = torch.stack([theirs(Image.fromarray(store.x[index].numpy())) for index in order])
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-6)


@ON_EACH_DEVICE
def test_images_are_bytes_on_the_device_and_batches_are_channels_last(device):
    store = pictures(20).to(torch.device(device))
    assert store.x.device.type == store.y.device.type == device
    assert store.x.dtype == torch.uint8
    images, targets = store.batch(torch.tensor([3, 1], device=device))
    assert images.device.type == targets.device.type == device
    assert images.shape == (2, 3, 32, 32)
    assert is_channels_last(images)
    expected, _ = pictures(20).batch(torch.tensor([3, 1]))
    torch.testing.assert_close(images.cpu(), expected, rtol=1e-6, atol=1e-6)


def test_a_part_of_a_store_is_normalised_as_the_whole():
    store = pictures(20)
    part = store.subset(torch.tensor([4, 9, 2]))
    assert len(part) == 3
    assert part.x.dtype == torch.uint8
    for ours, theirs in zip(part.batch(torch.tensor([2, 0])), store.batch(torch.tensor([2, 4])), strict=True):
        assert torch.equal(ours, theirs)


# -- shifts and flips


@ON_EACH_DEVICE
def test_each_image_is_one_of_its_own_crops(device):
    images, border = numbered(30, device)
    before = images.clone()
    torch.manual_seed(1)
    found = crop_and_flip(images, PAD, border)
    assert torch.equal(images, before)
    assert found.dtype == images.dtype
    assert is_channels_last(found)
    drawn = {
        int(which(ours[None].cpu(), every_crop(image.cpu(), border.cpu())))
        for ours, image in zip(found, images, strict=True)
    }
    assert len(drawn) > 10, "each image of a batch has a draw of its own"


@ON_EACH_DEVICE
def test_shifts_and_flips_are_as_frequent_as_torchvisions(device):
    images, _ = numbered(1)
    border = torch.zeros(3)
    candidates = every_crop(images[0], border)
    torch.manual_seed(2)
    ours = crop_and_flip(images.to(device).expand(20_000, -1, -1, -1), PAD, border.to(device)).cpu()
    ours = torch.bincount(torch.cat([which(part, candidates) for part in ours.split(2000)]), minlength=len(PLACES))
    assert chisquare(ours).pvalue > UNLIKELY, "all shifts, with and without a flip, are equally likely"
    theirs = transforms.Compose(
        [transforms.RandomCrop((HEIGHT, WIDTH), padding=PAD), transforms.RandomHorizontalFlip()]
    )
    theirs = torch.bincount(
        which(torch.stack([theirs(images[0]) for _ in range(5000)]), candidates), minlength=len(PLACES)
    )
    assert chi2_contingency(torch.stack([ours, theirs])).pvalue > UNLIKELY


def test_draws_of_neighbours_in_a_batch_are_independent():
    images, border = numbered(1)
    torch.manual_seed(3)
    drawn = torch.cat(
        [
            which(crop_and_flip(images.expand(2000, -1, -1, -1), PAD, border), every_crop(images[0], border))
            for _ in range(5)
        ]
    )
    down, right, flip = torch.tensor(PLACES)[drawn].T
    for one, other in [
        (down[::2], down[1::2]),
        (right[::2], right[1::2]),
        (flip[::2], flip[1::2]),
        (down, right),
        (right, flip),
    ]:
        table = torch.zeros(5, 5, dtype=torch.int64).index_put_((one, other), torch.tensor(1), accumulate=True)
        table = table[table.sum(1) > 0][:, table.sum(0) > 0]
        assert chi2_contingency(table).pvalue > UNLIKELY


def test_without_padding_an_image_is_as_it_was_or_mirrored():
    images, border = numbered(200)
    torch.manual_seed(4)
    found = crop_and_flip(images, 0, border)
    flipped = [
        bool(which(ours[None], torch.stack([image, image.flip(2)]))) for ours, image in zip(found, images, strict=True)
    ]
    assert 60 < sum(flipped) < 140


# -- cutout


def reference_cutout(image, size, row, column):
    """DeVries & Taylor's: a square around (row, column), its parts outside the image left away. A changed copy."""
    _, height, width = image.shape
    top, bottom = max(row - size // 2, 0), min(row + size // 2, height)
    left, right = max(column - size // 2, 0), min(column + size // 2, width)
    image = image.clone()
    image[:, top:bottom, left:right] = 0
    return image


@ON_EACH_DEVICE
@pytest.mark.parametrize("probability", [1.0, 0.6])
def test_every_centre_of_a_cut_is_equally_likely(device, probability):
    images, _ = numbered(1)
    centres = [(row, column) for row in range(HEIGHT) for column in range(WIDTH)]
    candidates = torch.stack([reference_cutout(images[0], 4, *centre) for centre in centres] + [images[0]])
    torch.manual_seed(5)
    found = cutout(images.to(device).expand(20_000, -1, -1, -1), 4, probability).cpu()
    counts = torch.bincount(
        torch.cat([which(part, candidates) for part in found.split(2000)]), minlength=len(candidates)
    ).numpy()
    shares = np.array([probability / len(centres)] * len(centres) + [1 - probability])
    assert not counts[shares == 0].any()
    assert chisquare(counts[shares > 0], 20_000 * shares[shares > 0]).pvalue > UNLIKELY


def test_each_place_is_cut_as_often_as_it_should_be():
    n, side, size, probability = 10_000, 32, *(SETTING.augmentation[key] for key in ("cutout", "cutout_probability"))
    torch.manual_seed(6)
    cut = (cutout(torch.ones(n, 1, side, side), size, probability) == 0).float().mean((0, 1))
    covered = [
        sum(max(centre - size // 2, 0) <= place < min(centre + size // 2, side) for centre in range(side)) / side
        for place in range(side)
    ]
    expected = probability * torch.tensor(covered)[:, None] * torch.tensor(covered)
    assert (size, probability) == (16, 0.5)
    assert expected.max() == 0.125
    assert (((cut - expected) / (expected * (1 - expected) / n).sqrt()).abs() < 5).all()


def test_a_cut_takes_all_channels_and_leaves_the_batch_that_it_was_given():
    images = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    torch.manual_seed(7)
    found = cutout(images, 4, 0.5)
    assert torch.equal(images, before)
    assert found.dtype == images.dtype
    assert is_channels_last(found)
    cut = found != images
    assert torch.equal(cut.all(1), cut.any(1))
    assert not found[cut].any()
    assert 10 < cut.flatten(1).any(1).sum() < 40, "some images are cut, some are not"


def test_with_probability_0_nothing_is_cut():
    images = torch.ones(500, 3, 8, 8)
    torch.manual_seed(8)
    assert torch.equal(cutout(images, 4, 0.0), images)


# -- the whole


def test_the_same_seed_makes_the_same_images_as_one_change_after_another():
    """The published runs' numbers: the draws, their order, and what they do to normalised images, bit by bit."""
    store = pictures(60)
    images, _ = store.batch(torch.arange(60))
    mean, std = (255 * torch.tensor(of) for of in (cifar10.MEAN, cifar10.STD))
    assert torch.equal(images, ((store.x - mean) / std).permute(0, 3, 1, 2))
    torch.manual_seed(12)
    found = WIDERESNET.augment(images, SETTING)
    torch.manual_seed(12)
    down, right = torch.randint(-4, 5, (2, 60, 1))
    flip = torch.rand(60, 1) < 0.5
    top, left = (torch.randint(32, (60, 1)) - 8 for _ in range(2))
    cut = torch.rand(60, 1, 1) < 0.5
    black = torch.tensor([-mean / std for mean, std in zip(cifar10.MEAN, cifar10.STD, strict=True)])
    for index, image in enumerate(images):
        padded = black[:, None, None].repeat(1, 40, 40)
        padded[:, 4:36, 4:36] = image
        row, column = 4 + int(down[index]), 4 + int(right[index])
        expected = padded[:, row : row + 32, column : column + 32]
        expected = expected.flip(2) if flip[index] else expected
        if cut[index]:
            expected = reference_cutout(expected, 16, int(top[index]) + 8, int(left[index]) + 8)
        assert torch.equal(found[index], expected)


def reference_augmentation():
    """The report's, image by image, from torchvision's transforms; padding is black."""
    options = SETTING.augmentation

    def cut(image):
        if torch.rand(()) >= options["cutout_probability"]:
            return image
        return reference_cutout(image, options["cutout"], *(int(torch.randint(32, ())) for _ in range(2)))

    return transforms.Compose(
        [
            Image.fromarray,
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(cifar10.MEAN, cifar10.STD),
            cut,
        ]
    )


def differences(ours, theirs):
    """Differences of two samples' means, in standard errors."""
    return (ours.mean(0) - theirs.mean(0)) / (ours.var(0) / len(ours) + theirs.var(0) / len(theirs)).sqrt()


def test_the_augmentation_has_the_statistics_of_torchvisions_transforms():
    assert dict(SETTING.augmentation) == {"pad": 4, "cutout": 16, "cutout_probability": 0.5}
    store, theirs = pictures(25), reference_augmentation()
    torch.manual_seed(9)
    images = torch.stack([theirs(pixels.numpy()) for _ in range(100) for pixels in store.x])
    ours = torch.cat([WIDERESNET.augment(store.batch(torch.arange(25))[0], SETTING) for _ in range(160)])
    for moment in (1, 2):  # mean and standard deviation of each channel
        channels = [sample.pow(moment).mean((2, 3)) for sample in (ours, images)]
        assert (differences(*channels).abs() < 4).all()
    assert (differences(ours, images).abs() < 5.5).all(), "every pixel"
    black = -(torch.tensor(cifar10.MEAN) / torch.tensor(cifar10.STD))[:, None, None]
    for color in (black, torch.zeros(3, 1, 1)):  # what is padded, and what is cut
        shares = [torch.isclose(sample, color, atol=1e-5).all(1).float().mean((1, 2)) for sample in (ours, images)]
        assert shares[1].mean() > 0.05
        assert differences(*shares).abs() < 4


def test_what_is_padded_looks_like_black_pixels():
    store = ImageStore(
        torch.zeros(64, 32, 32, 3, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64), cifar10.MEAN, cifar10.STD
    )
    black, _ = store.batch(torch.arange(64))
    torch.manual_seed(10)
    found = WIDERESNET.augment(black, SETTING)
    left = (found != 0).all(1, keepdim=True).expand_as(found)
    torch.testing.assert_close(found[left], black[left], rtol=1e-6, atol=1e-6)
    assert 0.5 < left.float().mean() < 0.99


@ON_EACH_DEVICE
def test_the_generator_of_the_device_decides(device):
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        np.random.seed(len(results))
        results.append(WIDERESNET.augment(images, SETTING))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
