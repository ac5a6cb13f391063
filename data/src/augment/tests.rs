//! The chain against what OpenCV and Pillow make of the same image (`tests/golden/augment.py`).

use super::*;
use std::collections::BTreeMap;

const REFERENCE: AugmentSpec = AugmentSpec::Reference {
    min_crop: 0.2,
    auto_contrast: Behaviour::Reference,
    enhance: Behaviour::Reference,
    flip: Behaviour::Reference,
    translate: Behaviour::Reference,
};
const FIXED: AugmentSpec = AugmentSpec::Reference {
    min_crop: 0.2,
    auto_contrast: Behaviour::Fixed,
    enhance: Behaviour::Fixed,
    flip: Behaviour::Fixed,
    translate: Behaviour::Fixed,
};

/// The image of the script.
fn image() -> Rgb {
    let pixel = |i: u32| {
        let (x, y) = (i % 24, i / 24);
        let red = 20 + (x * x * 3 + y * 7) % 211;
        [red, (x * 5 + y * y * 11) % 256, (x * y * 13 + 90) % 120].map(|v| v as u8)
    };
    Rgb {
        width: 24,
        height: 17,
        data: (0..24 * 17).flat_map(pixel).collect(),
    }
}

fn golden(name: &str) -> Vec<u8> {
    let all: BTreeMap<String, String> = serde_json::from_str(include_str!("../../tests/golden/augment.json")).unwrap();
    let digits = &all[name];
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn applied(operation: Operation, augment: &AugmentSpec, sign: f32) -> Vec<u8> {
    let mut view = image();
    operation.apply(augment, &mut view, sign);
    view.data
}

#[test]
fn the_script_began_with_this_image() {
    assert_eq!(image().data, golden("image"));
}

#[test]
fn shears_and_turns_are_opencvs_to_the_last_bit() {
    for (operation, name) in [
        (Operation::ShearX, "shear-x"),
        (Operation::ShearY, "shear-y"),
        (Operation::Rotate, "rotate"),
    ] {
        for augment in [&REFERENCE, &FIXED] {
            assert_eq!(
                applied(operation, augment, 1.0),
                golden(&format!("{name}-plus")),
                "{name}"
            );
            assert_eq!(
                applied(operation, augment, -1.0),
                golden(&format!("{name}-minus")),
                "{name}"
            );
        }
    }
}

#[test]
fn translations_are_five_pixels_unless_they_are_fixed() {
    assert_eq!(
        applied(Operation::TranslateX, &REFERENCE, 1.0),
        golden("translate-x-plus")
    );
    assert_eq!(
        applied(Operation::TranslateX, &REFERENCE, -1.0),
        golden("translate-x-minus")
    );
    assert_eq!(
        applied(Operation::TranslateY, &REFERENCE, 1.0),
        golden("translate-y-plus")
    );
    assert_eq!(
        applied(Operation::TranslateY, &REFERENCE, -1.0),
        golden("translate-y-minus")
    );
    assert_eq!(
        applied(Operation::TranslateX, &FIXED, 1.0),
        golden("translate-x-fixed-plus")
    );
    assert_eq!(
        applied(Operation::TranslateX, &FIXED, -1.0),
        golden("translate-x-fixed-minus")
    );
}

#[test]
fn the_references_contrast_whitens_channels_without_black() {
    let broken = applied(Operation::AutoContrast, &REFERENCE, 1.0);
    assert!(broken.iter().step_by(3).all(|&v| v == 255));
    assert_eq!(broken, golden("auto-contrast-reference"));
    assert_eq!(
        applied(Operation::AutoContrast, &FIXED, 1.0),
        golden("auto-contrast-fixed")
    );
}

#[test]
fn equalize_is_pillows() {
    assert_eq!(applied(Operation::Equalize, &REFERENCE, 1.0), golden("equalize"));
}

#[test]
fn brightness_and_sharpness_do_nothing_unless_they_are_fixed() {
    for (operation, name) in [
        (Operation::Brightness, "brightness"),
        (Operation::Sharpness, "sharpness"),
    ] {
        for (sign, direction) in [(1.0, "plus"), (-1.0, "minus")] {
            assert_eq!(applied(operation, &REFERENCE, sign), image().data, "{name}");
            let expected = golden(&format!("{name}-fixed-{direction}"));
            assert_eq!(applied(operation, &FIXED, sign), expected, "{name} {direction}");
        }
    }
}

#[test]
fn a_crop_is_cut_before_it_is_resized() {
    let view = square(&cut(&image(), (3, 2, 17, 13)), 12);
    let expected = golden("crop");
    assert_eq!(view.data.len(), expected.len());
    // The resizer rounds its intermediate rows to other fractions than Pillow.
    let worst = view.data.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst <= Some(1), "{worst:?}");
}

#[test]
fn fixed_flips_spare_texts_that_name_a_side() {
    let plain = AugmentSpec::Reference {
        min_crop: 1.0,
        auto_contrast: Behaviour::Fixed,
        enhance: Behaviour::Reference,
        flip: Behaviour::Fixed,
        translate: Behaviour::Fixed,
    };
    // Keys under which a view is nothing but mirrored.
    let view = |text: &str, seed| apply(&plain, &image(), text, 16, Key::new(seed));
    let mirrored = |seed| {
        let (mut back, aside) = (view("a cat", seed), view("a cat left of a dog", seed));
        mirror(&mut back);
        back == aside && view("a cat", seed) != aside
    };
    let count = (0..200).filter(|&seed| mirrored(seed)).count();
    assert!(count > 20, "{count}");
    assert!((0..200).all(|seed| view("to the right", seed) == view("left", seed)));
    assert!((0..200).all(|seed| view("bright leftovers", seed) == view("a cat", seed)));
}

#[test]
fn a_view_is_a_function_of_its_key() {
    let view = |seed| apply(&REFERENCE, &image(), "", 16, Key::new(seed));
    assert_eq!(view(1), view(1));
    assert!((0..10).any(|seed| view(seed) != view(seed + 1)));
}

#[test]
fn mirroring_twice_changes_nothing() {
    let mut view = image();
    mirror(&mut view);
    assert_ne!(view, image());
    mirror(&mut view);
    assert_eq!(view, image());
}

#[test]
fn crops_lie_within_the_image() {
    for seed in 0..500 {
        let (left, top, w, h) = crop(&image(), 0.2, Key::new(seed));
        assert!(left + w <= 24 && top + h <= 17);
        assert!(f64::from(w * h) >= 0.15 * 24.0 * 17.0);
    }
}
