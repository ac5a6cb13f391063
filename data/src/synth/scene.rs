//! Scenes and the words for them.

use crate::random::Key;
use serde::{Deserialize, Serialize};

/// What a scene is made of; each a position in its list of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scene {
    /// Position in [`Attribute::Size`]'s words.
    pub size: u8,
    /// Position in [`Attribute::Colour`]'s words.
    pub colour: u8,
    /// Position in [`Attribute::Shape`]'s words.
    pub shape: u8,
    /// Position in [`Attribute::Place`]'s words.
    pub place: u8,
    /// Position in [`Attribute::Ground`]'s words.
    pub ground: u8,
}

/// An attribute of a scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// small, large
    Size,
    /// of the shape
    Colour,
    /// square, ring, cross, triangle
    Shape,
    /// of the shape in the image
    Place,
    /// the background's colour
    Ground,
}

impl Attribute {
    /// All attributes.
    pub const ALL: [Self; 5] = [Self::Size, Self::Colour, Self::Shape, Self::Place, Self::Ground];

    /// The name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Colour => "colour",
            Self::Shape => "shape",
            Self::Place => "place",
            Self::Ground => "background",
        }
    }

    /// Its values, each with its synonyms; a word repeated is drawn more often.
    pub const fn words(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Size => &[
                &["small", "small", "little", "tiny"],
                &["large", "large", "big", "huge"],
            ],
            Self::Colour => &[
                &["red"],
                &["green"],
                &["blue"],
                &["yellow"],
                &["purple", "violet"],
                &["orange"],
                &["cyan", "turquoise"],
                &["pink"],
            ],
            Self::Shape => &[
                &["square", "box"],
                &["ring", "donut"],
                &["cross", "plus"],
                &["triangle"],
            ],
            Self::Place => &[&["left"], &["right"], &["top"], &["bottom"], &["centre", "middle"]],
            Self::Ground => &[&["white"], &["black"], &["gray"], &["brown"]],
        }
    }
}

impl Scene {
    /// One of the 1280 scenes, uniformly.
    pub fn random(key: Key) -> Self {
        let pick = |a: Attribute| key.below(a as u64, a.words().len()) as u8;
        Self {
            size: pick(Attribute::Size),
            colour: pick(Attribute::Colour),
            shape: pick(Attribute::Shape),
            place: pick(Attribute::Place),
            ground: pick(Attribute::Ground),
        }
    }

    /// The value of an attribute.
    pub fn get(&self, attribute: Attribute) -> u8 {
        match attribute {
            Attribute::Size => self.size,
            Attribute::Colour => self.colour,
            Attribute::Shape => self.shape,
            Attribute::Place => self.place,
            Attribute::Ground => self.ground,
        }
    }

    fn slot(&mut self, attribute: Attribute) -> &mut u8 {
        match attribute {
            Attribute::Size => &mut self.size,
            Attribute::Colour => &mut self.colour,
            Attribute::Shape => &mut self.shape,
            Attribute::Place => &mut self.place,
            Attribute::Ground => &mut self.ground,
        }
    }

    /// This scene with one attribute changed.
    pub fn with_one_change(mut self, key: Key) -> Self {
        let attribute = *key.choose(0, &Attribute::ALL);
        let values = attribute.words().len();
        let slot = self.slot(attribute);
        *slot = ((*slot as usize + 1 + key.below(1, values - 1)) % values) as u8;
        self
    }

    /// A description that names every attribute, in one of four forms.
    pub fn describe(&self, key: Key) -> String {
        let word = |a: Attribute| *key.choose(10 + a as u64, a.words()[self.get(a) as usize]);
        let (z, c, h) = (word(Attribute::Size), word(Attribute::Colour), word(Attribute::Shape));
        let (p, b) = (word(Attribute::Place), word(Attribute::Ground));
        match key.below(0, 4) {
            0 => format!("a {z} {c} {h} {p} on {b}"),
            1 => format!("{z} {c} {h} at {p} over {b}"),
            2 => format!("on {b} a {z} {c} {h} {p}"),
            _ => format!("{p} a {z} {c} {h} with {b}"),
        }
    }
}

/// The attributes a caption names: for each, the value if exactly one is named, none otherwise.
pub fn parse(caption: &str) -> [Option<u8>; 5] {
    let words: Vec<&str> = caption.split(|c: char| !c.is_alphanumeric()).collect();
    Attribute::ALL.map(|attribute| {
        let values = attribute.words().iter().enumerate();
        let mut named = values.filter(|(_, synonyms)| words.iter().any(|w| synonyms.contains(w)));
        match (named.next(), named.next()) {
            (Some((value, _)), None) => Some(value as u8),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_description_names_its_scene() {
        for i in 0..2000 {
            let key = Key::new(i);
            let scene = Scene::random(key.at(1));
            let named = parse(&scene.describe(key.at(2)));
            assert_eq!(named, Attribute::ALL.map(|a| Some(scene.get(a))));
        }
    }

    #[test]
    fn one_change_changes_one_attribute() {
        for i in 0..2000 {
            let scene = Scene::random(Key::new(i));
            let other = scene.with_one_change(Key::new(i + 5000));
            assert_eq!(
                Attribute::ALL
                    .iter()
                    .filter(|a| scene.get(**a) != other.get(**a))
                    .count(),
                1
            );
        }
    }

    #[test]
    fn a_caption_that_contradicts_itself_names_nothing() {
        assert_eq!(parse("a red blue ring")[1], None);
        assert_eq!(parse("free shipping"), [None; 5]);
    }
}
