//! From the bytes of an image file to pixels.

mod memory;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{CpuExtensions, FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use std::io::Cursor;

/// Longest side accepted, in pixels.
const MAX_SIDE: u32 = 16_384;

/// CLIP's channel means, which the reference normalises with.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// CLIP's channel deviations.
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// An image, rows of RGB bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// height × width × 3.
    pub data: Vec<u8>,
}

/// Bytes that are no readable image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a readable {format}: {cause}")]
pub struct Undecodable {
    format: &'static str,
    cause: String,
}

/// Decodes a JPEG of bounded size.
///
/// # Errors
/// [`Undecodable`] with the decoder's reason.
pub fn jpeg(bytes: &[u8]) -> Result<Rgb, Undecodable> {
    let decoded = decode(bytes, ImageFormat::Jpeg);
    decoded.map_err(|cause| Undecodable { format: "JPEG", cause })
}

/// Decodes a JPEG or PNG of bounded size, whichever its first bytes say it is.
///
/// # Errors
/// [`Undecodable`] with the decoder's reason.
pub fn image(bytes: &[u8]) -> Result<Rgb, Undecodable> {
    let guessed = image::guess_format(bytes).map_err(|e| e.to_string());
    let decoded = guessed.and_then(|format| decode(bytes, format));
    let format = "JPEG or PNG";
    decoded.map_err(|cause| Undecodable { format, cause })
}

fn decode(bytes: &[u8], format: ImageFormat) -> Result<Rgb, String> {
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(memory::MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    memory::check(bytes, format, &decoder)?;
    limits.reserve(decoder.total_bytes()).map_err(|e| e.to_string())?;
    decoder.set_limits(limits).map_err(|e| e.to_string())?;
    let image = DynamicImage::from_decoder(decoder)
        .map_err(|e| e.to_string())?
        .into_rgb8();
    let (width, height) = image.dimensions();
    if width == 0 || height == 0 {
        return Err("it has no pixels".into());
    }
    Ok(Rgb {
        width,
        height,
        data: image.into_raw(),
    })
}

/// Encodes a JPEG of quality 85.
///
/// # Panics
/// Never: memory takes any JPEG.
pub fn encode(image: &Rgb) -> Vec<u8> {
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 85)
        .encode(&image.data, image.width, image.height, image::ExtendedColorType::Rgb8)
        .expect("encoding to memory cannot fail");
    bytes
}

/// Resizes a region (left, top, width, height; in pixels, fractions allowed) to a square, bicubic with antialiasing as
/// Pillow does it.
///
/// Without SIMD: the library's paths for different CPUs round differently, and pixels must not depend on the machine.
///
/// # Panics
/// Never for a region within the image.
pub fn resize(image: &Rgb, region: (f64, f64, f64, f64), side: u32, filter: FilterType) -> Rgb {
    let source = ImageRef::new(image.width, image.height, &image.data, PixelType::U8x3)
        .expect("an RGB image has three bytes a pixel");
    let mut target = Image::new(side, side, PixelType::U8x3);
    let mut resizer = Resizer::new();
    #[expect(unsafe_code, reason = "the plain path needs no CPU feature")]
    // SAFETY: `None` uses no instruction that a CPU could lack.
    unsafe {
        resizer.set_cpu_extensions(CpuExtensions::None);
    }
    let (left, top, width, height) = region;
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(filter))
        .crop(left, top, width, height);
    resizer
        .resize(&source, &mut target, &options)
        .expect("the region lies within the image");
    Rgb {
        width: side,
        height: side,
        data: target.into_vec(),
    }
}

/// The whole image as a square: the reference's chain for evaluation.
pub fn square(image: &Rgb, side: u32) -> Rgb {
    if (image.width, image.height) == (side, side) {
        return image.clone();
    }
    resize(
        image,
        (0.0, 0.0, f64::from(image.width), f64::from(image.height)),
        side,
        FilterType::CatmullRom,
    )
}

/// Normalised channels.
///
/// # Shapes
/// h × w × 3 → 3 × h × w
pub fn normalise(image: &Rgb, to: &mut [f32]) {
    let plane = (image.width * image.height) as usize;
    for (channel, to) in to.chunks_exact_mut(plane).enumerate() {
        for (v, pixel) in to.iter_mut().zip(image.data.chunks_exact(3)) {
            *v = (f32::from(pixel[channel]) / 255.0 - MEAN[channel]) / DEVIATION[channel];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::ImageEncoder;

    fn gradient() -> Rgb {
        let data = (0..64 * 48)
            .flat_map(|i| [(i % 64 * 4) as u8, (i / 64 * 5) as u8, 100])
            .collect();
        Rgb {
            width: 64,
            height: 48,
            data,
        }
    }

    #[test]
    fn a_jpeg_survives_the_round_trip_nearly() {
        let image = gradient();
        let back = jpeg(&encode(&image)).unwrap();
        assert_eq!((back.width, back.height), (64, 48));
        let worst = image
            .data
            .iter()
            .zip(&back.data)
            .map(|(a, b)| a.abs_diff(*b))
            .max()
            .unwrap();
        assert!(worst < 24, "{worst}");
    }

    #[test]
    fn broken_bytes_are_an_error() {
        let mut bytes = encode(&gradient());
        assert!(jpeg(b"no image").is_err());
        bytes.truncate(40);
        assert!(jpeg(&bytes).is_err());
    }

    #[test]
    fn what_an_image_is_is_told_by_its_bytes() {
        let original = gradient();
        let mut png = Vec::new();
        image::codecs::png::PngEncoder::new(&mut png)
            .write_image(&original.data, 64, 48, image::ExtendedColorType::Rgb8)
            .unwrap();
        assert_eq!(super::image(&png).unwrap(), original);
        let jpeg_bytes = encode(&original);
        assert_eq!(super::image(&jpeg_bytes), jpeg(&jpeg_bytes));
        for broken in [&png[..40], b"GIF89a", b""] {
            let error = super::image(broken).unwrap_err().to_string();
            assert!(error.starts_with("not a readable JPEG or PNG"), "{error}");
        }
    }

    #[test]
    fn an_image_that_claims_too_many_pixels_is_not_decoded() {
        let mut png = Vec::new();
        let row = vec![0; 3 * (MAX_SIDE as usize + 1)];
        image::codecs::png::PngEncoder::new(&mut png)
            .write_image(&row, MAX_SIDE + 1, 1, image::ExtendedColorType::Rgb8)
            .unwrap();
        assert!(super::image(&png).is_err());
    }

    #[test]
    fn pixels_are_normalised_channel_by_channel() {
        let image = Rgb {
            width: 1,
            height: 2,
            data: vec![255, 0, 0, 0, 255, 0],
        };
        let mut pixels = [0.0; 6];
        normalise(&image, &mut pixels);
        let normal = |v: f32, channel: usize| (v - MEAN[channel]) / DEVIATION[channel];
        let expected = [(1.0, 0), (0.0, 0), (0.0, 1), (1.0, 1), (0.0, 2), (0.0, 2)].map(|(v, c)| normal(v, c));
        assert_eq!(pixels, expected);
    }

    #[test]
    fn squares_keep_flat_colours() {
        let image = Rgb {
            width: 30,
            height: 10,
            data: [10, 200, 77].repeat(300),
        };
        assert!(square(&image, 16).data.chunks(3).all(|p| p == [10, 200, 77]));
    }
}
