//! Drawing a scene: at four times the size without antialiasing, then reduced by Lanczos.

use super::scene::Scene;
use crate::decode::{Rgb, resize};
use crate::random::Key;
use fast_image_resize::FilterType;

/// Side of the drawn image in pixels.
pub(super) const SIDE: u32 = 32;
/// Drawn at this multiple.
const OVERSAMPLE: u32 = 4;

const COLOURS: [[f64; 3]; 8] = [
    [214.0, 40.0, 40.0],
    [40.0, 160.0, 60.0],
    [40.0, 70.0, 210.0],
    [240.0, 210.0, 40.0],
    [130.0, 50.0, 170.0],
    [240.0, 130.0, 30.0],
    [50.0, 200.0, 210.0],
    [245.0, 130.0, 180.0],
];
const GROUNDS: [[f64; 3]; 4] = [[245.0; 3], [20.0; 3], [128.0; 3], [110.0, 70.0, 35.0]];
const CENTRES: [(f64, f64); 5] = [(0.25, 0.5), (0.75, 0.5), (0.5, 0.25), (0.5, 0.75), (0.5, 0.5)];
/// Every colour channel varies by this much.
const COLOUR_JITTER: f64 = 14.0;
/// Centres vary by this share of the side.
const PLACE_JITTER: f64 = 0.015;

/// The image of a scene; `key` varies colours, place and radius within the scene's bounds.
pub fn draw(scene: &Scene, key: Key) -> Rgb {
    let side = SIDE * OVERSAMPLE;
    let colour = jitter(COLOURS[scene.colour as usize], key.at(0));
    let ground = jitter(GROUNDS[scene.ground as usize], key.at(1));
    let (cx, cy) = CENTRES[scene.place as usize];
    let cx = cx + key.between(10, -PLACE_JITTER, PLACE_JITTER);
    let cy = cy + key.between(11, -PLACE_JITTER, PLACE_JITTER);
    let radius = if scene.size == 0 {
        key.between(12, 0.15, 0.17)
    } else {
        key.between(12, 0.235, 0.255)
    };
    let mut data = Vec::with_capacity((side * side * 3) as usize);
    for i in 0..side * side {
        let at = |v: u32| (f64::from(v) + 0.5) / f64::from(side);
        let inside = covers(scene.shape, (at(i % side) - cx) / radius, (at(i / side) - cy) / radius);
        data.extend_from_slice(if inside { &colour } else { &ground });
    }
    let large = Rgb {
        width: side,
        height: side,
        data,
    };
    resize(
        &large,
        (0.0, 0.0, f64::from(side), f64::from(side)),
        SIDE,
        FilterType::Lanczos3,
    )
}

fn jitter(colour: [f64; 3], key: Key) -> [u8; 3] {
    std::array::from_fn(|c| (colour[c] + key.between(c as u64, -COLOUR_JITTER, COLOUR_JITTER)).clamp(0.0, 255.0) as u8)
}

/// Whether a point, relative to the centre and in radii, belongs to the shape.
fn covers(shape: u8, x: f64, y: f64) -> bool {
    match shape {
        0 => x.abs() <= 0.88 && y.abs() <= 0.88,
        1 => (0.55 * 0.55..=1.0).contains(&(x * x + y * y)),
        2 => (x.abs() <= 0.32 && y.abs() <= 1.0) || (y.abs() <= 0.32 && x.abs() <= 1.0),
        // Apex (0, −1.05), base from (−1, 0.8) to (1, 0.8).
        _ => (-1.05..=0.8).contains(&y) && x.abs() <= (y + 1.05) / 1.85,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_centre_pixel_shows_the_shape_and_the_corner_the_ground() {
        let scene = Scene {
            size: 1,
            colour: 0,
            shape: 0,
            place: 4,
            ground: 1,
        };
        let image = draw(&scene, Key::new(1));
        let pixel = |x: u32, y: u32| &image.data[((y * SIDE + x) * 3) as usize..][..3];
        assert!(pixel(16, 16)[0] > 180 && pixel(16, 16)[1] < 70);
        assert!(pixel(1, 1).iter().all(|&v| v < 50));
    }

    #[test]
    fn a_ring_has_a_hole() {
        let scene = Scene {
            size: 1,
            colour: 0,
            shape: 1,
            place: 4,
            ground: 0,
        };
        let image = draw(&scene, Key::new(1));
        assert!(image.data[((16 * SIDE + 16) * 3 + 1) as usize] > 200);
    }
}
