//! What the decoding of an image takes in memory, told before it begins.
//!
//! Most images are decoded row by row into their pixels. A progressive JPEG is not, nor is one whose components lie in scans of
//! their own: the decoder keeps all coefficients until the last scan is read, two bytes for each pixel of each component.

use image::{ImageDecoder, ImageFormat};

/// Most bytes that decoding an image may take.
pub(super) const MAX_BYTES: u64 = 512 << 20;
/// Components of a JPEG at most.
const MAX_COMPONENTS: u8 = 4;
/// Sides of the blocks in which coefficients are kept are a multiple of the image's and at most this much larger.
const LARGEST_BLOCK: u32 = 32;

/// Refuses an image that takes too much.
pub(super) fn check(bytes: &[u8], format: ImageFormat, decoder: &impl ImageDecoder) -> Result<(), String> {
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    let decoded = decoder.total_bytes();
    // What is not three bytes a pixel already is made so.
    let rgb = if decoded == 3 * pixels { 0 } else { 3 * pixels };
    let [across, down] = [width, height].map(|side| u64::from(side.next_multiple_of(LARGEST_BLOCK)));
    let of_component = 2 * across * down;
    let is_doubtful = decoded + rgb + u64::from(MAX_COMPONENTS) * of_component > MAX_BYTES;
    let kept = match format {
        ImageFormat::Jpeg if is_doubtful => u64::from(kept_components(bytes)) * of_component,
        _ => 0,
    };
    let needed = decoded + rgb + kept;
    if needed <= MAX_BYTES {
        return Ok(());
    }
    let why = if kept > 0 {
        " with all their coefficients, as a progressive JPEG needs"
    } else {
        ""
    };
    Err(format!(
        "its {width} × {height} pixels take {} MiB{why}, and {} MiB at most are allowed",
        needed.div_ceil(1 << 20),
        MAX_BYTES >> 20
    ))
}

/// Components of a JPEG whose coefficients are kept: all or none.
///
/// Markers are looked for everywhere, also where a decoder would see none. So a file that is made to mislead is not judged
/// more mildly than it is decoded.
fn kept_components(jpeg: &[u8]) -> u8 {
    let possible = |components: &u8| (1..=MAX_COMPONENTS).contains(components);
    let segments = || jpeg.windows(10).filter(|segment| segment[0] == 0xff);
    let frames: Vec<[u8; 2]> = segments()
        .filter(|frame| matches!(frame[1], 0xc0..=0xc2) && possible(&frame[9]))
        .map(|frame| [frame[1], frame[9]])
        .collect();
    let is_progressive = frames.iter().any(|[kind, _]| *kind == 0xc2);
    let mut scans = segments().filter(|scan| scan[1] == 0xda).map(|scan| scan[4]);
    let is_split = scans.any(|in_scan| possible(&in_scan) && frames.iter().any(|[_, all]| *all != in_scan));
    if is_progressive || is_split {
        frames.iter().map(|[_, components]| *components).max().unwrap_or(0)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::ImageReader;
    use std::io::Cursor;

    /// The headers of a JPEG: a table, a frame of this kind, and a scan of so many of its three components.
    fn headers(kind: u8, (width, height): (u16, u16), in_scan: u8) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
        bytes.extend([1; 64]);
        bytes.extend([0xff, kind, 0, 17, 8]);
        bytes.extend(height.to_be_bytes());
        bytes.extend(width.to_be_bytes());
        bytes.push(3);
        bytes.extend((1..=3).flat_map(|id| [id, 0x11, 0]));
        bytes.extend([0xff, 0xda, 0, 6 + 2 * in_scan, in_scan]);
        bytes.extend((1..=in_scan).flat_map(|id| [id, 0]));
        bytes.extend([0, 63, 0]);
        bytes
    }

    fn judge(bytes: &[u8]) -> Result<(), String> {
        let reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Jpeg);
        check(bytes, ImageFormat::Jpeg, &reader.into_decoder().unwrap())
    }

    #[test]
    fn a_jpeg_is_judged_by_what_its_decoder_keeps() {
        let large = (13_300, 13_300);
        judge(&headers(0xc0, large, 3)).unwrap();
        for (kind, in_scan) in [(0xc2, 3), (0xc2, 1), (0xc0, 1)] {
            let error = judge(&headers(kind, large, in_scan)).unwrap_err();
            assert!(
                error.contains("13300 × 13300") && error.contains("512 MiB at most"),
                "{error}"
            );
            judge(&headers(kind, (7_000, 7_000), in_scan)).unwrap();
        }
        let mut misleading = headers(0xc0, large, 3);
        misleading.extend(headers(0xc2, large, 3));
        judge(&misleading).unwrap_err();
    }

    #[test]
    fn shades_count_as_the_colours_that_they_become() {
        let mut grey = headers(0xc0, (16_000, 16_000), 3);
        let frame = grey.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        grey.truncate(frame);
        grey.extend([0xff, 0xc0, 0, 11, 8, 0x3e, 0x80, 0x3e, 0x80, 1, 1, 0x11, 0]);
        grey.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
        let error = judge(&grey).unwrap_err();
        assert!(error.contains("977 MiB,"), "{error}");
    }
}
