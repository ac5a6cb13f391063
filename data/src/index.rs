//! What can be read in a shard, found before anything is trained on it.
//!
//! Every image is decoded and every caption cleaned once, when the dataset version is made. Broken samples are listed with a
//! reason and left out; while training nothing is skipped.

use crate::shards::{self, Extent, MAX_IMAGE_BYTES, MAX_TEXT_BYTES, Member};
use crate::text::{WordCounts, clean, words};
use crate::{decode, shards::Error};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// Why a sample is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The image cannot be decoded.
    BrokenImage,
    /// Nothing is left of the caption after cleaning.
    EmptyCaption,
    /// The caption is not UTF-8.
    UnreadableCaption,
    /// There is a caption but no image.
    MissingImage,
    /// There is an image but no caption.
    MissingCaption,
    /// A member is larger than any sample should be.
    TooLarge,
    /// The archive ends, or is damaged, within a member; what follows is lost.
    BrokenArchive,
}

impl Reason {
    /// The name used in counts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BrokenImage => "broken-image",
            Self::EmptyCaption => "empty-caption",
            Self::UnreadableCaption => "unreadable-caption",
            Self::MissingImage => "missing-image",
            Self::MissingCaption => "missing-caption",
            Self::TooLarge => "too-large",
            Self::BrokenArchive => "broken-archive",
        }
    }
}

/// A readable sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Its key in the shard.
    pub key: String,
    /// Where its image lies.
    pub image: Extent,
    /// What tells its image from others: a hash of the image's bytes, never 0. Texts of one image share it, be they in
    /// one shard or in several.
    pub identity: u64,
    /// Its cleaned caption.
    pub text: String,
}

/// A sample that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Its key in the shard.
    pub key: String,
    /// Why.
    pub reason: Reason,
    /// More about it.
    pub detail: String,
}

/// The index of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardIndex {
    /// Size of the file: a shard that changed is noticed.
    pub size_bytes: u64,
    /// BLAKE3 of the file.
    pub blake3: String,
    /// Readable samples, in order.
    pub samples: Vec<Sample>,
    /// The others, in order.
    pub broken: Vec<Broken>,
    /// Words of the readable captions.
    pub words: WordCounts,
}

/// Members of one sample.
#[derive(Default)]
struct Parts {
    image: Option<Extent>,
    text: Option<Extent>,
}

/// Reads every sample of a shard. `progress` is told (done, total).
///
/// # Errors
/// [`Error::Io`] if the file cannot be read at all.
pub fn build(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<ShardIndex, Error> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let found = shards::members(path)?;
    let mut file = File::open(path).map_err(io)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).map_err(io)?;
    let mut index = ShardIndex {
        size_bytes: file.metadata().map_err(io)?.len(),
        blake3: hasher.finalize().to_string(),
        samples: Vec::new(),
        broken: Vec::new(),
        words: WordCounts::new(),
    };
    let groups = group(&found.members);
    let total = groups.len() as u64;
    for (i, (key, parts)) in groups.into_iter().enumerate() {
        match sample(&mut file, &key, &parts) {
            Ok(sample) => {
                for word in words(&sample.text) {
                    *index.words.entry(word).or_default() += 1;
                }
                index.samples.push(sample);
            }
            Err((reason, detail)) => index.broken.push(Broken { key, reason, detail }),
        }
        progress(i as u64 + 1, total);
    }
    if let Some(detail) = found.broken {
        index.broken.push(Broken {
            key: String::new(),
            reason: Reason::BrokenArchive,
            detail,
        });
    }
    Ok(index)
}

/// Members by key, in order of first appearance.
fn group(members: &[Member]) -> Vec<(String, Parts)> {
    let mut groups: Vec<(String, Parts)> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for member in members {
        let at = *places.entry(&member.key).or_insert_with(|| {
            groups.push((member.key.clone(), Parts::default()));
            groups.len() - 1
        });
        match member.extension.as_str() {
            "jpg" | "jpeg" => groups[at].1.image = Some(member.extent),
            "txt" => groups[at].1.text = Some(member.extent),
            _ => {}
        }
    }
    groups
}

fn sample(file: &mut File, key: &str, parts: &Parts) -> Result<Sample, (Reason, String)> {
    let image = parts
        .image
        .ok_or_else(|| (Reason::MissingImage, "there is no .jpg".to_owned()))?;
    let text = parts
        .text
        .ok_or_else(|| (Reason::MissingCaption, "there is no .txt".to_owned()))?;
    if image.len > MAX_IMAGE_BYTES || text.len > MAX_TEXT_BYTES {
        return Err((
            Reason::TooLarge,
            format!("image {} bytes, text {} bytes", image.len, text.len),
        ));
    }
    let archive = |error: std::io::Error| (Reason::BrokenArchive, error.to_string());
    let caption = String::from_utf8(shards::read(file, text).map_err(archive)?)
        .map_err(|error| (Reason::UnreadableCaption, error.to_string()))?;
    let caption = clean(&caption);
    if caption.is_empty() {
        return Err((Reason::EmptyCaption, String::new()));
    }
    let bytes = shards::read(file, image).map_err(archive)?;
    decode::jpeg(&bytes).map_err(|error| (Reason::BrokenImage, error.to_string()))?;
    Ok(Sample {
        key: key.to_owned(),
        image,
        identity: identity(&bytes),
        text: caption,
    })
}

fn identity(image: &[u8]) -> u64 {
    let hash = blake3::hash(image);
    let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Rgb, encode};

    #[test]
    fn broken_samples_are_listed_with_their_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.tar");
        let jpeg = encode(&Rgb {
            width: 8,
            height: 8,
            data: vec![9; 192],
        });
        let files: Vec<(&str, &[u8])> = vec![
            ("0.jpg", &jpeg),
            ("0.txt", b"A red ring."),
            ("1.jpg", b"not a jpeg"),
            ("1.txt", b"a cat"),
            ("2.jpg", &jpeg),
            ("2.txt", b" . "),
            ("3.jpg", &jpeg),
            ("4.txt", b"a dog"),
            ("5.jpg", &jpeg),
            ("5.txt", b"\xff\xfe"),
        ];
        shards::write(&path, files.into_iter().map(|(n, b)| (n.to_owned(), b))).unwrap();
        let index = build(&path, &mut |_, _| {}).unwrap();
        assert_eq!(index.samples.len(), 1);
        assert_eq!(index.samples[0].text, "a red ring");
        assert_eq!(index.words["red"], 1);
        let reasons: Vec<Reason> = index.broken.iter().map(|b| b.reason).collect();
        use Reason::{BrokenImage, EmptyCaption, MissingCaption, MissingImage, UnreadableCaption};
        assert_eq!(
            reasons,
            [
                BrokenImage,
                EmptyCaption,
                MissingCaption,
                MissingImage,
                UnreadableCaption
            ]
        );
    }

    #[test]
    fn samples_with_the_same_image_share_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let jpeg = |shade: u8| {
            encode(&Rgb {
                width: 8,
                height: 8,
                data: vec![shade; 192],
            })
        };
        let (dark, light) = (jpeg(9), jpeg(200));
        let index = |name: &str, images: [&[u8]; 2]| {
            let path = dir.path().join(name);
            let texts: [&[u8]; 2] = [b"a ring", b"a disc"];
            let files = (0..2).flat_map(|i| [(format!("{i}.jpg"), images[i]), (format!("{i}.txt"), texts[i])]);
            shards::write(&path, files).unwrap();
            let samples = build(&path, &mut |_, _| {}).unwrap().samples;
            samples.iter().map(|sample| sample.identity).collect::<Vec<_>>()
        };
        let (first, second) = (index("a.tar", [&dark, &light]), index("b.tar", [&dark, &dark]));
        assert_eq!(second, [first[0]; 2]);
        assert!(first[0] != first[1] && !first.contains(&0));
    }

    #[test]
    fn a_truncated_archive_is_one_broken_entry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.tar");
        let jpeg = encode(&Rgb {
            width: 8,
            height: 8,
            data: vec![9; 192],
        });
        let files: Vec<(&str, &[u8])> = vec![
            ("0.jpg", &jpeg),
            ("0.txt", b"a ring"),
            ("1.jpg", &jpeg),
            ("1.txt", b"a box"),
        ];
        shards::write(&path, files.into_iter().map(|(n, b)| (n.to_owned(), b))).unwrap();
        let size = std::fs::metadata(&path).unwrap().len();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(size - 1024 - 512 - 400)
            .unwrap();
        let index = build(&path, &mut |_, _| {}).unwrap();
        assert_eq!(index.samples.len(), 1);
        assert!(index.broken.iter().any(|b| b.reason == Reason::BrokenArchive));
    }
}
