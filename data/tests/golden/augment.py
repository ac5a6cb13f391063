"""Writes augment.json: what OpenCV and Pillow make of a small image with the operations of the training chain.

    pip install "opencv-python-headless==4.8.1.78" "numpy<2" pillow
    python augment.py > augment.json

The image is the one of `image()` in `data/tests/augment.rs`. Images are rows of RGB bytes in hexadecimal digits.
"""

import json
import math

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

WIDTH, HEIGHT = 24, 17
FILL = (128, 128, 128)


def image():
    data = bytearray()
    for i in range(WIDTH * HEIGHT):
        x, y = i % WIDTH, i // WIDTH
        data += bytes([20 + (x * x * 3 + y * 7) % 211, (x * 5 + y * y * 11) % 256, (x * y * 13 + 90) % 120])
    return np.frombuffer(bytes(data), np.uint8).reshape(HEIGHT, WIDTH, 3)


def warped(matrix):
    """A forward affine map, bilinear, with grey coming in."""
    return cv2.warpAffine(image(), np.asarray(matrix), (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderValue=FILL)


def f32(*rows):
    return np.float32(rows)


def main():
    pil = Image.fromarray(image())
    results = {"image": image()}
    for name, sign in [("plus", 1), ("minus", -1)]:
        results[f"shear-x-{name}"] = warped(f32([1, sign * 0.15, 0], [0, 1, 0]))
        results[f"shear-y-{name}"] = warped(f32([1, 0, 0], [sign * 0.15, 1, 0]))
        results[f"translate-x-{name}"] = warped(f32([1, 0, -sign * 5], [0, 1, 0]))
        results[f"translate-y-{name}"] = warped(f32([1, 0, 0], [0, 1, -sign * 5]))
        # As at 224 pixels: 5 / 224 of the width.
        results[f"translate-x-fixed-{name}"] = warped(f32([1, 0, -sign * 5 * WIDTH / 224], [0, 1, 0]))
        turn = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), sign * 15, 1)
        results[f"rotate-{name}"] = warped(turn)
        results[f"brightness-fixed-{name}"] = ImageEnhance.Brightness(pil).enhance(1 + sign * 0.45)
        results[f"sharpness-fixed-{name}"] = ImageEnhance.Sharpness(pil).enhance(1 + sign * 0.45)
    results["auto-contrast-fixed"] = ImageOps.autocontrast(pil)
    results["equalize"] = ImageOps.equalize(pil)
    # As released: the minimum is negated as an unsigned byte.
    broken = image().copy()
    for channel in range(3):
        values = broken[..., channel]
        low, high = values.min(), values.max()
        scale = 255 / (int(high) - int(low))
        table = np.arange(256) * scale + int(np.uint8(-low.astype(np.int16) % 256)) * scale
        broken[..., channel] = np.clip(table, 0, 255).astype(np.uint8)[values]
    results["auto-contrast-reference"] = broken
    results["crop"] = pil.crop((3, 2, 20, 15)).resize((12, 12), Image.BICUBIC)
    texts = {name: np.asarray(result).tobytes().hex() for name, result in results.items()}
    print(json.dumps(texts, indent=0))


if __name__ == "__main__":
    assert math.isclose(0.5 * 1.8 + 0.1, 1.0)  # the factor at which brightness and sharpness do nothing
    main()
